"""Paired differences: a merge against rivals, objective by objective, in each objective's own unit.

Intervals come from a paired cluster bootstrap over the items that both were scored on.
Letters: m objectives.

Reference: Miller 2024, arXiv 2411.00640 (paired, clustered differences).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recycler.front.resampling import drawn_gains
from recycler.nouns.evaluation import SPLITS, Outcomes, Score
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.trial import Trial

LEVEL = 0.95  # coverage of the intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One objective of a merge and of a rival, on the same items.

    Attributes:
        objective: the objective.
        trial: number of the merge.
        rival: number of the rival.
        score: score of the merge.
        against: score of the rival.
        difference: merge minus rival in the objective's unit; positive is better, also where
            smaller scores are.
        interval: 95 % bootstrap interval of the difference; None if the scores came without errors.
        p_better: share of resampled differences above 0, ties count half; None without errors.
    """

    objective: Objective
    trial: int
    rival: int
    score: Score
    against: Score
    difference: float
    interval: tuple[float, float] | None
    p_better: float | None

    @property
    def word(self) -> str:
        """The difference in a word (see `word`)."""
        return word(self.interval)

    def to_json(self) -> dict[str, Any]:
        """The difference as plain data."""
        return {
            "objective": self.objective.name,
            "unit": self.objective.unit,
            "direction": self.objective.direction,
            "held_out": self.objective.held_out,
            "rival": self.rival,
            "score": self.score.mean,
            "against": self.against.mean,
            "difference": self.difference,
            "interval": list(self.interval) if self.interval else None,
            "p_better": self.p_better,
            "word": self.word,
        }


def word(interval: tuple[float, float] | None) -> str:
    """`better`, `worse`, `equal` (no item differs), or `can't tell`: the interval holds 0."""
    if interval is None:
        return "can't tell"
    low, high = interval
    if low == high == 0.0:
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "can't tell"


def ends(draws: Array) -> tuple[float, float]:
    """The interval that holds the share LEVEL of (draws,) resampled differences."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def common_split(trials: Sequence[Trial]) -> str:
    """The split least used by the search on which all trials are scored; empty if there is none."""
    shared = [s for s in SPLITS if all(s in trial.evaluations for trial in trials)]
    return shared[-1] if shared else ""


def differences(
    pick: Trial,
    rivals: Sequence[Trial],
    objectives: Objectives,
    split: str,
    outcomes: Callable[[Trial, str], Mapping[str, Outcomes]],
    seed: int = 0,
) -> list[Difference]:
    """Compare a merge with rivals in every objective that all of them are scored on.

    Args:
        pick: the merge.
        rivals: what it is compared with.
        objectives: objectives of the study; held-out ones are compared too.
        split: the items, which all must be scored on (see `common_split`).
        outcomes: item outcomes of a trial on a split.
        seed: random seed of the bootstrap.

    Returns:
        Searched objectives first; for each objective one entry for each rival, in their order.
    """
    row = [pick, *rivals]
    scores = [trial.evaluations[split].scores for trial in row]
    asked = [
        o
        for o in (*objectives.searched, *objectives.held_out)
        if all(o.name in known for known in scores)
    ]
    if not asked or not rivals:
        return []
    items = [outcomes(trial, split) for trial in row]
    seen = Objectives(tuple(replace(o, held_out=False) for o in asked))
    draws = drawn_gains(items, scores, seen, seed)
    return [
        _difference(o, row, k, scores, draws[:, 0, j] - draws[:, k, j])
        for j, o in enumerate(asked)
        for k in range(1, len(row))
    ]


def _difference(
    objective: Objective,
    row: Sequence[Trial],
    k: int,
    scores: Sequence[Mapping[str, Score]],
    draws: Array,
) -> Difference:
    mine, theirs = scores[0][objective.name], scores[k][objective.name]
    sure = objective.knows_error(max(mine.stderr, theirs.stderr))
    better = float((draws > 0).mean() + (draws == 0).mean() / 2)
    return Difference(
        objective=objective,
        trial=row[0].number,
        rival=row[k].number,
        score=mine,
        against=theirs,
        difference=objective.sign * (mine.mean - theirs.mean),
        interval=ends(draws) if sure else None,
        p_better=better if sure else None,
    )
