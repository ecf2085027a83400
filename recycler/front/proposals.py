"""The weights that the surrogate expects to be best for a preference: an amortised front.

A preference is one weight per objective; a merge's value is the weighted average of its expected
gains in steps of each objective. No merge is evaluated. The search is deterministic: pattern search
on weights in thousandths, from the best of the trials and of random points of a fixed seed.

Letters: k scored trials, d coordinates, m objectives, c points, n checkpoints.
Reference: MAP, arXiv 2406.07529 (a front for any preference from one surrogate per task).
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycler.errors import InvalidConfig
from recycler.front.asked import weighted
from recycler.front.front import require_preference
from recycler.front.prediction import LEVEL, Forecaster, Prediction
from recycler.front.results import Results
from recycler.nouns.objectives import Array
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Trial

UNIT = 1000  # proposed weights are multiples of 1 / UNIT, so that what is printed is what is meant
_STEPS = (256, 64, 16, 4, 1)
_STARTS, _DRAWS = 4, 400
_FINE = 2000  # most points of the lattice from which a grid of preferences is chosen
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The merge expected to be best for a preference.

    Attributes:
        preference: objective -> weight, summing to 1, unitless.
        prediction: what is expected of the merge.
        average: its expected weighted average of gains less that of `rival`, in steps.
        rival: the scored trial with the best expected weighted average, among those expected to meet
            the floors.
        p_better: probability that the merge's weighted average is above the rival's, both as means
            over all items.
        meets_floors: whether it is expected to meet all floors.
    """

    preference: Mapping[str, float]
    prediction: Prediction
    average: float
    rival: Trial
    p_better: float
    meets_floors: bool

    def to_json(self) -> dict[str, Any]:
        """Return the suggestion as JSON data."""
        return {
            "preference": dict(self.preference),
            **self.prediction.to_json(),
            "average_above_rival": self.average,
            "rival": {"trial": self.rival.number, "name": self.rival.name},
            "p_better": self.p_better,
            "meets_floors": self.meets_floors,
        }


def preference_of(forecaster: Forecaster, weights: Mapping[str, float]) -> Array:
    """(m,) weights of a preference, summing to 1; objectives left out have 0.

    Raises:
        InvalidConfig: an objective is not searched, a weight is negative, or all are 0.
    """
    searched = [objective.name for objective in forecaster.plan.objectives.searched]
    for name in weights:
        if name not in searched:
            near = difflib.get_close_matches(name, searched, 1, 0.4)
            held = name in [o.name for o in forecaster.plan.objectives.held_out]
            raise InvalidConfig(
                f"objective {name!r} is held out, so the search knows nothing about it."
                if held
                else f"the study has no objective {name!r}.",
                hint=f"did you mean {near[0]}?" if near else f"it searches {', '.join(searched)}.",
            )
    require_preference(weights or dict.fromkeys(searched, 0.0))
    wanted = np.array([float(weights.get(name, 0.0)) for name in searched])
    shares: Array = wanted / wanted.sum()
    return shares


def preference_grid(m: int, count: int) -> Array:
    """(count, m) preferences spread over the simplex: its corners, then always the farthest point.

    Args:
        m: number of objectives.
        count: how many, at least 1; at most the points of the lattice they are taken from.
    """
    if m == 1:
        return np.ones((1, 1))
    if m == 2:
        shares = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
        return np.stack([1 - shares, shares], axis=1)
    heights = [h for h in range(1, _FINE) if math.comb(h + m - 1, m - 1) <= _FINE]
    height = max([h for h in heights if h % m == 0] or heights)  # a multiple of m has the centre
    bars = np.array(list(combinations(range(height + m - 1), m - 1)))
    edges = np.concatenate(
        [np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), height + m - 1)], axis=1
    )
    lattice = (np.diff(edges, axis=1) - 1) / height
    if count < m:  # too few for the corners: the even preference and what is farthest from it
        chosen = [int(((lattice - 1 / m) ** 2).sum(axis=1).argmin())]
    else:
        chosen = [int(row) for row in lattice.argmax(axis=0)]
    while len(chosen) < min(count, len(lattice)):
        apart = ((lattice[:, None] - lattice[chosen][None]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(apart.argmax()))
    found: Array = lattice[chosen]
    return found


class Proposals:
    """Proposes merges for preferences; earlier optima are starts of later ones."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster, self._space = forecaster, forecaster.plan.points
        results = forecaster.results
        self._steps = results.steps
        floors = results.floors("dev")
        self._floors = np.where(np.isfinite(floors), floors, -np.inf)
        self._most = results.plan.settings.get("max_nonzero") or self._space.n
        rng = np.random.default_rng(0)
        drawn = [self._space.draws(rng, a, _DRAWS // 4) for a in (0.1, 0.3, 1.0, 3.0)]
        starts = np.concatenate([*drawn, forecaster.points])
        self._starts = np.unique(np.array([self._counts(p) for p in starts]), axis=0)

    def suggest(self, wanted: Array) -> Suggestion:
        """Return the merge expected to be best for a (m,) preference that sums to 1."""
        values = self._values(self._points(self._starts), wanted)
        order = np.argsort(-values, kind="stable")[:_STARTS]
        found = [self._climbed(self._starts[row], wanted) for row in order]
        best = max(found, key=lambda pair: pair[0])[1]
        self._starts = np.unique(np.concatenate([self._starts, best[None]]), axis=0)
        point = self._points(best[None])[0]
        names = [o.name for o in self._forecaster.plan.objectives.searched]
        rival, ahead, chance = self._against_rival(point, wanted)
        return Suggestion(
            preference=dict(zip(names, wanted.tolist(), strict=True)),
            prediction=self._forecaster.at(self._forecaster.plan.merge_at(point)),
            average=ahead,
            rival=rival,
            p_better=chance,
            meets_floors=bool(self._missing(self._forecaster.gains(point[None]))[0] <= 0),
        )

    # --- the value of points ---

    def _missing(self, gains: Array) -> Array:
        """(c,) steps by which (c, m) gains miss the floors, summed over objectives."""
        missing: Array = np.maximum((self._floors - gains) / self._steps, 0.0).sum(axis=1)
        return missing

    def _values(self, points: Array, wanted: Array) -> Array:
        """(c,) expected weighted average at (c, d) points; a missed floor outweighs everything."""
        gains = self._forecaster.gains(points)
        values: Array = gains / self._steps @ wanted - 1e6 * self._missing(gains)
        return values

    def _against_rival(self, point: Array, wanted: Array) -> tuple[Trial, float, float]:
        """The best scored trial, how far the point is expected to be above it, and how surely."""
        forecaster = self._forecaster
        row = int(self._values(forecaster.points, wanted).argmax())
        both = np.stack([point, forecaster.points[row]])
        gains = forecaster.gains(both) / self._steps
        ahead = float((gains[0] - gains[1]) @ wanted)
        variance = 0.0
        for model, share in zip(forecaster.models, wanted / self._steps, strict=True):
            _, shrink = model.squeeze(model.gains(both))
            slope = np.array([1.0, -1.0]) * share / shrink
            variance += model.factor * float(slope @ model.posterior.covariance(both) @ slope)
        if (both[0] == both[1]).all() or variance <= 1e-18:
            return forecaster.trials[row], ahead, 0.5 if ahead == 0 else float(ahead > 0)
        chance = 0.5 * (1 + math.erf(ahead / math.sqrt(2 * variance)))
        return forecaster.trials[row], ahead, chance

    # --- the search ---

    def _climbed(self, counts: Counts, wanted: Array) -> tuple[float, Counts]:
        """The value and the place of the local optimum that pattern search reaches."""
        best = float(self._values(self._points(counts[None]), wanted)[0])
        for step in _STEPS:
            while True:
                around = self._moves(counts, step)
                values = self._values(self._points(around), wanted)
                row = int(values.argmax())
                if values[row] <= best + 1e-9:
                    break
                counts, best = around[row], float(values[row])
        return best, counts

    def _moves(self, counts: Counts, step: int) -> Counts:
        """(c, d) neighbours: a step from one checkpoint to another in one group or all; ranges."""
        blocks, n, made = self._space.blocks, self._space.n, [counts]
        groups: Sequence[Sequence[slice]] = [[b] for b in blocks]
        for group in [*groups, *([blocks] if len(blocks) > 1 else [])]:
            for i in range(n):
                for j in range(n):
                    if i == j or not any(counts[b][i] for b in group):
                        continue
                    moved = counts.copy()
                    for b in group:
                        amount = min(step, int(counts[b][i]))
                        moved[b.start + i] -= amount
                        moved[b.start + j] += amount
                    made.append(moved)
        for place in range(self._space.tail.start, self._space.d):
            for change in (-step, step):
                moved = counts.copy()
                moved[place] = min(UNIT, max(0, moved[place] + change))
                made.append(moved)
        if self._most < n:
            made = [self._counts(self._points(row[None])[0]) for row in made]
        return np.array(made)

    def _counts(self, point: Array) -> Counts:
        """(d,) coordinates in thousandths; each block sums to UNIT, within `max_nonzero`."""
        if self._most < self._space.n:
            point = self._space.sparsest(point, self._most)
        counts = np.rint(point * UNIT).astype(np.int64)
        for block in self._space.blocks:
            raw = np.maximum(point[block], 0.0) * UNIT
            whole = np.floor(raw + 1e-9).astype(np.int64)
            left = UNIT - int(whole.sum())
            if left > 0:
                whole[np.argsort(whole - raw, kind="stable")[:left]] += 1
            counts[block] = whole
        return counts

    def _points(self, counts: Counts) -> Array:
        """(c, d) points of rows of thousandths."""
        points: Array = counts / UNIT
        return points


def foreseen(
    results: Results,
    merges: Sequence[Mapping[str, float] | Recipe] = (),
    prefer: Sequence[Mapping[str, float]] = (),
    grid: int = 0,
) -> dict[str, Any]:
    """Return what is expected of merges and what is proposed for preferences, as JSON data.

    Args:
        results: the study.
        merges: weights by checkpoint, or whole recipes.
        prefer: preferences: weights by objective.
        grid: number of preferences spread over the simplex, besides `prefer`.
    """
    if not merges and not prefer and grid < 1:
        raise InvalidConfig(
            "nothing is asked.",
            hint="give --weights a=0.5,b=0.5, --recipe FILE, --prefer code=2,chat=1 or --grid 7.",
        )
    forecaster = Forecaster(results)
    objectives = results.plan.objectives
    asked = [m if isinstance(m, Recipe) else weighted(results.plan, m) for m in merges]
    wanted = [preference_of(forecaster, weights) for weights in prefer]
    wanted += [*preference_grid(objectives.m, grid)] if grid > 0 else []
    predictions = [forecaster.at(recipe).to_json() for recipe in asked]
    proposals = Proposals(forecaster) if wanted else None
    return {
        "study": results.name,
        "event": results.event,
        "trials": len(forecaster.trials),
        "level": LEVEL,
        "objectives": [o.name for o in objectives.searched],
        "without_errors": results.without_errors("dev"),
        "not_predicted": [o.name for o in objectives.held_out],
        "predictions": predictions,
        "proposals": [proposals.suggest(row).to_json() for row in wanted] if proposals else [],
    }
