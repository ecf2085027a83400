"""Which item belongs to which split: decided once by a seeded hash of the item's content.

May import: errors, evaluation. Nothing heavy.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from recycler.errors import InvalidConfig
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.recipe import canonical

DEFAULT_ITEMS = {"dev": 250, "select": 250, "test": 1000, "seed": 0}


def split_items(
    task: str, documents: Sequence[Any], wanted: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Divide a task's documents into dev, select and test.

    Documents are ranked by a hash of (seed, task, content), so the split depends neither on their
    order nor on other tasks, and equal documents get neighbouring ranks. The first ranks are dev,
    the next select, the next test; each split keeps the order of ranks.

    Args:
        task: the task's name.
        documents: what the task evaluates, in the evaluator's order.
        wanted: number of items of each split, and `seed`. Test takes what is left where the task
            has fewer.

    Returns:
        split -> ids (positions in `documents`), disjoint.

    Raises:
        InvalidConfig: not enough documents for dev, select and at least one for test.
    """
    sizes = {**DEFAULT_ITEMS, **wanted}
    if len(documents) <= sizes["dev"] + sizes["select"] or min(sizes[s] for s in SPLITS) < 1:
        raise InvalidConfig(
            f"task {task!r} has {len(documents)} items, expected more than dev + select = "
            f"{sizes['dev']} + {sizes['select']}, each split at least 1.",
            hint="lower `items: {dev: ..., select: ...}` or take a larger task.",
        )
    ranked = sorted(
        range(len(documents)), key=lambda i: (_rank(sizes["seed"], task, documents[i]), i)
    )
    split: dict[str, tuple[int, ...]] = {}
    start = 0
    for name in SPLITS:
        split[name] = tuple(ranked[start : start + sizes[name]])
        start += sizes[name]
    return split


def part_of(items: Sequence[Any], part: tuple[float, float]) -> Sequence[Any]:
    """The items from one share of their order to another; consecutive parts leave none out."""
    start, stop = (round(share * len(items)) for share in part)
    return items[start:stop]


def _rank(seed: int, task: str, document: Any) -> str:
    content = document if isinstance(document, str) else canonical(_plain(document))
    return hashlib.sha256(f"{seed}\0{task}\0{content}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    """JSON-ready copy; what JSON has no word for is taken by its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
