"""Convert the return value of an evaluator to scores with standard errors."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig, NotFinite
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.trial import Job


def evaluation_of(
    job: Job, results: Mapping[str, Outcomes | Score], digest: str, seconds: Mapping[str, float]
) -> Evaluation:
    """Make an evaluation from the results of an evaluator, with answers if the job asks for them.

    Raises:
        NotFinite: a mean is NaN or infinite.
    """
    outcomes = {name: r for name, r in results.items() if isinstance(r, Outcomes)}
    if not job.answers:
        outcomes = {name: replace(r, answers=None) for name, r in outcomes.items()}
    with np.errstate(all="ignore"):  # non-finite scores raise below
        scores = {name: r.score() if isinstance(r, Outcomes) else r for name, r in results.items()}
    for name, score in scores.items():
        if not math.isfinite(score.mean) or not math.isfinite(score.stderr):
            raise NotFinite(
                f"objective {name!r} is {score.mean} ± {score.stderr} on {job.split} items.",
                hint="the merged weights may hold NaN; `recycler pool check --deep` finds which.",
            )
    return Evaluation(
        split=job.split, scores=scores, outcomes=outcomes, digest=digest, seconds=seconds
    )


def read_values(value: Any) -> Outcomes | Score:
    """Convert item values, a tuple (mean, stderr) or a mean to `Outcomes` or a `Score`.

    Raises:
        InvalidConfig: the value is none of these.
    """
    if isinstance(value, Outcomes | Score):
        return value
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError("text and mappings are not numbers")
        if isinstance(value, tuple) and len(value) == 2:
            return Score(float(value[0]), float(value[1]), 0)
        if not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
            return Score(float(value), 0.0, 0)
        items = tuple(float(item) for item in value)
    except (TypeError, ValueError) as error:
        raise _not_numbers(value) from error
    if not items:
        raise _not_numbers(value)
    return Outcomes(tuple(range(len(items))), items)


def _not_numbers(value: Any) -> InvalidConfig:
    return InvalidConfig(
        f"the evaluator returned {str(value)[:80]!r}, expected numbers.",
        hint="return item values, (mean, stderr) or a mean.",
    )
