"""The verdict in one sentence: a merge against the best single checkpoint and the greedy soup.

They are compared by the average of their gains in steps of each objective's scale, weights included.
Intervals come from a paired cluster bootstrap over items. Letters: m objectives.

Reference: Miller 2024, arXiv 2411.00640 (paired, clustered differences).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycler.front.front import drawn_gains, meeting
from recycler.nouns.evaluation import SPLITS, Outcomes
from recycler.nouns.objectives import Array, Objectives
from recycler.nouns.trial import Trial

SURE = 0.95  # probability from which a difference is stated as a fact
_OPTIMISTIC = {
    "dev": " Optimistic: the search saw these items.",
    "select": " Optimistic: the choice saw these items.",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of the averages of a merge and a rival.

    Attributes:
        trial: number of the rival.
        name: name of the rival, without `single:`.
        difference: merge minus rival, in steps of the objectives' scales; positive is better.
        interval: 95 % bootstrap interval of the difference.
        p_better: share of resampled differences above 0; ties count half.
        below: whether the rival is below a floor on these items and so could not be chosen.
    """

    trial: int
    name: str
    difference: float
    interval: tuple[float, float]
    p_better: float
    below: bool = False

    def phrase(self, rival: str, average: str, said: str = "") -> str:
        """`beats RIVAL by 0.034 [0.021, 0.047] …`, without the verb if it was `said` before."""
        sign = 1.0 if self.difference >= 0 else -1.0
        low, high = sorted(sign * bound for bound in self.interval)
        chance = _chance(self.p_better if sign > 0 else 1.0 - self.p_better)
        verb = "" if self.verb == said else f"{self.verb} "
        rival += ", which is below a floor," if self.below else ""
        sure = f" in the {average} with probability {chance}" if not said else f" ({chance})"
        return f"{verb}{rival} by {sign * self.difference:.3f} [{low:.3f}, {high:.3f}]{sure}"

    @property
    def verb(self) -> str:
        """The verb that the probability supports."""
        if self.difference >= 0:
            return "beats" if self.p_better >= SURE else "is ahead of"
        return "is worse than" if self.p_better <= 1.0 - SURE else "is behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A merge compared with the two alternatives: the best single and the greedy soup.

    Attributes:
        trial: number of the merge.
        role: how it was picked, such as `knee`.
        split: items they are compared on.
        single: comparison with the best single by the same average; None if it is that single.
        best_single: name of that checkpoint.
        greedy: comparison with the greedy soup; None if there is none or it is the soup.
        items: least and most items of an objective; zeros if scores came without items.
        weighted: whether the objectives have different weights.
    """

    trial: int
    role: str
    split: str
    single: Comparison | None
    best_single: str
    greedy: Comparison | None
    items: tuple[int, int]
    weighted: bool

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        average = "scaled, weighted average" if self.weighted else "scaled average"
        text, said = f"Trial {self.trial} ({self.role})", ""
        if self.single is None:
            text += f" is your best single checkpoint itself ({self.best_single})"
        else:
            rival = f"your best single checkpoint ({self.best_single})"
            text, said = f"{text} {self.single.phrase(rival, average)}", self.single.verb
        if self.greedy is not None:
            text += f", and {self.greedy.phrase('the greedy soup', average, said)}"
        low, high = self.items
        if high:
            count = f"{low}" if low == high else f"{low} to {high}"
            text += f", on {count} {self.split} items per task"
        return f"{text}.{_OPTIMISTIC.get(self.split, '')}"

    def to_json(self) -> dict[str, Any]:
        """Return the sentence and its numbers."""
        return {
            "sentence": self.sentence,
            "trial": self.trial,
            "split": self.split,
            "single": _comparison_json(self.single),
            "greedy": _comparison_json(self.greedy),
        }


def verdict(
    pick: Trial,
    role: str,
    singles: Sequence[Trial],
    greedy: Trial | None,
    objectives: Objectives,
    scales: Array,
    outcomes: Callable[[Trial, str], Mapping[str, Outcomes]],
    floors: Callable[[str], Array] = lambda split: np.array(-np.inf),
    seed: int = 0,
) -> Verdict | None:
    """Compare a merge with the best single and the greedy soup on the last split all have scores on.

    For a comparison on test items, the best single is chosen on select items if possible, so that
    neither it nor the merge is chosen on the items that are reported.

    Args:
        pick: the merge.
        role: how it was picked.
        singles: scored single checkpoints.
        greedy: the greedy soup, if there is one.
        objectives: objectives of the study; only the searched ones count.
        scales: (m,) step of each objective.
        outcomes: item outcomes of a trial on a split.
        floors: split -> (m,) smallest gains allowed.
        seed: random seed of the bootstrap.

    Returns:
        None if no split has scores of all of them.
    """
    everyone = [pick, *singles, *([greedy] if greedy else [])]
    common = [s for s in SPLITS if all(s in trial.evaluations for trial in everyone)]
    if not singles or not common:
        return None
    split = common[-1]
    chosen_on = "select" if split == "test" and "select" in common else split

    def averages(trials: Sequence[Trial], on: str) -> Array:
        found: Array = (objectives.gains([t.means(on) for t in trials]) / scales).mean(axis=1)
        return found

    best = singles[int(np.argmax(averages(singles, chosen_on)))]
    rivals = [t for t in (best, greedy) if t is not None and t.number != pick.number]
    row = [pick, *rivals]
    drawn = drawn_gains(
        [outcomes(trial, split) for trial in row],
        [trial.evaluations[split].scores for trial in row],
        objectives,
        seed,
    )
    draws = (drawn / scales).mean(axis=2)  # (draws, 1 + rivals)
    means = averages(row, split)
    met = [True, *meeting(rivals, objectives, split, floors(split))]
    compared = {
        trial.number: _compared(
            trial, float(means[0] - means[i]), draws[:, 0] - draws[:, i], below=not met[i]
        )
        for i, trial in enumerate(rivals, start=1)
    }
    counts = [pick.evaluations[split].scores[o.name].items for o in objectives.searched]
    counts = [count for count in counts if count]
    return Verdict(
        trial=pick.number,
        role=role,
        split=split,
        single=compared.get(best.number),
        best_single=best.name.removeprefix("single:"),
        greedy=compared.get(greedy.number) if greedy else None,
        items=(min(counts, default=0), max(counts, default=0)),
        weighted=len(set(objectives.weights.tolist())) > 1,
    )


def _compared(rival: Trial, difference: float, draws: Array, below: bool) -> Comparison:
    low, high = np.quantile(draws, [0.025, 0.975])
    better = float((draws > 0).mean() + (draws == 0).mean() / 2)
    name = rival.name.removeprefix("single:")
    return Comparison(rival.number, name, difference, (float(low), float(high)), better, below)


def _chance(p: float) -> str:
    if p > 0.99:
        return "> 0.99"
    return "< 0.01" if p < 0.01 else f"{p:.2f}"


def _comparison_json(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "trial": found.trial,
        "name": found.name,
        "difference": found.difference,
        "interval": list(found.interval),
        "p_better": found.p_better,
        "meets_floors": not found.below,
    }
