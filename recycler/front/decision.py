"""The decision: which model to take, and why; including to keep a checkpoint or a reference.

The pick is the member of the front with the best expected weighted average among those that meet
all floors. Where no merge is expected to be better than the best single checkpoint or reference, that
one is kept. Letters: k trials, m objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recycler.front.front import Front, meeting
from recycler.front.verdict import Verdict
from recycler.nouns.objectives import Array
from recycler.nouns.trial import Kind, Trial

EQUAL = 1e-9  # averages nearer than this are equal, in steps: the model that exists is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to take from a front.

    Attributes:
        pick: the trial to take.
        merge: the merge with the best expected average; None if the front has no merge.
        kept: whether the pick is a single checkpoint or a reference, because no merge is expected
            to be better.
    """

    pick: Trial
    merge: Trial | None
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The choice with its evidence.

    Attributes:
        choice: the trial to take.
        verdict: it against the best single, the best baseline and every reference; None before they
            are scored on common items.
        scale: one step of the average in words.
        feasible: whether the pick meets all floors.
    """

    choice: Choice
    verdict: Verdict | None
    scale: str
    feasible: bool

    @property
    def pick(self) -> Trial:
        """The trial to take."""
        return self.choice.pick

    @property
    def title(self) -> str:
        """What to do, in a few words."""
        pick = self.pick
        what = f"trial {pick.number} ({pick.name})"
        if self.choice.kept:
            return f"Keep {what}: no merge was expected to be better{self._doubt('best merge')}"
        return f"Take {what}{self._doubt('best single')}"

    def _doubt(self, role: str) -> str:
        """What the reported items say against the choice, which was made before; mostly empty."""
        rival = self.verdict.against(role) if self.verdict else None
        if rival is None or self.verdict is None or rival.word in ("better", "equal"):
            return ""
        items = f"{self.verdict.split} items"
        if rival.word == "worse":
            return f"; on {items} {rival.name} is better"
        return f"; {items} can't tell it from {rival.name}"

    @property
    def recipe(self) -> str:
        """The pick's checkpoints, largest weight first."""
        weights = sorted(self.pick.recipe.weights.items(), key=lambda item: -abs(item[1]))
        shown = [f"{weight:.2f} {name}" for name, weight in weights if weight][:6]
        more = sum(weight != 0 for _, weight in weights) - len(shown)
        text = " + ".join(shown).replace("+ -", "- ")
        return f"{self.pick.recipe.method}: {text}" + (f" and {more} more" if more else "")

    def to_json(self) -> dict[str, Any]:
        """The decision as plain data."""
        return {
            "pick": self.pick.number,
            "name": self.pick.name,
            "kept": self.choice.kept,
            "title": self.title,
            "best_merge": self.choice.merge.number if self.choice.merge else None,
            "meets_floors": self.feasible,
            "scale": self.scale,
            "verdict": self.verdict.to_json() if self.verdict else None,
        }


def choose(
    front: Front,
    rivals: Sequence[Trial],
    expected: Mapping[int, Array],
    scales: Array,
) -> Choice | None:
    """Choose by the expected weighted average on the front's basis; None for an empty front.

    Args:
        front: the front; its members meet the floors if any merge does.
        rivals: scored single checkpoints and references.
        expected: trial number -> (m,) expected gains on the front's basis. Trials without an entry
            are judged by their scores.
        scales: (m,) divisors of gains in the average.
    """
    if not front.members:
        return None
    basis, objectives = front.basis, front.objectives
    known = [t for t in rivals if basis in t.evaluations and _exists(t)]
    met = meeting(known, objectives, basis, front.floors)
    models = [t for t, meets in zip(known, met, strict=True) if meets or not front.feasible]
    merges = [trial for trial in front.trials if not _exists(trial)]

    def average(trial: Trial) -> float:
        gains = expected.get(trial.number)
        if gains is None:
            gains = objectives.gains([trial.means(basis)])[0]
        return float((gains / scales).mean())

    merge = max(merges, key=average, default=None)
    model = max(models, key=average, default=None)
    if merge is None or (model is not None and average(model) > average(merge) - EQUAL):
        return Choice(pick=model or max(front.trials, key=average), merge=merge, kept=True)
    return Choice(pick=merge, merge=merge, kept=False)


def _exists(trial: Trial) -> bool:
    """Whether it is a model that exists: a single checkpoint, or a reference that is no merge."""
    return trial.kind == Kind.SINGLE or not trial.is_merge
