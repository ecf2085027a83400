"""What a search varies: weights, one set of them for each group of layers, and settings in ranges.

A point is (d,) numbers: for each of g groups of layers n that lie on a simplex, then one in [0, 1]
for each range. Samplers know points alone; `Plan.merge_at` and `Space.point_of` are the ways
between points and recipes. Where weights may be negative, w = l + (1 - n l) p for a point p of the
simplex, with l the smallest weight allowed. Letters: n checkpoints, g groups, w weights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig
from recycler.nouns.layers import Place, value_at
from recycler.nouns.objectives import Array
from recycler.nouns.recipe import Recipe

UNCHANGED = 1.0  # λ and density that leave a task vector as it is
_BOUNDS = {"lambda": (-10.0, 10.0), "density": (0.001, 1.0)}  # of what can be searched
_KEYS = (*_BOUNDS, "layer_groups", "least_weight")


@dataclass(frozen=True, slots=True)
class Range:
    """A setting of the merge method between two numbers: of one checkpoint, or shared by all."""

    setting: str
    checkpoint: str
    low: float
    high: float

    def value(self, share: float) -> float:
        return min(self.high, self.low + share * (self.high - self.low))

    def share(self, value: float) -> float:
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True, slots=True)
class Space:
    """The points of a search.

    Attributes:
        names: of the n checkpoints.
        groups: layers [start, stop) of each group; empty where all layers have the same weights.
        ranges: what else is searched.
        least: smallest weight, 0 or below, unitless.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, int], ...] = ()
    ranges: tuple[Range, ...] = ()
    least: float = 0.0

    @classmethod
    def of(cls, names: Sequence[str], given: Mapping[str, Any]) -> "Space":
        """From a plan's `space`, as `settings_of` made it."""
        ranges = []
        for setting in _BOUNDS:
            if isinstance(given.get(setting), Mapping):
                ranges += [Range(setting, name, *given[setting]["each"]) for name in names]
            elif setting in given:
                ranges.append(Range(setting, "", *given[setting]))
        groups = tuple((start, stop) for start, stop in given.get("layer_groups", ()))
        return cls(tuple(names), groups, tuple(ranges), given.get("least_weight", 0.0))

    @property
    def n(self) -> int:
        return len(self.names)

    @property
    def is_plain(self) -> bool:
        """Whether a point is the n weights themselves."""
        return not self.groups and not self.ranges and self.least == 0.0

    @property
    def blocks(self) -> list[slice]:
        """Where in a point the weights of each group stand."""
        return [slice(i * self.n, (i + 1) * self.n) for i in range(max(1, len(self.groups)))]

    @property
    def tail(self) -> slice:
        """Where in a point the ranges stand."""
        return slice(len(self.blocks) * self.n, self.d)

    @property
    def d(self) -> int:
        return len(self.blocks) * self.n + len(self.ranges)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """(d,) names: of the checkpoints where that is all there is."""
        weights = list(self.names)
        if self.groups:
            weights = [f"{n} [{start}, {stop})" for start, stop in self.groups for n in self.names]
        own = [f"{r.setting} {r.checkpoint}".strip() for r in self.ranges]
        return (*weights, *own)

    @property
    def centre(self) -> Array:
        """(d,) the uniform soup in the middle of all ranges."""
        weights = np.full(len(self.blocks) * self.n, 1.0 / self.n)
        return np.concatenate([weights, np.full(len(self.ranges), 0.5)])

    def project(self, raw: Array) -> Array:
        """(d,) any finite numbers to a point; a point comes back unchanged, bit for bit."""
        point = np.array(raw, dtype=np.float64)
        for block in self.blocks:
            point[block] = normalised(point[block])
        point[self.tail] = np.clip(point[self.tail], 0.0, 1.0)
        return point

    def draw(self, rng: np.random.Generator, concentration: float) -> Array:
        """(d,) Dirichlet(concentration, …) weights a group, and anything between the ranges' ends."""
        return self.project(self.draws(rng, concentration, 1)[0])

    def draws(self, rng: np.random.Generator, concentration: float, count: int) -> Array:
        """(count, d) of `draw`, all at once."""
        weights = [rng.dirichlet(np.full(self.n, concentration), count) for _ in self.blocks]
        return np.concatenate([*weights, rng.random((count, len(self.ranges)))], axis=1)

    def near(self, rng: np.random.Generator, centre: Array) -> Array:
        """(d,) a draw around a point."""
        drawn = [rng.dirichlet(40.0 * centre[block] + 0.05) for block in self.blocks]
        moved = centre[self.tail] + 0.15 * rng.standard_normal(len(self.ranges))
        return self.project(np.concatenate([*drawn, moved]))

    def sparsest(self, point: Array, most: int) -> Array:
        """The point with only its `most` largest checkpoints, by their weights in all groups."""
        sizes = np.abs(self.weights(point)).sum(axis=0)
        if np.count_nonzero(sizes) <= most:
            return point
        left = np.argsort(-sizes, kind="stable")[most:]
        nothing = -self.least / (1.0 - self.n * self.least)  # the share of a weight of 0
        sparse = point.copy()
        for block in self.blocks:
            shares = point[block].copy()
            shares[left] = 0.0
            if not shares.any():
                shares[np.argmax(sizes)] = 1.0
            shares = normalised(shares) * (1.0 - len(left) * nothing)
            shares[left] = nothing
            sparse[block] = shares
        return sparse

    def weights(self, point: Array) -> Array:
        """(g, n) weights of a point."""
        shares = np.stack([point[block] for block in self.blocks])
        found: Array = self.least + (1.0 - self.n * self.least) * shares
        return found

    def _shares(self, weights: Array) -> Array:
        """(g, n) on simplices: `weights` the other way round."""
        shares = (weights - self.least) / (1.0 - self.n * self.least)
        return np.stack([normalised(row) for row in shares])

    def point_of(self, recipe: Recipe) -> Array:
        """(d,) where a recipe of the study lies; what it does not set changes nothing."""
        items = {item.name: item for item in recipe.ingredients}
        last = self.groups[-1][1] if self.groups else 1
        weights = np.zeros((len(self.blocks), self.n))
        for row, (start, _) in enumerate(self.groups or ((0, 1),)):
            place = Place("", start, last)
            for column, name in enumerate(self.names):
                if name in items:
                    factor = value_at(items[name].settings.get("weight", 1.0), place)
                    weights[row, column] = items[name].weight * factor
        shares = []
        for r in self.ranges:
            own = items[r.checkpoint].settings if r.checkpoint in items else {}
            shared = recipe.settings if not r.checkpoint else {}
            shares.append(r.share(float({**shared, **own}.get(r.setting, UNCHANGED))))
        points = weights if self.is_plain else self._shares(weights)
        return np.concatenate([points.reshape(-1), shares])

    def settings(self, point: Array) -> dict[str, dict[str, float]]:
        """The ranges' values at a point: checkpoint, or "" for all -> setting -> value."""
        found: dict[str, dict[str, float]] = {}
        for r, share in zip(self.ranges, point[self.tail], strict=True):
            found.setdefault(r.checkpoint, {})[r.setting] = r.value(float(share))
        return found


def normalised(raw: Array) -> Array:
    """Non-negative numbers divided by their sum; all zeros become the uniform soup.

    Args:
        raw: (n,) any finite numbers; negative ones count as 0.

    Returns:
        (n,) on the simplex.

    Invariants: what is on the simplex already comes back unchanged, bit for bit.
    """
    positive: Array = np.clip(np.asarray(raw, dtype=np.float64), 0.0, None)
    total = positive.sum()
    if abs(total - 1.0) <= 1e-12:  # dividing by a rounded sum would only move last digits
        return positive
    if not total > 0.0:
        return np.full(len(positive), 1.0 / len(positive))
    weights: Array = positive / total
    return weights


def settings_of(
    given: Mapping[str, Any], method: str, known: Sequence[str], layers: int
) -> dict[str, Any]:
    """Check `search.space` of a study file.

    Args:
        given: `lambda: [low, high]`, `density: [low, high]` or `density: {each: [low, high]}` for
            one a checkpoint, `layer_groups: count`, `least_weight: number`.
        method: name of the merge method.
        known: names of the method's settings.
        layers: of the checkpoints' architecture.

    Returns:
        The same in plain form, `layer_groups` as layers [start, stop) of each.

    Raises:
        InvalidConfig: naming the key, what was found and what was expected.
    """
    for key in given:
        if key not in _KEYS:
            raise InvalidConfig(
                f"search.space: {key!r} can't be searched.", hint=f"it takes {', '.join(_KEYS)}."
            )
    made = {key: _range(key, given[key], method, known) for key in _BOUNDS if key in given}
    if "layer_groups" in given:
        made["layer_groups"] = _groups(given["layer_groups"], layers)
    if "least_weight" in given:
        least = given["least_weight"]
        if not _is_number(least) or not -1.0 <= least <= 0.0:
            raise InvalidConfig(
                f"search.space.least_weight is {least!r}, expected -1 to 0.",
                hint="-0.1 lets every checkpoint be subtracted by up to a tenth.",
            )
        made["least_weight"] = float(least)
    return made


def _range(key: str, given: Any, method: str, known: Sequence[str]) -> Any:
    if key not in known:
        raise InvalidConfig(
            f"search.space: the merge method {method!r} has no {key}.",
            hint="leave it out, or take a task-vector method such as ties.",
        )
    if key == "density" and isinstance(given, Mapping) and set(given) == {"each"}:
        return {"each": _ends(key, given["each"])}
    return _ends(key, given)


def _ends(key: str, given: Any) -> list[float]:
    low, high = _BOUNDS[key]
    pair = isinstance(given, list | tuple) and len(given) == 2 and all(map(_is_number, given))
    if not pair or not low <= given[0] < given[1] <= high:
        forms = " or {each: [low, high]}" if key == "density" else ""
        raise InvalidConfig(
            f"search.space.{key} is {given!r}, expected [low, high]{forms} within {low:g} and "
            f"{high:g}.",
            hint=f"such as `{key}: [0.3, 1.0]`; one value for all merges goes into `merge.settings`.",
        )
    return [float(given[0]), float(given[1])]


def _groups(count: Any, layers: int) -> list[list[int]]:
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= layers:
        raise InvalidConfig(
            f"search.space.layer_groups is {count!r}; the checkpoints have {layers} layers.",
            hint=f"give a whole number from 2 to {layers}, or leave it out.",
        )
    ends = [round(i * layers / count) for i in range(count + 1)]
    return [[ends[i], ends[i + 1]] for i in range(count)]


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
