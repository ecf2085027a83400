"""The splits: a seeded hash of its content assigns each item to dev, select or test.

Dependent items (same cluster or same content) are always in the same split.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from recycler.errors import InvalidConfig
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.recipe import canonical

DEFAULT_ITEMS = {"dev": 250, "select": 250, "test": 1000, "seed": 0}


def split_items(
    task: str,
    documents: Sequence[Any],
    wanted: Mapping[str, float],
    clusters: Sequence[str] = (),
) -> dict[str, tuple[int, ...]]:
    """Split a task's documents into dev, select and test.

    Units of dependent documents (see `dependent`) are ranked by a hash of (seed, task, content), so
    the split depends neither on their order nor on other tasks. The first units are dev, the next
    select, the next test. A unit that does not fit into a split goes to the next one.

    Args:
        task: name of the task.
        documents: the task's documents, in the evaluator's order.
        wanted: size of each split (see `split_sizes`), and `seed`.
        clusters: fields whose equal values mark dependent documents.

    Returns:
        split -> ids (positions in `documents`), disjoint.

    Raises:
        InvalidConfig: fewer than three units, so one of the splits would be empty.
    """
    seed = int({**DEFAULT_ITEMS, **wanted}["seed"])
    ranks = [_rank(seed, task, document) for document in documents]
    units: dict[int, list[int]] = {}
    for i, unit in enumerate(dependent(documents, clusters)):
        units.setdefault(unit, []).append(i)
    if len(units) < len(SPLITS):
        raise InvalidConfig(
            f"task {task!r} has {len(documents)} items, {len(units)} of them independent; expected "
            f"at least {len(SPLITS)}, one for each of dev, select and test.",
            hint="take a larger task, or a finer `cluster` field. `items:` can't help here.",
        )
    sizes = split_sizes(len(documents), wanted)
    ranked = sorted(units.values(), key=lambda members: (_joint(ranks, members), members))
    split: dict[str, tuple[int, ...]] = {}
    for left, name in zip(range(len(SPLITS) - 1, -1, -1), SPLITS, strict=True):
        taken: list[int] = []
        while len(ranked) > left and (not taken or len(taken) + len(ranked[0]) <= sizes[name]):
            taken += sorted(ranked.pop(0), key=lambda i: (ranks[i], i))
        split[name] = tuple(taken)
    return split


def split_sizes(count: int, wanted: Mapping[str, float]) -> dict[str, int]:
    """Size of each split for a task of `count` ≥ 3 items; each has at least 1.

    A wanted size of 1 or more is a number of items; below 1, a share of the task's items. If the task
    has fewer items than all splits together want, all shrink in proportion.
    """
    sizes = {**DEFAULT_ITEMS, **wanted}
    asked = [sizes[name] * (count if sizes[name] < 1 else 1) for name in SPLITS]
    total = sum(asked)
    asked = [size * min(1.0, count / total) for size in asked]
    whole = [max(1, math.floor(size + 1e-9)) for size in asked]
    left = min(count, round(sum(asked))) - sum(whole)
    by_rest = sorted(range(len(SPLITS)), key=lambda i: (whole[i] - asked[i], i))
    for i in by_rest[: max(left, 0)]:
        whole[i] += 1
    for _ in range(max(-left, 0)):  # a split was raised to 1: take it from the largest
        whole[max(range(len(SPLITS)), key=lambda i: whole[i])] -= 1
    return dict(zip(SPLITS, whole, strict=True))


def dependent(documents: Sequence[Any], fields: Sequence[str] = ()) -> list[int]:
    """Return for each document the position of the first document of its unit.

    Two documents are dependent if a field has the same value in both, or if their content is equal.
    Units are the connected components.

    Args:
        documents: mappings or strings.
        fields: names of the fields to compare.
    """
    first = list(range(len(documents)))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    seen: dict[tuple[str, str], int] = {}
    for i, document in enumerate(documents):
        marks = [("", content_of(document))]
        marks += [(field, content_of(document[field])) for field in fields if field]
        for mark in marks:
            a, b = sorted((root(i), root(seen.setdefault(mark, i))))
            first[b] = a
    return [root(i) for i in range(len(documents))]


def part_of(items: Sequence[Any], part: tuple[float, float]) -> Sequence[Any]:
    """Return the items between two shares of their order; consecutive parts cover all items."""
    start, stop = (round(share * len(items)) for share in part)
    return items[start:stop]


def content_of(document: Any) -> str:
    """Return a document as text; equal content gives equal text."""
    return document if isinstance(document, str) else canonical(_plain(document))


def _rank(seed: int, task: str, document: Any) -> str:
    return hashlib.sha256(f"{seed}\0{task}\0{content_of(document)}".encode()).hexdigest()


def _joint(ranks: Sequence[str], members: Sequence[int]) -> str:
    """Return the rank of a unit: that of its content if all members are equal."""
    apart = sorted({ranks[i] for i in members})
    return apart[0] if len(apart) == 1 else hashlib.sha256("".join(apart).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a JSON-ready copy; values of other types become strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
