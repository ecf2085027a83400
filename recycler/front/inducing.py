"""The surrogate model of very many trials: its time grows with their number, not with their cube.

All trials condition it, but what they say of each other goes through a few points, the inducing
points. How far it is from the exact posterior is in bench/LOG.md: by a few hundredths of a score's
standard error for the merges near the front.

Letters: k finished trials, d coordinates, m objectives, c query points, s inducing points. Gains:
larger is better.
References: Snelson & Ghahramani 2005, NeurIPS 18, and Quiñonero-Candela & Rasmussen 2005, JMLR 6,
1939 (FITC).
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from recycler.front import pareto
from recycler.front.posterior import (
    CONSTANT,
    Posterior,
    Squeeze,
    cholesky,
    kernel,
    posteriors,
    solved_by,
)
from recycler.nouns.objectives import Array
from recycler.nouns.space import Space

EXACT = 400  # most trials for which what is expected comes from the exact posterior
INDUCED = 384  # inducing points above that
_CHUNK = 500  # points whose features are computed at a time


def affordable(
    space: Space,
    reference: Array,
    x: Array,
    y: Array,
    errors: Array,
    first: Sequence[int] = (),
) -> Iterator[tuple[Posterior, Squeeze]]:
    """Yield what `posteriors` does: exact up to EXACT trials, above through inducing points.

    The rows `first` become inducing points before others; the rest is as in `posteriors`.
    """
    if len(x) <= EXACT:
        return posteriors(space, reference, x, y, errors)
    rows = inducing_rows(y, first)
    return posteriors(space, reference, x, y, errors, partial(Inducing, rows=rows))


class Inducing(Posterior):
    """The posterior of very many trials, through s of them (FITC): time k s² instead of k³.

    Between the inducing points a trial's score counts as if the part of its prior that they can't
    explain were noise of its own. The scales are fitted as those of the exact posterior.
    """

    def __init__(
        self, x: Array, values: Array, variance: Array | None, centre: Array, rows: Sequence[int]
    ) -> None:
        """Fit and condition; the arguments are those of `Posterior`.

        Args:
            x: (k, d) points.
            values: (k,) gains.
            variance: (k,) noise variance of the gains; None if unknown, then it is fitted.
            centre: (d,) centre of the space.
            rows: the s rows of `x` that are inducing points.
        """
        self._inducing = x[np.asarray(rows)]
        super().__init__(x, values, variance, centre)

    def _condition(self) -> None:
        points = self._inducing
        root = cholesky(kernel(self.scales, self._centre, points, points))
        self._inverse = np.linalg.inv(root)
        self._features = self._of(self.x)
        explained = np.einsum("sk,sk->k", self._features, self._features)
        self._own = np.maximum(self._prior(self.x) - explained, 0.0)
        self._spread = self._own + self._noise()  # (k,)
        inner = np.eye(len(points))
        for part in _parts(len(self.x)):
            inner += (self._features[:, part] / self._spread[part]) @ self._features[:, part].T
        self._root = cholesky(inner)
        self._weights = self._solved(self._target)
        self._short = self._features @ self._weights

    def _prior(self, w: Array) -> Array:
        """(c,) prior variance at (c, d) points."""
        size = ((w - self._centre) ** 2).sum(1)
        s = self.scales
        variance: Array = CONSTANT + s.linear * size + s.quadratic * size**2 + s.smooth
        return variance

    def _of(self, w: Array) -> Array:
        """(s, c) features of (c, d) points; their products are the explained prior covariance."""
        found = np.empty((len(self._inducing), len(w)))
        for part in _parts(len(w)):
            across = kernel(self.scales, self._centre, self._inducing, w[part])
            found[:, part] = self._inverse @ across
        return found

    def _across(self, w: Array) -> Array:
        found: Array = self._of(w).T @ self._features
        return found

    def _solved(self, right: Array) -> Array:
        scaled = (right.T / self._spread).T
        inner = solved_by(self._root, self._features @ scaled)
        found: Array = scaled - ((self._features.T @ inner).T / self._spread).T
        return found

    def _inverse_diagonal(self) -> Array:
        half = np.linalg.solve(self._root, self._features / self._spread)
        found: Array = 1 / self._spread - (half**2).sum(0)
        return found

    def mean(self, w: Array) -> Array:
        expected: Array = self._of(w).T @ self._short
        return self.offset + self.unit * expected

    def at_trials(self) -> Array:
        expected: Array = self._features.T @ self._short + self._own * self._weights
        return self.offset + self.unit * expected


def _parts(count: int) -> Iterator[slice]:
    """Slices of so many points, so that memory holds a kernel of few at a time."""
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def inducing_rows(y: Array, first: Sequence[int] = ()) -> list[int]:
    """At most INDUCED rows that stand for all k trials: those given, good ones, others evenly.

    A half are the first non-dominated ranks: there it matters what is expected. Only their points
    are special. The scores of all trials count, so that the luck of the good ones is not believed.

    Args:
        y: (k, m) gains.
        first: rows to take first, as far as they are at most a quarter.
    """
    chosen = {*first[: INDUCED // 4], *pareto.by_rank(y, INDUCED // 2)}
    others = np.array([row for row in range(len(y)) if row not in chosen], dtype=int)
    left = min(len(others), INDUCED - len(chosen))
    places = np.linspace(0, len(others) - 1, left).astype(int)
    return sorted([*chosen, *others[places].tolist()])
