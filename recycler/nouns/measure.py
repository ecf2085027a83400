"""The measure of an objective: everything besides the merge that decides a score.

Its parts are the evaluator and its settings, the content of tasks and data, the items and their
split, and versions of libraries. Scores are compared, and reused by other studies, only if all parts
are equal.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from recycler.nouns.recipe import canonical

# Name of a part, as messages say it, such as `data of task 'code'` -> its content or digest.
Parts = Mapping[str, Any]

# Value of the part `scored` if the score is one aggregate over all items, such as F1 or BLEU.
TOGETHER = "all items together"


def items_part(task: str) -> str:
    """Name of the part that says how many items a task has: per split, and `of` all together."""
    return f"items of task {task!r}"


def measure_id(parts: Parts) -> str:
    """Digest of a measure: equal if all parts are."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:32]


def differences(here: Mapping[str, Parts], there: Mapping[str, Parts]) -> list[str]:
    """Names of the parts that differ between the measures of two plans.

    Args:
        here: objective -> parts; objectives without a measure are missing.
        there: the same for the other plan.

    Returns:
        Each name once, in the order of the objectives. An objective that only one plan has appears as
        `objective 'NAME'`.
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
