"""The scale of a study: which difference counts as one step, for every average, pick and verdict.

Objectives have different units, so an average needs a step for each. The step of an objective is
computed once, from the singles' dev scores, and kept in the ledger. Letters: k singles, m objectives.
"""

from collections.abc import Sequence

import numpy as np

from recycler.front import pareto
from recycler.nouns.objectives import Array, Objectives

_ERRORS = 2.0  # a step is at least this many standard errors of a single's score


def steps(objectives: Objectives, gains: Array, errors: Array | None = None) -> Array:
    """(m,) one step of each objective in its own unit, without weights.

    It is the objective's own `scale` if it has one. Else it is the range of the non-dominated
    singles, at most twice the distance from the best single to the median one, so that a broken or
    over-trained checkpoint does not stretch it. It is at least two standard errors of a single's
    score, so that an objective that can't tell the singles apart does not rule the average.

    Args:
        objectives: objectives of the study.
        gains: (k, m) dev gains of the scored singles.
        errors: (k, m) their standard errors; None if unknown.
    """
    given = [objective.scale for objective in objectives.searched]
    if not len(gains):
        return np.array([1.0 if own is None else own for own in given])
    best = gains[pareto.nondominated(gains)]
    spans = np.ptp(best, axis=0)
    spans = np.where(spans > 0, spans, np.ptp(gains, axis=0))
    robust = 2 * (gains.max(axis=0) - np.median(gains, axis=0))
    spans = np.where(robust > 0, np.minimum(spans, robust), spans)
    if errors is not None:
        spans = np.maximum(spans, _ERRORS * np.median(errors, axis=0))
    found = [span or 1.0 if own is None else own for own, span in zip(given, spans, strict=True)]
    return np.array(found, dtype=np.float64)


def words(objectives: Objectives, found: Sequence[float] | Array) -> str:
    """The scale in words, such as `One step: 0.07 bits/byte of prose = 0.3 of code (weight 2)`.

    Args:
        objectives: objectives of the study.
        found: (m,) from `steps`.
    """
    parts = []
    for objective, step in zip(objectives.searched, found, strict=True):
        unit = "" if objective.unit in ("", "share") else f" {objective.unit}"
        weight = f" (weight {objective.weight:g})" if objective.weight != 1.0 else ""
        parts.append(f"{step:.2g}{unit} of {objective.name}{weight}")
    return f"One step of the average: {' = '.join(parts)}."
