"""What evaluating a merge gave: item outcomes, means with their errors, or a failure.

Letters: items of one objective in one split. May import: errors, objectives.
Reference: Miller 2024, arXiv 2411.00640 (clustered standard errors).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycler.errors import InvalidConfig
from recycler.nouns.objectives import Array


class Split(StrEnum):
    """Which items: the search sees dev, finalists are re-ranked on select, test is reported once."""

    DEV = "dev"
    SELECT = "select"
    TEST = "test"


SPLITS = tuple(Split)


@dataclass(frozen=True, slots=True)
class Score:
    """Mean of one objective in the metric's own unit, its standard error, and how many items."""

    mean: float
    stderr: float
    items: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every item's outcome for one objective, so that two merges can be compared item by item.

    Attributes:
        ids: (items,) the evaluator's item ids, in the order of evaluation.
        values: (items,) outcome of each item, in the metric's unit.
        weights: (items,) its weight in the mean, such as bytes; empty means all 1.
        clusters: (items,) label shared by dependent items; empty means each item on its own.
        link: how the score follows from the mean of the values: empty, it is the mean; `exp`, its
            exponential (a perplexity).
    """

    ids: tuple[int, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...] = ()
    clusters: tuple[int, ...] = ()
    link: str = ""

    def __post_init__(self) -> None:
        for part in (self.values, self.weights, self.clusters):
            assert len(part) in (0, len(self.ids)), "one entry an item"

    def joined(self, other: "Outcomes") -> "Outcomes":
        """These items and then others; cluster labels mean the same in both.

        Items without ids of their own (0, 1, … in both) are numbered on.
        """
        if self._unnamed() and other._unnamed():
            more = range(len(self.ids), len(self.ids) + len(other.ids))
            other = replace(other, ids=tuple(more))
        assert not set(self.ids) & set(other.ids), "an item is scored once"

        def both(mine: tuple[Any, ...], theirs: tuple[Any, ...], plain: Any) -> tuple[Any, ...]:
            if not mine and not theirs:
                return ()
            return (mine or (plain,) * len(self.ids)) + (theirs or (plain,) * len(other.ids))

        return Outcomes(
            self.ids + other.ids,
            self.values + other.values,
            both(self.weights, other.weights, 1.0),
            self.clusters + other.clusters,
        )

    def _unnamed(self) -> bool:
        return self.ids == tuple(range(len(self.ids)))

    def arrays(self) -> tuple[Array, Array, NDArray[np.int64]]:
        """(items,) values, weights and cluster indices 0..c-1."""
        values = np.asarray(self.values, dtype=np.float64)
        weights = (
            np.asarray(self.weights, dtype=np.float64) if self.weights else np.ones(len(values))
        )
        labels = np.asarray(self.clusters or self.ids)
        return values, weights, np.unique(labels, return_inverse=True)[1]

    def score(self) -> Score:
        """Weighted mean and its cluster-robust standard error.

        With residuals r = weight · (value - mean) summed by cluster, and c clusters, the squared
        error is c/(c-1) · Σ r² / (Σ weight)²; for equal weights and no clusters this is the usual
        sample variance over the number of items. A single cluster has no error: stderr is NaN-free
        0.0 only if all values are equal, else the spread of the values.
        """
        values, weights, clusters = self.arrays()
        total = weights.sum()
        mean = float((values * weights).sum() / total)
        residuals = np.bincount(clusters, weights * (values - mean))
        c = len(residuals)
        if c < 2:
            return Score(mean, float(values.std()), len(values))
        stderr = np.sqrt(c / (c - 1) * (residuals**2).sum()) / total
        return Score(mean, float(stderr), len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What evaluating one merge on one split returned, and what it cost.

    Attributes:
        split: dev, select or test.
        scores: objective -> mean, error, items.
        outcomes: objective -> item outcomes; empty when read back without them.
        digest: hash over the bytes of the merge that was scored; empty for functions of weights.
        seconds: wall-clock time of each part [s].
    """

    split: str
    scores: Mapping[str, Score]
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    digest: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def joined(self, other: "Evaluation") -> "Evaluation":
        """This block of items and the next one of the same merge and split, scored as one.

        An objective without items whose error is 0 is known exactly, and must be the same in both.
        Others that came without item outcomes can't be joined: InvalidConfig.
        """
        exact = {
            name: score
            for name, score in other.scores.items()
            if score == self.scores.get(name) and score.stderr == 0.0 and not score.items
        }
        measured = [name for name in other.scores if name not in exact]
        for name in measured:
            if name not in self.outcomes or name not in other.outcomes:
                raise InvalidConfig(
                    f"objective {name!r} came without item values, which racing needs.",
                    hint="let the evaluator return a list of item values, or take `racing: false` in "
                    "a study of another name.",
                )
        outcomes = {name: self.outcomes[name].joined(other.outcomes[name]) for name in measured}
        return Evaluation(
            split=self.split,
            scores={**exact, **{name: o.score() for name, o in outcomes.items()}},
            outcomes=outcomes,
            digest=other.digest,
            seconds={
                key: self.seconds.get(key, 0.0) + other.seconds.get(key, 0.0)
                for key in sorted({*self.seconds, *other.seconds})
            },
        )


class Fault(StrEnum):
    """Who is to blame for a job without scores, and so what happens next.

    Attributes:
        CANDIDATE: the merge itself can't be scored. A result: it spends budget, others go on.
        ENVIRONMENT: a machine, a file or a connection. The job is tried again elsewhere; if that does
            not help, the study pauses. It spends no budget and its recipe stays possible.
        SETUP: the study's settings. No candidate can be scored; the run ends at once.
    """

    CANDIDATE = "candidate"
    ENVIRONMENT = "environment"
    SETUP = "setup"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no scores: `kind` is a word to count by, the rest is for the reader."""

    kind: str
    message: str
    details: str = ""
    fault: Fault = Fault.CANDIDATE
    hint: str = ""
