"""The result of evaluating a merge: item outcomes, means with standard errors, or a failure.

Letters: `items` of one objective in one split, c clusters of items.
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
from recycler.nouns.answers import Answers
from recycler.nouns.objectives import Array


class Split(StrEnum):
    """Part of the items: dev is searched on, select re-ranks finalists, test is reported."""

    DEV = "dev"
    SELECT = "select"
    TEST = "test"


SPLITS = tuple(Split)


@dataclass(frozen=True, slots=True)
class Score:
    """Mean of one objective in the metric's unit, its standard error, and the number of items."""

    mean: float
    stderr: float
    items: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of one objective per item, so that merges can be compared item by item.

    Attributes:
        ids: (items,) the evaluator's item ids, in the order of evaluation.
        values: (items,) outcome of each item, in the metric's unit.
        weights: (items,) weight of each item in the mean, such as bytes; empty: all 1.
        clusters: (items,) label shared by dependent items; empty: all items independent.
        link: function from the mean of the values to the score: empty: none; `exp`: exponential,
            as for a perplexity.
        answers: what the merge answered, for people to read; None: not known or not kept.
    """

    ids: tuple[int, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...] = ()
    clusters: tuple[int, ...] = ()
    link: str = ""
    answers: Answers | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for part in (self.values, self.weights, self.clusters):
            assert len(part) in (0, len(self.ids)), "one entry per item"
        if self.answers is not None:
            assert len(self.answers.texts) == len(self.ids), "one answer per item"

    def joined(self, other: "Outcomes") -> "Outcomes":
        """Return these items followed by others; both must use the same cluster labels.

        If both have default ids (0, 1, …), the others are renumbered to follow. Answers are dropped.
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
        """Return the same items without the link: their score is the mean of the values."""
        return replace(self, link="")

    def linked(self, means: Array) -> Array:
        """Apply the link to means of the values, of any shape."""
        return np.exp(means) if self.link == "exp" else means

    def least_error(self) -> float:
        """Lower bound of the standard error of the mean, in the unit of the values.

        If all values are equal, or lie in [0, 1] and touch a bound, the sample spread is too small:
        after n right items the next may be wrong. The bound is span / (2 (c + 1)), the half-width of
        Wilson's interval at one standard error for shares of 0 and 1. The span is 1 in [0, 1], else
        the absolute value, at least 1. In all other cases the bound is 0.
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
        """Weighted mean after the link, and its cluster-robust standard error.

        With residuals r = weight · (value - mean) summed by cluster, the squared error is
        c/(c-1) · Σ r² / (Σ weight)²; with equal weights and no clusters, this is the sample variance
        over the number of items. With one cluster, the error is the standard deviation of the values.
        It is at least `least_error`. A link f multiplies it by |f'(mean)| (delta method).
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
        if self.link == "exp":  # exp is its own derivative
            mean = float(np.exp(mean))
            stderr *= mean
        return Score(mean, stderr, len(values))


def error_correlation(one: Outcomes | None, other: Outcomes | None) -> float:
    """Correlation in [-1, 1] of the errors of two means over the same items, from their outcomes.

    With residuals as in `Outcomes.score`, summed by cluster, it is Σ r s / √(Σ r² Σ s²). A link does
    not change it. 0 if the items differ, or one of the two has no spread.
    """
    if one is None or other is None or one.ids != other.ids:
        return 0.0
    residuals = []
    for outcomes in (one, other):
        values, weights, _ = outcomes.arrays()
        mean = (values * weights).sum() / weights.sum()
        residuals.append(np.bincount(one.arrays()[2], weights * (values - mean)))
    r, s = residuals
    size = float(np.sqrt((r @ r) * (s @ s)))
    return float(np.clip((r @ s) / size, -1.0, 1.0)) if size > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of one merge on one split, and their cost.

    Attributes:
        split: dev, select or test.
        scores: objective -> mean, error, items.
        outcomes: objective -> item outcomes; empty when read back without them.
        digest: hash of the merged bytes that were scored; empty for functions of weights.
        seconds: wall-clock time of each part [s].
        means: objective -> mean.
    """

    split: str
    scores: Mapping[str, Score]
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    digest: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, float] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        means = {name: score.mean for name, score in self.scores.items()}
        object.__setattr__(self, "means", means)

    def joined(self, other: "Evaluation") -> "Evaluation":
        """Return this block of items and the next one of the same merge and split as one.

        An objective without items, with error 0 and the same score in both, is exact and kept.

        Raises:
            InvalidConfig: another objective has no item outcomes.
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
                    hint="let the evaluator return a list of item values, or set `racing: false` in "
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
    """The cause of a failed job; it decides what happens next.

    Attributes:
        CANDIDATE: the merge itself can't be scored. The trial fails and spends budget.
        ENVIRONMENT: a machine, a file or a connection. The job is retried elsewhere; if that does not
            help, the study pauses. No budget is spent and the recipe can be proposed again.
        SETUP: the study's settings. No candidate can be scored, so the run ends at once.
    """

    CANDIDATE = "candidate"
    ENVIRONMENT = "environment"
    SETUP = "setup"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no scores. `kind` is a stable word to count by; the texts are for people."""

    kind: str
    message: str
    details: str = ""
    fault: Fault = Fault.CANDIDATE
    hint: str = ""
