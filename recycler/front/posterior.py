"""The surrogate model: Gaussian process regression of each objective's gains, numpy only.

The inputs are a point's coordinates (mostly the weights). The kernel is the sum of a constant, a
linear, a quadratic and an RBF part: within one basin a loss is a quadratic form in the weights
(arXiv 2406.07529). Functions are drawn from the posterior by pathwise conditioning and can be
evaluated at any points.

Its time grows with the cube of the trials; `front.inducing` has one for very many.

Letters: k finished trials, d coordinates, m objectives, c query points. Gains: larger is better.
Reference: Wilson et al. 2021, arXiv 2011.04026 (pathwise conditioning).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from recycler.nouns.objectives import Array
from recycler.nouns.space import Space

FITTED = 160  # most trials used to fit the kernel's scales; all trials condition the posterior
FEATURES = 128  # random Fourier features of the RBF part
# Grids of the kernel's scales; variances are relative to the variance of the values.
_GRID = {
    "linear": (1e-4, 0.01, 0.1, 1.0, 10.0),
    "quadratic": (1e-4, 0.01, 0.1, 1.0, 10.0),
    "smooth": (1e-4, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
    "length": (0.1, 0.2, 0.35, 0.6, 1.0),
}
_NOISE = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)  # used if the noise is unknown
EXACT = 1e-5  # noise, relative to the variance of the values, that counts as none
_PAIRED = (1.0, 0.5, 0.25, 0.1)  # share of a known error variance that is not common to all merges
CONSTANT = 10.0  # prior variance of the constant, relative to the variance of the values


@dataclass(frozen=True, slots=True)
class Squeeze:
    """Compresses gains below a floor by a logarithm: collapsed merges must not set the scale.

    Attributes:
        floor: gains above it stay unchanged, in the unit of the gains.
        unit: size of a step below it, in the unit of the gains.
    """

    floor: float
    unit: float

    @classmethod
    def of(cls, values: Array, corner: float) -> "Squeeze":
        """Choose the floor for (k,) gains.

        It is the reference corner or, if that is higher, the median less three times the distance
        from the median to the best.
        """
        middle, best = float(np.median(values)), float(values.max())
        floor = max(corner, middle - 3 * (best - middle)) if best > middle else corner
        return cls(floor, max(best - floor, 1e-12))

    def __call__(self, values: Array) -> tuple[Array, Array]:
        """(k,) compressed values, and the (k,) factors by which their errors shrink."""
        below = np.maximum(self.floor - values, 0.0) / self.unit
        squeezed = np.where(below > 0, self.floor - self.unit * np.log1p(below), values)
        return squeezed, 1 / (1 + below)

    def undone(self, squeezed: Array) -> Array:
        """(k,) gains from compressed values."""
        below = np.maximum(self.floor - squeezed, 0.0) / self.unit
        return np.where(below > 0, self.floor - self.unit * np.expm1(below), squeezed)


@dataclass(frozen=True, slots=True)
class Scales:
    """Prior variances of the kernel's parts, length of the RBF part, and factor of the noise."""

    linear: float = 1.0
    quadratic: float = 1.0
    smooth: float = 0.1
    length: float = 0.35
    noise: float = 1.0


def kernel(scales: Scales, centre: Array, a: Array, b: Array) -> Array:
    """(k, c) prior covariance of (k, d) and (c, d) points; `centre` is (d,), that of the space."""
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
    """Gaussian process posterior of one objective, given the finished trials."""

    def __init__(self, x: Array, values: Array, variance: Array | None, centre: Array) -> None:
        """Fit the scales by marginal likelihood, then condition on all trials.

        Args:
            x: (k, d) points.
            values: (k,) gains.
            variance: (k,) noise variance of the gains; None if unknown, then it is fitted.
            centre: (d,) centre of the space.
        """
        self.x, self._centre = x, centre
        self.offset = float(values.mean())
        self.unit = float(values.std()) or 1.0
        self._target = (values - self.offset) / self.unit
        self._known = variance is not None
        self._variance = np.ones(len(x)) if variance is None else variance / self.unit**2
        self.scales = self._fitted()
        self._condition()

    def _condition(self) -> None:
        covariance = kernel(self.scales, self._centre, self.x, self.x) + np.diag(self._noise())
        self._root = cholesky(covariance)
        self._weights = self._solved(self._target)

    def _across(self, w: Array) -> Array:
        """(c, k) prior covariance of (c, d) points and the trials."""
        return kernel(self.scales, self._centre, w, self.x)

    def _solved(self, right: Array) -> Array:
        """The covariance of the trials' scores, inverted, times (k,) or (k, c) numbers."""
        return solved_by(self._root, right)

    def _inverse_diagonal(self) -> Array:
        """(k,) diagonal of the inverse of the covariance of the trials' scores."""
        return np.diag(self._solved(np.eye(len(self.x))))

    def mean(self, w: Array) -> Array:
        """(c,) posterior mean at (c, d) points, in the unit of the values."""
        expected: Array = self._across(w) @ self._weights
        return self.offset + self.unit * expected

    def at_trials(self) -> Array:
        """(k,) posterior mean at the trials, in the unit of the values."""
        return self.mean(self.x)

    def deviation(self, w: Array) -> Array:
        """(c,) posterior standard deviation at (c, d) points, in the unit of the values."""
        across = self._across(w)
        prior = [kernel(self.scales, self._centre, row[None], row[None])[0, 0] for row in w]
        variance = prior - (across * self._solved(across.T).T).sum(1)
        spread: Array = self.unit * np.sqrt(np.maximum(variance, 0.0))
        return spread

    def covariance(self, w: Array) -> Array:
        """(c, c) posterior covariance between (c, d) points, in the squared unit of the values."""
        across = self._across(w)
        prior = kernel(self.scales, self._centre, w, w)
        found: Array = self.unit**2 * (prior - across @ self._solved(across.T))
        return found

    def left_out(self) -> tuple[Array, Array]:
        """(k,) values less their prediction from all other trials, and (k,) deviations of the latter.

        Both in the unit of the values; the deviations are without noise. The scales stay as fitted.
        Reference: Rasmussen & Williams 2006, eqs. 5.10 to 5.12.
        """
        variance = 1 / self._inverse_diagonal()
        residuals: Array = self.unit * self._weights * variance
        return residuals, self.unit * np.sqrt(np.maximum(variance - self._noise(), 0.0))

    def draws(self, rng: np.random.Generator, count: int) -> Callable[[Array], Array]:
        """Draw `count` functions from the posterior: (c, d) points -> (c, count) values."""
        prior = _prior_draws(self.scales, self._centre, rng, count)
        errors = np.sqrt(self._noise())[:, None] * rng.standard_normal((len(self.x), count))
        weights = self._solved(self._target[:, None] - prior(self.x) - errors)

        def function(w: Array) -> Array:
            values: Array = prior(w) + self._across(w) @ weights
            return self.offset + self.unit * values

        return function

    def _noise(self) -> Array:
        return np.maximum(self.scales.noise * self._variance, 1e-6)

    def _fitted(self) -> Scales:
        """Maximise the marginal likelihood over the grids by coordinate ascent."""
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
    """Log marginal likelihood of scales, plus a weak log prior on them."""

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
        root = cholesky(covariance)
        half = np.linalg.solve(root, self._target)
        prior = 0.1 * sum(np.log(v) ** 2 for v in (s.linear, s.quadratic / 3, s.smooth / 0.1))
        return float(-0.5 * half @ half - np.log(np.diag(root)).sum() - 0.5 * prior)


def cholesky(covariance: Array) -> Array:
    """Lower Cholesky factor; jitter is added to the diagonal until it exists."""
    jitter = 1e-8
    while True:
        try:
            root = np.linalg.cholesky(covariance + jitter * np.eye(len(covariance)))
            return np.asarray(root, dtype=np.float64)
        except np.linalg.LinAlgError:
            jitter *= 10


def solved_by(root: Array, right: Array) -> Array:
    solution: Array = np.linalg.solve(root.T, np.linalg.solve(root, right))
    return solution


def _prior_draws(
    s: Scales, centre: Array, rng: np.random.Generator, count: int
) -> Callable[[Array], Array]:
    """Draw `count` functions from the prior; the RBF part uses shared random Fourier features."""
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


def posteriors(
    space: Space,
    reference: Array,
    x: Array,
    y: Array,
    errors: Array,
    make: Callable[[Array, Array, Array | None, Array], Posterior] = Posterior,
) -> Iterator[tuple[Posterior, Squeeze]]:
    """Yield the posterior of each objective's compressed gains.

    Args:
        space: the space of the points.
        reference: (m,) fixed worst corner, as gains.
        x: (k, d) points of the merges.
        y: (k, m) gains.
        errors: (k, m) standard errors; a column of zeros where they are unknown.
        make: makes a posterior of the arguments of `Posterior`.
    """
    for j in range(y.shape[1]):
        squeeze = Squeeze.of(y[:, j], float(reference[j]))
        values, factor = squeeze(y[:, j])
        variance = (errors[:, j] * factor) ** 2 if (errors[:, j] > 0).any() else None
        yield make(x, values, variance, space.centre), squeeze
