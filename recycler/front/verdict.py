"""The verdict: a merge against the best single checkpoint, the best baseline and every reference.

They are compared objective by objective, and by the average of their gains in steps of the study's
scale, weights included. Intervals come from a paired cluster bootstrap over items.
Letters: m objectives.

Reference: Miller 2024, arXiv 2411.00640 (paired, clustered differences).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycler.front.front import meeting
from recycler.front.paired import Difference, common_split, differences, ends, word
from recycler.front.resampling import drawn_gains
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Array, Objectives
from recycler.nouns.trial import Kind, Trial

_OPTIMISTIC = {
    "dev": " Optimistic: the search saw these items.",
    "select": " Optimistic: the choice saw these items.",
}
_CALLED = {
    "best single": "your best single checkpoint ({})",
    "best baseline": "the best baseline ({})",
    "best merge": "the best merge ({})",
    "reference": "the reference {}",
}


@dataclass(frozen=True, slots=True)
class Rival:
    """One rival of a merge, and how far the merge is from it.

    Attributes:
        trial: number of the rival.
        name: name of the rival, without `single:`.
        role: `best single`, `best baseline`, `best merge` or `reference`.
        difference: merge minus rival in the average, in steps of the scale; positive is better.
        interval: 95 % bootstrap interval of the difference; None if the scores of a searched
            objective came without errors.
        p_better: share of resampled differences above 0, ties count half; None without errors.
        below: whether the rival is below a floor on these items and so could not be chosen.
        objectives: the differences objective by objective, held-out ones last.
    """

    trial: int
    name: str
    role: str
    difference: float
    interval: tuple[float, float] | None
    p_better: float | None
    below: bool = False
    objectives: tuple[Difference, ...] = ()

    @property
    def called(self) -> str:
        """What it is in words, such as `your best single checkpoint (sft-a)`."""
        return _CALLED[self.role].format(self.name)

    def phrase(self, average: str, said: str = "") -> str:
        """`beats RIVAL by 0.034 [0.021, 0.047] …`, without the verb if it was `said` before."""
        sign = 1.0 if self.difference >= 0 else -1.0
        verb = "" if self.verb == said else f"{self.verb} "
        rival = self.called + (", which is below a floor," if self.below else "")
        if self.word == "equal":
            return f"{verb}{rival}" + (f" in the {average}" if not said else "")
        if self.interval is None or self.p_better is None:
            unsure = f" in the {average}, error unknown" if not said else ""
            return f"{verb}{rival} by {sign * self.difference:.3f}{unsure}"
        low, high = sorted(sign * bound for bound in self.interval)
        chance = _chance(self.p_better if sign > 0 else 1.0 - self.p_better)
        sure = f" in the {average} with probability {chance}" if not said else f" ({chance})"
        return f"{verb}{rival} by {sign * self.difference:.3f} [{low:.3f}, {high:.3f}]{sure}"

    @property
    def word(self) -> str:
        """The average in a word: `better`, `worse`, `equal` or `can't tell` (see `paired.word`)."""
        return word(self.interval)

    @property
    def verb(self) -> str:
        """The verb that the interval supports."""
        if self.word == "equal":
            return "equals"
        if self.difference >= 0:
            return "beats" if self.word == "better" else "is ahead of"
        return "is worse than" if self.word == "worse" else "is behind"

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {
            "trial": self.trial,
            "name": self.name,
            "role": self.role,
            "difference": self.difference,
            "interval": list(self.interval) if self.interval else None,
            "p_better": self.p_better,
            "word": self.word,
            "meets_floors": not self.below,
            "objectives": [found.to_json() for found in self.objectives],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A merge compared with its rivals.

    Attributes:
        trial: number of the merge.
        role: how it was picked, such as `pick` or `knee`, or its name.
        split: items they are compared on.
        itself: name of the checkpoint if the merge is the best single itself; else empty.
        comparisons: one for each rival: best single, best baseline, references. The merge itself is
            left out.
        items: least and most items of an objective; zeros if scores came without items.
        weighted: whether the objectives have different weights.
    """

    trial: int
    role: str
    split: str
    itself: str
    comparisons: tuple[Rival, ...]
    items: tuple[int, int]
    weighted: bool

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        average = "scaled, weighted average" if self.weighted else "scaled average"
        text, said = f"Trial {self.trial} ({self.role})", ""
        if self.itself:
            text += f" is your best single checkpoint itself ({self.itself})"
        for number, found in enumerate(self.comparisons):
            joint = (
                "" if number == 0 and not self.itself else ", and" if self._last(found) else ","
            )
            text += f"{joint} {found.phrase(average, said)}"
            said = found.verb
        low, high = self.items
        if high:
            count = f"{low}" if low == high else f"{low} to {high}"
            text += f", on {count} {self.split} items per task"
        return f"{text}.{_OPTIMISTIC.get(self.split, '')}"

    def _last(self, found: Rival) -> bool:
        return found is self.comparisons[-1]

    def against(self, role: str) -> Rival | None:
        """The comparison with the first rival of that role; None if there is none."""
        return next((c for c in self.comparisons if c.role == role), None)

    def to_json(self) -> dict[str, Any]:
        """Return the sentence and its numbers."""
        return {
            "sentence": self.sentence,
            "trial": self.trial,
            "role": self.role,
            "split": self.split,
            "comparisons": [found.to_json() for found in self.comparisons],
        }


def verdict(
    pick: Trial,
    role: str,
    rivals: Sequence[Trial],
    objectives: Objectives,
    scales: Array,
    outcomes: Callable[[Trial, str], Mapping[str, Outcomes]],
    floors: Callable[[str], Array] = lambda split: np.array(-np.inf),
    seed: int = 0,
    merge: Trial | None = None,
) -> Verdict | None:
    """Compare a merge with its rivals on the last split that all have scores on.

    For a comparison on test items, the best single and the best baseline are chosen on select items
    if possible, so that neither they nor the merge are chosen on the items that are reported.

    Args:
        pick: the merge.
        role: how it was picked.
        rivals: scored singles, baselines (uniform, merge-best, the greedy soup) and references.
        objectives: objectives of the study; only the searched ones count in the average.
        scales: (m,) divisors of gains in the average.
        outcomes: item outcomes of a trial on a split.
        floors: split -> (m,) smallest gains allowed.
        seed: random seed of the bootstrap.
        merge: compare with this merge too, because the pick is not a merge.

    Returns:
        None if no split has scores of all of them.
    """
    split = common_split([pick, *rivals, *([merge] if merge else [])])
    groups = {
        "best merge": [merge] if merge else [],
        "best single": [t for t in rivals if t.kind == Kind.SINGLE],
        "best baseline": [t for t in rivals if t.kind not in (Kind.SINGLE, Kind.REFERENCE)],
    }
    if not groups["best single"] or not split:
        return None
    again = all("select" in trial.evaluations for trial in rivals)
    chosen_on = "select" if split == "test" and again else split
    best = [
        (name, group[int(np.argmax(_averages(group, objectives, scales, chosen_on)))])
        for name, group in groups.items()
        if group
    ]
    best += [("reference", t) for t in rivals if t.kind == Kind.REFERENCE]
    itself = next((t for name, t in best if name == "best single"), None)
    first = {trial.number: (name, trial) for name, trial in reversed(best)}
    named = [entry for number, entry in reversed(first.items()) if number != pick.number]
    return Verdict(
        trial=pick.number,
        role=role,
        split=split,
        itself=_short(pick) if itself is not None and itself.number == pick.number else "",
        comparisons=_compared(pick, named, objectives, scales, split, outcomes, floors, seed),
        items=_items(pick, objectives, split),
        weighted=len(set(objectives.weights.tolist())) > 1,
    )


def _averages(trials: Sequence[Trial], objectives: Objectives, scales: Array, on: str) -> Array:
    found: Array = (objectives.gains([t.means(on) for t in trials]) / scales).mean(axis=1)
    return found


def _compared(
    pick: Trial,
    named: Sequence[tuple[str, Trial]],
    objectives: Objectives,
    scales: Array,
    split: str,
    outcomes: Callable[[Trial, str], Mapping[str, Outcomes]],
    floors: Callable[[str], Array],
    seed: int,
) -> tuple[Rival, ...]:
    rivals = [trial for _, trial in named]
    row = [pick, *rivals]
    items = [outcomes(trial, split) for trial in row]
    scores = [trial.evaluations[split].scores for trial in row]
    draws = (drawn_gains(items, scores, objectives, seed) / scales).mean(axis=2)  # (draws, row)
    means = _averages(row, objectives, scales, split)
    met = meeting(rivals, objectives, split, floors(split))
    apart = differences(pick, rivals, objectives, split, outcomes, seed)
    found = []
    for i, (role, rival) in enumerate(named, start=1):
        lead = draws[:, 0] - draws[:, i]
        mine = tuple(d for d in apart if d.rival == rival.number)
        sure = all(d.interval for d in mine if not d.objective.held_out)
        found.append(
            Rival(
                trial=rival.number,
                name=_short(rival),
                role=role,
                difference=float(means[0] - means[i]),
                interval=ends(lead) if sure else None,
                p_better=float((lead > 0).mean() + (lead == 0).mean() / 2) if sure else None,
                below=not met[i - 1],
                objectives=mine,
            )
        )
    return tuple(found)


def _items(pick: Trial, objectives: Objectives, split: str) -> tuple[int, int]:
    counts = [pick.evaluations[split].scores[o.name].items for o in objectives.searched]
    counts = [count for count in counts if count]
    return min(counts, default=0), max(counts, default=0)


def _short(trial: Trial) -> str:
    return trial.name.removeprefix("single:").removeprefix("reference:")


def _chance(p: float) -> str:
    if p > 0.99:
        return "> 0.99"
    return "< 0.01" if p < 0.01 else f"{p:.2f}"
