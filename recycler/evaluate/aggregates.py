"""Aggregations of lm-eval tasks, expressed as item outcomes whose mean is the task's own score.

Letters: n items, c blocks.
Reference: Efron & Tibshirani 1993, ch. 11 (jackknife); Künsch 1989 (blocks).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig
from recycler.nouns.evaluation import Outcomes

BLOCKS = 100  # most blocks of the jackknife; each costs one aggregation
MISSING = object()  # raw outcome of an item without a value


@dataclass(frozen=True, slots=True)
class Rule:
    """The aggregation of a metric: from item outcomes to one score.

    Attributes:
        objective: name of the objective, for messages.
        name: lm-eval's name of the aggregation; empty for a function of the task.
        function: the aggregation: list of raw outcomes -> score.
    """

    objective: str
    name: str
    function: Callable[[Any], Any]

    @property
    def of_single_items(self) -> bool:
        """Whether parts of the items can be scored separately and joined."""
        return self.name in _ITEMWISE

    def outcomes(
        self, ids: Sequence[int], raw: Sequence[Any], clusters: Sequence[int] = ()
    ) -> Outcomes:
        """Return outcomes whose score is `function(raw)`.

        A mean keeps its values, and a function of a mean has a link (`Outcomes.link`). For any other
        aggregation, a value is the aggregate plus the item's influence on it (see `influences`).

        Args:
            ids: (n,) item ids.
            raw: (n,) outcome of each item from the task's `process_results`, or MISSING.
            clusters: (n,) labels of dependent items; empty: all items independent.

        Raises:
            InvalidConfig: an outcome or the aggregate is not a number.
        """
        known = [x for x in raw if x is not MISSING]
        if not known or self.name == "bypass":
            raise self._wrong("gave no outcome", raw[:1])
        if self.of_single_items:
            one, link = _ITEMWISE[self.name]
            pairs = [(0.0, 0.0) if x is MISSING else self._number(one, x) for x in raw]
            values, weights = (list(column) for column in zip(*pairs, strict=True))
            if not any(weights):
                raise self._wrong("gave no outcome", raw[:1])
        else:
            values, weights, clusters = self._influences(raw, clusters)
            link = ""
        return Outcomes(
            tuple(ids),
            tuple(values),
            tuple(weights) if any(weight != 1.0 for weight in weights) else (),
            tuple(clusters),
            link,
        )

    def _number(self, one: Callable[[Any], tuple[float, float]], raw: Any) -> tuple[float, float]:
        try:
            value, weight = one(raw)
            return float(value), float(weight)
        except (TypeError, ValueError) as error:
            raise self._wrong("is not one number per item", raw) from error

    def _aggregate(self, raw: Sequence[Any]) -> float:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # such as: a class is never predicted
                return float(self.function(list(raw)))
        except ZeroDivisionError:
            return math.nan
        except Exception as error:  # a task's own function raises anything
            what = f"has no aggregate that is one number ({type(error).__name__}: {error})"
            raise self._wrong(what, raw[:1]) from error

    def _influences(
        self, raw: Sequence[Any], clusters: Sequence[int]
    ) -> tuple[list[float], list[float], list[int]]:
        present = [i for i, x in enumerate(raw) if x is not MISSING]
        labels = np.array(clusters if len(clusters) else range(len(raw)))
        blocks = blocks_of(labels)
        values = influences(self._aggregate, [raw[i] for i in present], blocks[present])
        whole = [float(values.mean())] * len(raw)
        weights = [0.0] * len(raw)
        for i, value in zip(present, values, strict=True):
            whole[i], weights[i] = float(value), 1.0
        alone = len(clusters) == 0 and len(set(blocks.tolist())) == len(raw)
        return whole, weights, [] if alone else blocks.tolist()

    def _wrong(self, what: str, raw: Any) -> InvalidConfig:
        return InvalidConfig(
            f"objective {self.objective!r}: its metric {what} (found {str(raw)[:80]}).",
            hint="use a metric with one number per item, or an aggregation of the task that gives "
            "one number.",
        )


def influences(
    aggregate: Callable[[Sequence[Any]], float], raw: Sequence[Any], blocks: Any
) -> Any:
    """(n,) values whose mean is the aggregate and whose spread over blocks is its jackknife error.

    With T on all items and T₋ᵦ without block b of c, the influence of a block is (c-1)(T - T₋ᵦ) minus
    the mean over blocks, divided among its items. The mean of the values is T, not the bias-corrected
    estimate, so that scores equal the task's.

    Args:
        aggregate: raw outcomes -> score.
        raw: n raw outcomes.
        blocks: (n,) label of each item's block.
    """
    whole = aggregate(raw)
    labels, places = np.unique(blocks, return_inverse=True)
    c = len(labels)
    if c < 2:
        return np.full(len(raw), whole)
    left = [
        aggregate([x for x, place in zip(raw, places, strict=True) if place != b])
        for b in range(c)
    ]
    moved = (c - 1) * (whole - np.array(left))
    moved -= moved.mean()
    sizes = np.bincount(places)
    return whole + (moved * len(raw) / (c * sizes))[places]


def blocks_of(labels: Any) -> Any:
    """(n,) labels of at most BLOCKS blocks, each of consecutive whole clusters."""
    order = {label: k for k, label in enumerate(dict.fromkeys(labels.tolist()))}
    numbers = np.array([order[label] for label in labels.tolist()])
    return numbers * BLOCKS // len(order) if len(order) > BLOCKS else numbers


def _mean(raw: Any) -> tuple[float, float]:
    if isinstance(raw, str | bytes):
        raise TypeError("text is no number")
    return float(raw), 1.0


def _nanmean(raw: Any) -> tuple[float, float]:
    value = _mean(raw)[0]
    return (0.0, 0.0) if math.isnan(value) else (value, 1.0)


def _size(raw: Any, unit: float) -> tuple[float, float]:
    loglikelihood, size = raw
    return (-float(loglikelihood) / (size * unit) if size else 0.0), float(size)


def _brier(raw: Any) -> tuple[float, float]:
    """Σ over classes of (p - [class is gold])² (Brier 1950, summed as in lm-eval)."""
    gold, shares = raw
    shares = np.asarray(shares, dtype=np.float64)
    return float(np.sum((shares - np.eye(len(shares))[gold]) ** 2)), 1.0


# aggregation -> (raw outcome -> (value, weight), link from the mean to the score)
_ITEMWISE: dict[str, tuple[Callable[[Any], tuple[float, float]], str]] = {
    "mean": (_mean, ""),
    "nanmean": (_nanmean, ""),
    "brier_score": (_brier, ""),
    "perplexity": (lambda raw: (-_mean(raw)[0], 1.0), "exp"),
    "weighted_perplexity": (lambda raw: _size(raw, 1.0), "exp"),
    "bits_per_byte": (lambda raw: _size(raw, math.log(2)), ""),
}
