"""What evaluating a merge gave: item outcomes, means with their errors, or a failure.

Letters: items of one objective in one split.
References: Miller 2024, arXiv 2411.00640 (clustered errors); Wilson 1927, J. Am. Stat. Assoc. 22
(errors of shares near 0 and 1).
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
            self.link,
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

    def plain(self) -> "Outcomes":
        """The same items without the link: their score is the mean of the values."""
        return replace(self, link="")

    def linked(self, means: Array) -> Array:
        """Scores that follow from means of the values, whatever the shape."""
        return np.exp(means) if self.link == "exp" else means

    def least_error(self) -> float:
        """Standard error of the mean that this few items can't go below, in the values' unit.

        Where all values are equal, or lie in [0, 1] and touch a bound of it, the sample's spread says
        too little: of n items that are all right the next may well be wrong. One more item, right or
        wrong at even odds, moves the mean by ± span / (2 (c + 1)); that is the half-width of Wilson's
        interval at one standard error for shares of 0 and 1. The span is 1 in [0, 1], else the
        size of the one value, at least 1. Elsewhere the least error is 0.
        """
        values, weights, clusters = self.arrays()
        values = values[weights > 0]
        if not len(values):
            return 0.0
        low, high = float(values.min()), float(values.max())
        touches = low >= 0.0 and high <= 1.0 and (low == 0.0 or high == 1.0)
        if low < high and not touches:
            return 0.0
        span = 1.0 if touches else max(abs(low), 1.0)
        return span / (2 * (len(np.unique(clusters)) + 1))

    def score(self) -> Score:
        """Weighted mean, put through the link, and its cluster-robust standard error.

        With residuals r = weight · (value - mean) summed by cluster, and c clusters, the squared
        error is c/(c-1) · Σ r² / (Σ weight)²; for equal weights and no clusters this is the usual
        sample variance over the number of items. A single cluster has the spread of its values. It
        is never below `least_error`. Through a link f it is |f'(mean)| times that (delta method).
        """
        values, weights, clusters = self.arrays()
        total = weights.sum()
        mean = float((values * weights).sum() / total)
        residuals = np.bincount(clusters, weights * (values - mean))
        c = len(residuals)
        if c < 2:
            stderr = float(values.std())
        else:
            stderr = float(np.sqrt(c / (c - 1) * (residuals**2).sum()) / total)
        stderr = max(stderr, self.least_error())
        if self.link == "exp":  # its derivative is itself
            mean = float(np.exp(mean))
            stderr *= mean
        return Score(mean, stderr, len(values))


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
