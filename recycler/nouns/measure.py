"""A measure: what a score is a score of.

The recipe of a merge decides its bytes; the measure of an objective decides what is asked of them:
the evaluator and its settings, the content of tasks and data, the items and their split, versions of
libraries. Scores are compared, and reused by other studies, only where all of it is equal.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from recycler.nouns.recipe import canonical

# Part of a measure, in the user's words, such as `data of task 'code'` -> its content or its digest.
Parts = Mapping[str, Any]

# The part `scored` of an objective whose score is one number of all items, such as F1 or BLEU.
TOGETHER = "all items together"


def measure_id(parts: Parts) -> str:
    """Digest of a measure: equal where all parts are."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:32]


def differences(here: Mapping[str, Parts], there: Mapping[str, Parts]) -> list[str]:
    """Names of the parts that differ between the measures of two plans.

    Args:
        here: objective -> parts, or nothing where an objective has no measure.
        there: the same of another plan.

    Returns:
        Each name once, in the order of the objectives; an objective that only one plan has is named
        by itself.
    """
    found: dict[str, None] = {}
    for objective in {**here, **there}:
        if objective not in here or objective not in there:
            found[f"objective {objective!r}"] = None
            continue
        one, other = here[objective], there[objective]
        for name in {**one, **other}:
            if canonical(one.get(name)) != canonical(other.get(name)):
                found[name] = None
    return list(found)
