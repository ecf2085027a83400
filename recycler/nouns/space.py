"""The search space: weights per group of layers, and settings of the merge method in ranges.

A point is an array (d,): for each of g groups of layers, n shares on a simplex; then one number in
[0, 1] per range. Samplers see points only; `Plan.merge_at` and `Space.point_of` convert to and from
recipes. If weights may be negative, w = l + (1 - n l) p for shares p and smallest weight l.
Letters: n checkpoints, g groups of layers, d coordinates, w weights.
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

UNCHANGED = 1.0  # value of λ and of density that leaves a task vector unchanged
_BOUNDS = {"lambda": (-10.0, 10.0), "density": (0.001, 1.0)}  # widest ranges
_KEYS = (*_BOUNDS, "layer_groups", "least_weight")


@dataclass(frozen=True, slots=True)
class Range:
    """A searched setting of the merge method: of one checkpoint, or shared by all (empty name)."""

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
        names: names of the n checkpoints.
        groups: layers [start, stop) of each group; empty: all layers have the same weights.
        ranges: settings that are searched too.
        least: smallest weight allowed, 0 or below, unitless.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, int], ...] = ()
    ranges: tuple[Range, ...] = ()
    least: float = 0.0

    @classmethod
    def of(cls, names: Sequence[str], given: Mapping[str, Any]) -> "Space":
        """Make the space from a plan's `space` (see `settings_of`)."""
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
        """Slices of a point with the shares of each group."""
        return [slice(i * self.n, (i + 1) * self.n) for i in range(max(1, len(self.groups)))]

    @property
    def tail(self) -> slice:
        """Slice of a point with the ranges."""
        return slice(len(self.blocks) * self.n, self.d)

    @property
    def d(self) -> int:
        return len(self.blocks) * self.n + len(self.ranges)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """(d,) names of the coordinates: those of the checkpoints if `is_plain`."""
        weights = list(self.names)
        if self.groups:
            weights = [f"{n} [{start}, {stop})" for start, stop in self.groups for n in self.names]
        own = [f"{r.setting} {r.checkpoint}".strip() for r in self.ranges]
        return (*weights, *own)

    @property
    def centre(self) -> Array:
        """(d,) the uniform soup, with each range at its middle."""
        weights = np.full(len(self.blocks) * self.n, 1.0 / self.n)
        return np.concatenate([weights, np.full(len(self.ranges), 0.5)])

    def project(self, raw: Array) -> Array:
        """Map (d,) finite numbers to a point; a point is returned unchanged, bit for bit."""
        point = np.array(raw, dtype=np.float64)
        for block in self.blocks:
            point[block] = normalised(point[block])
        point[self.tail] = np.clip(point[self.tail], 0.0, 1.0)
        return point

    def draw(self, rng: np.random.Generator, concentration: float) -> Array:
        """Draw a (d,) point: Dirichlet(concentration, …) shares per group, uniform ranges."""
        return self.project(self.draws(rng, concentration, 1)[0])

    def draws(self, rng: np.random.Generator, concentration: float, count: int) -> Array:
        """Draw (count, d) points as `draw` does."""
        weights = [rng.dirichlet(np.full(self.n, concentration), count) for _ in self.blocks]
        return np.concatenate([*weights, rng.random((count, len(self.ranges)))], axis=1)

    def near(self, rng: np.random.Generator, centre: Array) -> Array:
        """Draw a (d,) point near another."""
        drawn = [rng.dirichlet(40.0 * centre[block] + 0.05) for block in self.blocks]
        moved = centre[self.tail] + 0.15 * rng.standard_normal(len(self.ranges))
        return self.project(np.concatenate([*drawn, moved]))

    def sparsest(self, point: Array, most: int) -> Array:
        """Keep the `most` checkpoints with the largest weights over all groups; set others to 0."""
        sizes = np.abs(self.weights(point)).sum(axis=0)
        if np.count_nonzero(sizes) <= most:
            return point
        left = np.argsort(-sizes, kind="stable")[most:]
        nothing = -self.least / (1.0 - self.n * self.least)  # the share that gives a weight of 0
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
        """(g, n) shares on the simplex: the inverse of `weights`."""
        shares = (weights - self.least) / (1.0 - self.n * self.least)
        return np.stack([normalised(row) for row in shares])

    def point_of(self, recipe: Recipe) -> Array:
        """(d,) point of a recipe; a setting that it lacks takes the value that changes nothing."""
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
        """Checkpoint, or "" for all of them -> setting -> its value at a point."""
        found: dict[str, dict[str, float]] = {}
        for r, share in zip(self.ranges, point[self.tail], strict=True):
            found.setdefault(r.checkpoint, {})[r.setting] = r.value(float(share))
        return found


def normalised(raw: Array) -> Array:
    """Divide non-negative numbers by their sum; all zeros become the uniform soup.

    Args:
        raw: (n,) finite numbers; negative ones count as 0.

    Returns:
        (n,) on the simplex.

    Invariants: a point of the simplex is returned unchanged, bit for bit.
    """
    positive: Array = np.clip(np.asarray(raw, dtype=np.float64), 0.0, None)
    total = positive.sum()
    if abs(total - 1.0) <= 1e-12:  # dividing by a rounded sum would change last digits
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
        given: `lambda: [low, high]`, `density: [low, high]` or (one per checkpoint) `density: {each:
            [low, high]}`, `layer_groups: count`, `least_weight: number`.
        method: name of the merge method.
        known: names of the method's settings.
        layers: number of layers of the checkpoints.

    Returns:
        The settings as plain data, `layer_groups` as a list of [start, stop).

    Raises:
        InvalidConfig: a key is unknown or its value out of bounds.
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
