"""Bayesian quadratic surrogate an objective, expected improvement over a space, numpy only.

Each objective is a Gaussian process in a point's coordinates (mostly the weights) whose kernel
holds a constant, a linear and a quadratic part (near one basin a loss is a quadratic form in the
weights: MAP, arXiv 2406.07529) and a smooth rest. Some functions a proposal are drawn from each
posterior, by pathwise conditioning, so that they can be read off at any number of candidates. The
next merge is the candidate that on average over the draws adds most volume to the front or, in a
share of the proposals, most to the best average.

Letters: k finished trials, d coordinates, m objectives, c candidates. Gains: larger is better.
May import: search.simplex, space, pareto, numpy, optuna.
Reference: Wilson et al. 2021, arXiv 2011.04026 (pathwise conditioning); Zhang & Golovin 2020,
arXiv 2006.04655 (volume as a mean over random Chebyshev scalarizations).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial

from recycler.front import pareto
from recycler.protocols import Problem
from recycler.search.simplex import (
    Array,
    SimplexSampler,
    Squeeze,
    complete,
    gains,
    points,
    running,
)

MANY = 2000  # trials from which all this, whose time grows with their cube, no longer pays
FITTED = 160  # at most so many trials decide the kernel's scales; all of them condition the result
FEATURES = 128  # random Fourier features of the smooth part
DRAWS = 48  # functions of the posterior that a proposal is judged by
DIRECTIONS = 384  # of random Chebyshev scalarizations, over all draws
# Scales are tried on these grids; variances are in those of the values.
_GRID = {
    "linear": (1e-4, 0.01, 0.1, 1.0, 10.0),
    "quadratic": (1e-4, 0.01, 0.1, 1.0, 10.0),
    "smooth": (1e-4, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
    "length": (0.1, 0.2, 0.35, 0.6, 1.0),
}
_NOISE = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)  # where it is not known
_EXACT = 1e-5  # noise, as a share of the variance of the values, that counts as none
_PAIRED = (1.0, 0.5, 0.25, 0.1)  # share of a known variance that merges do not have in common
CONSTANT = 10.0  # prior variance of the constant, in variances of the values


@dataclass(frozen=True, slots=True)
class Scales:
    """Prior variances of the parts of the kernel, the smooth part's length, the noise's factor."""

    linear: float = 1.0
    quadratic: float = 1.0
    smooth: float = 0.1
    length: float = 0.35
    noise: float = 1.0


def kernel(scales: Scales, centre: Array, a: Array, b: Array) -> Array:
    """(k, c) prior covariance of (k, d) and (c, d) points, around the (d,) centre of the space."""
    inner = (a - centre) @ (b - centre).T
    near = np.exp(-_squared(a, b) / (2 * scales.length**2))
    covariance: Array = (
        CONSTANT + scales.linear * inner + scales.quadratic * inner**2 + scales.smooth * near
    )
    return covariance


def _squared(a: Array, b: Array) -> Array:
    distance: Array = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.maximum(distance, 0.0)


class Posterior:
    """What the finished trials say about one objective."""

    def __init__(self, x: Array, values: Array, variance: Array | None, centre: Array) -> None:
        """Choose scales by marginal likelihood, then condition on all trials.

        Args:
            x: (k, d) points.
            values: (k,) gains.
            variance: (k,) variance of the observations; None where it is not known.
            centre: (d,) of the space.
        """
        self.x, self._centre = x, centre
        self.offset = float(values.mean())
        self.unit = float(values.std()) or 1.0
        self._target = (values - self.offset) / self.unit
        self._known = variance is not None
        self._variance = np.ones(len(x)) if variance is None else variance / self.unit**2
        self.scales = self._fitted()
        covariance = kernel(self.scales, centre, x, x) + np.diag(self._noise())
        self._root = _root(covariance)
        self._weights = _solve(self._root, self._target)

    def mean(self, w: Array) -> Array:
        """(c,) posterior mean at (c, d) points, in the unit of the values."""
        expected: Array = kernel(self.scales, self._centre, w, self.x) @ self._weights
        return self.offset + self.unit * expected

    def deviation(self, w: Array) -> Array:
        """(c,) posterior standard deviation at (c, d) points, in the unit of the values."""
        across = kernel(self.scales, self._centre, w, self.x)
        prior = [kernel(self.scales, self._centre, row[None], row[None])[0, 0] for row in w]
        variance = prior - (across * _solve(self._root, across.T).T).sum(1)
        spread: Array = self.unit * np.sqrt(np.maximum(variance, 0.0))
        return spread

    def draws(self, rng: np.random.Generator, count: int) -> Callable[[Array], Array]:
        """Functions of the posterior: (c, d) points -> (c, count) values."""
        prior = _prior_draws(self.scales, self._centre, rng, count)
        errors = np.sqrt(self._noise())[:, None] * rng.standard_normal((len(self.x), count))
        weights = _solve(self._root, self._target[:, None] - prior(self.x) - errors)

        def function(w: Array) -> Array:
            values: Array = prior(w) + kernel(self.scales, self._centre, w, self.x) @ weights
            return self.offset + self.unit * values

        return function

    def _noise(self) -> Array:
        return np.maximum(self.scales.noise * self._variance, 1e-6)

    def _fitted(self) -> Scales:
        """Scales of large marginal likelihood: steps on the grids, one scale at a time."""
        rows = np.unique(np.linspace(0, len(self.x) - 1, FITTED).astype(int))
        evidence = _Evidence(self.x[rows], self._centre, self._target[rows], self._variance[rows])
        grids = {**_GRID, "noise": _PAIRED if self._known else _NOISE}

        @cache
        def at(place: tuple[int, ...]) -> float:
            return evidence(_scales(grids, place))

        best, top = tuple(len(grid) // 2 for grid in grids.values()), -np.inf
        while at(best) > top:
            top = at(best)
            for axis, grid in enumerate(grids.values()):
                steps = [i for i in (best[axis] - 1, best[axis] + 1) if 0 <= i < len(grid)]
                best = max([best, *((*best[:axis], i, *best[axis + 1 :]) for i in steps)], key=at)
        return _scales(grids, best)


def _scales(grids: Mapping[str, Sequence[float]], place: Sequence[int]) -> Scales:
    return Scales(**{name: grid[i] for (name, grid), i in zip(grids.items(), place, strict=True)})


class _Evidence:
    """Log marginal likelihood of scales, with a weak prior on them."""

    def __init__(self, x: Array, centre: Array, target: Array, variance: Array) -> None:
        self._inner = (x - centre) @ (x - centre).T
        self._square = self._inner**2
        self._distance = _squared(x, x)
        self._target, self._variance = target, variance

    def __call__(self, s: Scales) -> float:
        near = np.exp(-self._distance / (2 * s.length**2))
        covariance = (
            CONSTANT + s.linear * self._inner + s.quadratic * self._square + s.smooth * near
        )
        covariance[np.diag_indices(len(near))] += np.maximum(s.noise * self._variance, 1e-6)
        root = _root(covariance)
        half = np.linalg.solve(root, self._target)
        prior = 0.1 * sum(np.log(v) ** 2 for v in (s.linear, s.quadratic / 3, s.smooth / 0.1))
        return float(-0.5 * half @ half - np.log(np.diag(root)).sum() - 0.5 * prior)


def _root(covariance: Array) -> Array:
    """Lower Cholesky factor; the diagonal is raised until there is one."""
    jitter = 1e-8
    while True:
        try:
            root = np.linalg.cholesky(covariance + jitter * np.eye(len(covariance)))
            return np.asarray(root, dtype=np.float64)
        except np.linalg.LinAlgError:
            jitter *= 10


def _solve(root: Array, right: Array) -> Array:
    solution: Array = np.linalg.solve(root.T, np.linalg.solve(root, right))
    return solution


def _prior_draws(
    s: Scales, centre: Array, rng: np.random.Generator, count: int
) -> Callable[[Array], Array]:
    """Functions whose covariance is `kernel`'s; the smooth part by Fourier features they share."""
    d = len(centre)
    constant = np.sqrt(CONSTANT) * rng.standard_normal(count)
    slope = np.sqrt(s.linear) * rng.standard_normal((d, count))
    form = np.sqrt(s.quadratic) * rng.standard_normal((d * d, count))
    frequency = rng.standard_normal((d, FEATURES)) / s.length
    phase = rng.uniform(0, 2 * np.pi, FEATURES)
    height = np.sqrt(2 * s.smooth / FEATURES) * rng.standard_normal((FEATURES, count))

    def functions(w: Array) -> Array:
        z = w - centre
        products = (z[:, :, None] * z[:, None, :]).reshape(len(w), d * d)
        smooth = np.cos(w @ frequency + phase) @ height
        values: Array = constant + z @ slope + products @ form + smooth
        return values

    return functions


def _models(
    problem: Problem, x: Array, y: Array, errors: Array
) -> Iterator[tuple[Posterior, Squeeze]]:
    """One posterior an objective, of squeezed gains."""
    for j in range(y.shape[1]):
        squeeze = Squeeze.of(y[:, j], float(problem.reference[j]))
        values, factor = squeeze(y[:, j])
        variance = (errors[:, j] * factor) ** 2 if (errors[:, j] > 0).any() else None
        yield Posterior(x, values, variance, problem.space.centre), squeeze


def shrunk(problem: Problem, x: Array, y: Array, errors: Array) -> Array:
    """(k, m) gains that are expected of merges on further items, given those of all of them.

    A merge's own gain counts the less for it the larger its error is; the rest is what the others
    say. Where no error is known, the noise is what the evidence finds. Gains without noise stay, and
    so do properties of the merges themselves.

    Args:
        problem: gives the space and the fixed corner.
        x: (k, d) points of the merges.
        y: (k, m) their gains.
        errors: (k, m) standard errors; a column of zeros where they are not known.
    """
    made, objectives = y.copy(), problem.objectives.searched
    for j, (model, squeeze) in enumerate(_models(problem, x, y, errors)):
        noisy = (errors[:, j] > 0).any() or model.scales.noise > _EXACT
        if noisy and not objectives[j].of_merge:
            made[:, j] = squeeze.undone(model.mean(x))
    return made


def predicted(
    problem: Problem, x: Array, y: Array, errors: Array, point: Array
) -> tuple[Array, Array]:
    """(m,) gains that the others let one expect at a (d,) point, and (m,) their deviations.

    Args:
        problem: as in `shrunk`.
        x: as in `shrunk`.
        y: as in `shrunk`.
        errors: as in `shrunk`.
        point: of a merge that is not among them.
    """
    means, deviations = [], []
    for model, squeeze in _models(problem, x, y, errors):
        mean = squeeze.undone(model.mean(point[None]))
        _, factor = squeeze(mean)
        means.append(mean[0])
        deviations.append(model.deviation(point[None])[0] / factor[0])
    return np.array(means), np.array(deviations)


class Surrogate(SimplexSampler):
    """Expected improvement on one Bayesian surrogate an objective."""

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        finished = complete(study)
        if len(finished) < 2:
            return self.problem.space.draw(self.rng, 1.0)
        x, y = points(self.problem, finished), gains(finished)
        errors = np.array([t.user_attrs["stderr"] for t in finished])
        models = [model for model, _ in _models(self.problem, x, y, errors)]
        seen = np.concatenate([x, points(self.problem, running(study))])
        expected = np.stack([model.mean(seen) for model in models], axis=1)
        count = int(self.setting("draws", DRAWS))
        draws = [model.draws(self.rng, count) for model in models]

        def drawn(w: Array) -> Array:
            return np.stack([functions(w) for functions in draws], axis=2)

        value = self._acquisition(drawn(seen))
        pool = self._candidates(seen, expected)
        for _ in range(int(self.setting("rounds", 8))):
            scores = value(drawn(pool))
            best = pool[np.argsort(-scores, kind="stable")[:24]]
            pool = self._sparse(np.concatenate([best, self._moves(best, 6 * len(best))]))
        return self.problem.space.project(pool[int(np.argmax(value(drawn(pool))))])

    def _acquisition(self, front: Array) -> Callable[[Array], Array]:
        """(c, s, m) drawn gains -> (c,) worth: mean over s draws of what is added to the front.

        Either the volume that is added, or in a share of the proposals the best average.
        """
        corner = self.problem.reference
        _, s, m = front.shape
        if self.rng.random() < self.setting("average", 0.3):
            scale = self.problem.scales ** -float(self.rng.random() < 0.5)
            top = (front @ (scale / scale.sum())).max(0)

            def raised(values: Array) -> Array:
                average = values @ (scale / scale.sum())
                worth: Array = np.maximum(average - top, 0.0).mean(1) + 1e-9 * average.mean(1)
                return worth

            return raised
        span = np.maximum(front.max(0).mean(0) - corner, 1e-12)
        normal = np.abs(self.rng.standard_normal((s, max(DIRECTIONS // s, 1), m))) + 1e-3
        normal /= np.sqrt((normal**2).sum(2, keepdims=True))

        def reach(values: Array) -> Array:
            height = np.maximum((values - corner) / span, 0.0)
            ratio = height[:, :, None, 0] / normal[:, :, 0]
            for j in range(1, m):
                ratio = np.minimum(ratio, height[:, :, None, j] / normal[:, :, j])
            powers: Array = ratio**m
            return powers

        have = reach(front).max(0)

        def added(values: Array) -> Array:
            gain = np.maximum(reach(values) - have, 0.0).mean((1, 2))
            tie = ((values - corner) / span).mean((1, 2))  # where nothing adds volume
            worth: Array = gain + 1e-9 * tie
            return worth

        return added

    def _candidates(self, seen: Array, expected: Array) -> Array:
        """(c, d) wide draws, plain averages, and moves around the best so far."""
        space, rng = self.problem.space, self.rng
        wide = [space.draws(rng, a, 100) for a in (0.1, 0.3, 1.0, 3.0)]
        average = (expected / self.problem.scales).mean(1)
        good = pareto.nondominated(expected)
        good[np.argsort(-average)[:8]] = True
        centres = seen[good]
        return np.concatenate([*wide, centres, self._moves(centres, 800)])

    def _moves(self, centres: Array, count: int) -> Array:
        """(count, d) neighbours; where there are several blocks, some of them stay."""
        rng, space = self.rng, self.problem.space
        start = centres[rng.integers(len(centres), size=count)]
        kind = rng.integers(5, size=count)
        other = centres[rng.integers(len(centres), size=count)]
        moved = start.copy()
        for block in space.blocks:
            moved[:, block] = self._moved(start[:, block], other[:, block], kind)
        if space.is_plain:
            return moved
        parts = [*space.blocks, space.tail]
        ranges = start[:, space.tail] + 0.2 * rng.standard_normal((count, len(space.ranges)))
        moved[:, space.tail] = np.clip(ranges, 0.0, 1.0)
        for number, stays in enumerate(rng.random((count, len(parts))).T < 0.5):
            moved[stays, parts[number]] = start[stays, parts[number]]
        return moved

    def _moved(self, start: Array, other: Array, kind: NDArray[np.int64]) -> Array:
        """(count, n) weights: mixtures, steps to or from a checkpoint, small changes."""
        rng, (count, n) = self.rng, start.shape
        single = np.eye(n)[rng.integers(n, size=count)]
        step = rng.uniform(0, 1, size=(count, 1)) ** 2
        moved = start + step * (other - start)
        moved = np.where((kind == 1)[:, None], start + 0.6 * step * (single - start), moved)
        less = start * (1 - single * rng.choice([0.5, 1.0], size=(count, 1)))
        moved = np.where((kind == 2)[:, None], less, moved)
        spread = start * np.exp(0.5 * rng.standard_normal((count, n)))
        moved = np.where((kind == 3)[:, None], spread, moved)
        swap = np.eye(n)[rng.integers(n, size=count)]
        amount = step * (start * single).sum(1, keepdims=True)
        moved = np.where((kind == 4)[:, None], start + amount * (swap - single), moved)
        moved = np.clip(moved, 0.0, None)
        total = moved.sum(1, keepdims=True)
        return np.where(total > 1e-9, moved / np.maximum(total, 1e-9), start)

    def _sparse(self, pool: Array) -> Array:
        """(c, d) shares below half a percent become 0, and so do those beyond `max_nonzero`."""
        made, n = pool.copy(), self.problem.space.n
        most = min(int(self.setting("max_nonzero", 1e9)), n)
        for block in self.problem.space.blocks:
            shares = pool[:, block]
            least = np.maximum(-np.sort(-shares, axis=1)[:, most - 1 : most], 0.005)
            kept = np.where(shares < least, 0.0, shares)
            total = kept.sum(1, keepdims=True)
            made[:, block] = np.where(total > 0, kept / np.where(total > 0, total, 1.0), shares)
        return made
