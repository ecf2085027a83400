"""What the surrogate expects of a merge that was not scored: scores with calibrated intervals.

Two intervals hold the score with 90 % probability each. `dev`: the score on the study's dev items.
All merges share the luck of these items, so it is narrow near scored merges. `mean`: the mean over
all items of the same sort, of which the dev items are a sample; so it is never narrower than the
error of a score.

The posterior of `front.posterior` is too sure of itself: its scales are fitted, and its kernel is
only about right. So its variance is multiplied by INFLATION times the spread of its errors when each
trial is predicted from all others. `bench/predict.py` measures the coverage; figures in bench/LOG.md.

Letters: k scored trials, d coordinates, m objectives, c points. Gains: larger is better.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recycler.errors import Conflict
from recycler.front.asked import point_in
from recycler.front.expectation import scored_points
from recycler.front.inducing import affordable
from recycler.front.posterior import Posterior, Squeeze
from recycler.front.results import Results
from recycler.nouns.objectives import Array, Objective
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import State, Trial

LEVEL = 0.9  # probability of the intervals
_QUANTILE = 1.6448536269514722  # of the normal distribution, for LEVEL
# Measured on tuning pools (bench/predict.py --tune): the factor of the posterior's variance, and the
# share of a score's error variance that is a merge's own rather than common to all merges.
INFLATION, OWN = 2.9, 0.04
# Factor of a score's error in the interval of the mean: where items were lucky, most are right, and
# the error, estimated from the same items, is too small.
LUCKY = 1.1
_USUAL, _PRIOR = 0.7, 10  # usual spread of the left-out errors, and how many trials that counts as
_DEEPEST = 30.0  # depth below the squeeze's floor, in its units, at which predictions end
_SAME = 1e-9  # difference of coordinates below which two merges are one
_LIMITS = {"share": (0.0, 1.0), "bits/byte": (0.0, np.inf), "perplexity": (1.0, np.inf)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of one objective, as raw scores in its unit.

    Attributes:
        objective: the objective.
        expected: the expected score.
        dev: 90 % interval of the score on the dev items.
        mean: 90 % interval of the mean over all items of the same sort.
        exact: whether it is known without doubt, as a property of the merge itself is.
    """

    objective: Objective
    expected: float
    dev: tuple[float, float]
    mean: tuple[float, float]
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of one merge.

    Attributes:
        recipe: the merge.
        forecasts: one for each of the m searched objectives.
        trial: number of the trial that is this merge and was scored on all dev items; None: none.
        nearest: number of the scored trial whose weights differ least.
        distance: share of the weights that differs from those of `nearest`, 0 to 1 inside the space.
        notes: why the intervals may be too narrow; empty inside the region of the trials.
    """

    recipe: Recipe
    forecasts: tuple[Forecast, ...]
    trial: int | None
    nearest: int
    distance: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON data."""
        return {
            "weights": self.recipe.weights,
            "recipe": self.recipe.to_json(),
            "id": self.recipe.id,
            "scored_as": self.trial,
            "nearest": self.nearest,
            "distance": self.distance,
            "notes": list(self.notes),
            "objectives": {
                f.objective.name: {
                    "expected": f.expected,
                    "dev": list(f.dev),
                    "mean": list(f.mean),
                    "exact": f.exact,
                    "unit": f.objective.unit,
                    "direction": f.objective.direction,
                }
                for f in self.forecasts
            },
        }


@dataclass(frozen=True, slots=True)
class _Model:
    """The posterior of one objective, the factor of its variance, and the errors of its scores."""

    posterior: Posterior
    squeeze: Squeeze
    factor: float
    values: Array  # (k,) squeezed gains
    errors: Array  # (k,) standard errors of these; 0 if unknown
    own: float  # share of the error variance that is a merge's own

    @classmethod
    def of(cls, posterior: Posterior, squeeze: Squeeze, y: Array, errors: Array) -> "_Model":
        values, factor = squeeze(y)
        residuals, deviations = posterior.left_out()
        known = bool((errors > 0).any())
        shrunk = errors * factor
        noise = OWN * shrunk**2 if known else posterior.scales.noise * posterior.unit**2
        spread = np.sqrt(INFLATION * _USUAL * deviations**2 + noise)
        z = np.abs(residuals) / np.maximum(spread, 1e-12)
        k = len(z)
        usual = (k * float(np.quantile(z, LEVEL)) / _QUANTILE + _PRIOR * _USUAL) / (k + _PRIOR)
        if not known:  # then the noise was fitted, and nothing is known to be common
            shrunk = np.full(k, np.sqrt(posterior.scales.noise) * posterior.unit)
        return cls(
            posterior,
            squeeze,
            INFLATION * float(np.clip(usual, 0.5, 5.0)),
            values,
            shrunk,
            OWN if known else 1.0,
        )

    def undone(self, squeezed: Array) -> Array:
        """(c,) gains of squeezed values, which may lie far below what was ever seen."""
        return self.squeeze.undone(
            np.maximum(squeezed, self.squeeze.floor - _DEEPEST * self.squeeze.unit)
        )

    def gains(self, points: Array) -> Array:
        """(c,) expected gains at (c, d) points."""
        return self.undone(self.posterior.mean(points))

    def error(self, squeezed: float) -> float:
        """Standard error of a score: that of the five trials nearest in score."""
        rows = np.argsort(np.abs(self.values - squeezed), kind="stable")[:5]
        return float(np.sqrt((self.errors[rows] ** 2).mean()))

    def intervals(self, point: Array) -> tuple[float, tuple[float, float], tuple[float, float]]:
        """The expected gain at a (d,) point, and the intervals `dev` and `mean`, as gains."""
        middle = float(self.posterior.mean(point[None])[0])
        variance = self.factor * float(self.posterior.deviation(point[None])[0]) ** 2
        error = self.error(middle) ** 2
        known = self.own < 1.0
        ends = []
        for doubt in (self.own * error, LUCKY**2 * error if known else 0.0):
            half = _QUANTILE * np.sqrt(variance + doubt)
            low, high = self.undone(np.array([middle - half, middle + half]))
            ends.append((float(low), float(high)))
        return float(self.undone(np.array([middle]))[0]), ends[0], ends[1]


class Forecaster:
    """The surrogate of a study as it is now; it predicts any merge of the study's space."""

    def __init__(self, results: Results) -> None:
        """Fit one model per searched objective to all scored trials.

        Raises:
            Conflict: there are too few trials to predict from.
        """
        self.results, self.plan = results, results.plan
        self.trials, x, y, errors = (
            scored_points(results.plan, results.trials) if results.trials else ([], *_NOTHING)
        )
        if results.reference is None or len(self.trials) < 3 or results.plan.n < 2:
            raise Conflict(
                f"study {results.name!r} has {len(self.trials)} scored trials; predictions need the "
                "singles and at least three trials in all.",
                hint=f"`recycler run` it; {results.plan.n} singles come first.",
            )
        self.points, self.y, self.errors = x, y, errors

    @cached_property
    def models(self) -> tuple[_Model, ...]:
        """The m models, in the order of the searched objectives."""
        reference = self.results.reference
        assert reference is not None, "__init__ refuses studies without one"
        found = affordable(self.plan.points, reference, self.points, self.y, self.errors)
        return tuple(
            _Model.of(posterior, squeeze, self.y[:, j], self.errors[:, j])
            for j, (posterior, squeeze) in enumerate(found)
        )

    @property
    def few(self) -> str:
        """Note if there are fewer than two trials for each coordinate; else empty."""
        k, d = len(self.trials), self.plan.points.d
        if k >= 2 * d:
            return ""
        return (
            f"only {k} trials are scored for {d} coordinates: below {2 * d} the model hardly knows "
            "more than the straight line between single checkpoints"
        )

    def gains(self, points: Array) -> Array:
        """(c, m) expected gains at (c, d) points."""
        columns = [model.gains(points) for model in self.models]
        for j, objective in enumerate(self.plan.objectives.searched):
            if objective.metric == "merge.nonzero":
                columns[j] = objective.sign * self._nonzero(points)
        return np.stack(columns, axis=1)

    def _nonzero(self, points: Array) -> Array:
        """(c,) number of checkpoints with a weight other than zero."""
        space = self.plan.points
        weights = np.stack([space.weights(point) for point in points])
        counts: Array = (np.abs(weights) > 1e-12).any(axis=1).sum(axis=1).astype(np.float64)
        return counts

    def at(self, recipe: Recipe) -> Prediction:
        """Predict a merge.

        Raises:
            InvalidConfig: it is no merge that the study could have made (see `asked.point_in`).
        """
        point, outside = point_in(self.plan, recipe)
        row, distance = self._nearest(point)
        known = self.trials[row] if np.abs(self.points[row] - point).max() <= _SAME else None
        whole = known if known and known.state == State.COMPLETE else None
        if self.plan.points.is_plain:  # with the study's names, whatever the file calls them
            recipe = self.plan.recipe(tuple(point))
        notes = []
        if outside:
            notes.append(
                f"outside what was searched: {'; '.join(outside)}; intervals are wider there, and "
                "nobody measured how good they are"
            )
        if distance > self._reach:
            notes.append(
                f"far from all {len(self.trials)} trials: distance {distance:.2f} (share of the "
                f"weights that differs from trial {self.trials[row].number}, the nearest); the "
                f"trials are at most {self._reach:.2f} from each other's nearest"
            )
        notes += [self.few] if self.few else []
        return Prediction(
            recipe,
            tuple(
                self._forecast(j, objective, recipe, point, whole)
                for j, objective in enumerate(self.plan.objectives.searched)
            ),
            whole.number if whole else None,
            self.trials[row].number,
            distance,
            tuple(notes),
        )

    def _forecast(
        self, j: int, objective: Objective, recipe: Recipe, point: Array, whole: Trial | None
    ) -> Forecast:
        if objective.metric == "merge.nonzero":
            count = float(len(recipe.ingredients))
            return Forecast(objective, count, (count, count), (count, count), exact=True)
        middle, dev, mean = self.models[j].intervals(point)
        if whole:
            score = whole.evaluations["dev"].scores[objective.name].mean
            if objective.of_merge:
                return Forecast(objective, score, (score, score), (score, score), exact=True)
            known = objective.sign * score
            return self._raw(objective, middle, (known, known), mean)
        return self._raw(objective, middle, dev, dev if objective.of_merge else mean)

    def _raw(
        self,
        objective: Objective,
        middle: float,
        dev: tuple[float, float],
        mean: tuple[float, float],
    ) -> Forecast:
        """Gains as raw scores within the limits of their unit, the smaller end first."""
        low, high = _LIMITS.get(objective.unit, (-np.inf, np.inf))

        def raw(gain: float) -> float:
            return float(np.clip(objective.sign * gain, low, high))

        ends = [(min(map(raw, pair)), max(map(raw, pair))) for pair in (dev, mean)]
        return Forecast(objective, raw(middle), ends[0], ends[1])

    # --- distances ---

    def _distances(self, points: Array) -> Array:
        """(c, k) half the sum of absolute differences of weights, mean over groups of layers."""
        space = self.plan.points
        cut = space.tail.start
        step = 1.0 - space.n * space.least
        a, b = points[:, None, :cut], self.points[None, :, :cut]
        found: Array = 0.5 * step * np.abs(a - b).sum(axis=2) / len(space.blocks)
        return found

    def _nearest(self, point: Array) -> tuple[int, float]:
        """Row of the nearest trial, and its distance."""
        distances = self._distances(point[None])[0]
        row = int(distances.argmin())
        return row, float(distances[row])

    @cached_property
    def _reach(self) -> float:
        """Largest distance of a trial to its nearest other trial."""
        distances = np.stack([self._distances(point[None])[0] for point in self.points])
        np.fill_diagonal(distances, np.inf)
        return float(distances.min(axis=1).max())


_NOTHING = (np.empty((0, 0)), np.empty((0, 0)), np.empty((0, 0)))
