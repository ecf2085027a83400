"""The sampler `surrogate`: expected improvement under one GP posterior per objective, numpy only.

Functions are drawn from each posterior. The next merge is the candidate that adds the most
hypervolume on average over the draws; a share of the proposals maximise the best average instead.

Letters: k finished trials, d coordinates, m objectives, c candidates. Gains: larger is better.
Reference: Zhang & Golovin 2020, arXiv 2006.04655 (volume as a mean over random Chebyshev
scalarizations).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from recycler.front import pareto
from recycler.front.posterior import posteriors
from recycler.nouns.objectives import Array
from recycler.search.simplex import (
    SamplerSettings,
    SimplexSampler,
    complete,
    gains,
    points,
    running,
)

DRAWS = 48  # functions drawn from each posterior per proposal
DIRECTIONS = 384  # random Chebyshev scalarizations, over all draws together


class SurrogateSettings(SamplerSettings):
    """Settings of `surrogate`.

    Attributes:
        draws: functions drawn from each posterior per proposal.
        rounds: local search steps from the best candidates.
        average: share of the proposals that maximise the best average, not the volume.
    """

    draws: int = Field(DRAWS, ge=1)
    rounds: int = Field(8, ge=0)
    average: float = Field(0.3, ge=0, le=1)


class Surrogate(SimplexSampler):
    """Expected improvement under one Gaussian process per objective."""

    Settings = SurrogateSettings

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        finished = complete(study)
        if len(finished) < 2:
            return self.problem.space.draw(self.rng, 1.0)
        x, y = points(self.problem, finished), gains(finished)
        errors = np.array([t.user_attrs["stderr"] for t in finished])
        known = posteriors(self.problem.space, self.problem.reference, x, y, errors)
        models = [model for model, _ in known]
        seen = np.concatenate([x, points(self.problem, running(study))])
        expected = np.stack([model.mean(seen) for model in models], axis=1)
        count = self.settings.draws
        draws = [model.draws(self.rng, count) for model in models]

        def drawn(w: Array) -> Array:
            return np.stack([functions(w) for functions in draws], axis=2)

        value = self._acquisition(drawn(seen))
        pool = self._candidates(seen, expected)
        for _ in range(self.settings.rounds):
            scores = value(drawn(pool))
            best = pool[np.argsort(-scores, kind="stable")[:24]]
            pool = self._sparse(np.concatenate([best, self._moves(best, 6 * len(best))]))
        return self.problem.space.project(pool[int(np.argmax(value(drawn(pool))))])

    def _acquisition(self, front: Array) -> Callable[[Array], Array]:
        """Return the acquisition: (c, s, m) drawn gains -> (c,) mean improvement over s draws.

        It improves the hypervolume or, in the share `average` of the proposals, the best average.

        Args:
            front: (k, s, m) drawn gains of the known points.
        """
        corner = self.problem.reference
        _, s, m = front.shape
        if self.rng.random() < self.settings.average:
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
            tie = ((values - corner) / span).mean((1, 2))  # decides where no candidate adds volume
            worth: Array = gain + 1e-9 * tie
            return worth

        return added

    def _candidates(self, seen: Array, expected: Array) -> Array:
        """(c, d) first candidates: wide draws, the best points so far, and moves around these."""
        space, rng = self.problem.space, self.rng
        wide = [space.draws(rng, a, 100) for a in (0.1, 0.3, 1.0, 3.0)]
        average = (expected / self.problem.scales).mean(1)
        good = pareto.nondominated(expected)
        good[np.argsort(-average)[:8]] = True
        centres = seen[good]
        return np.concatenate([*wide, centres, self._moves(centres, 800)])

    def _moves(self, centres: Array, count: int) -> Array:
        """(count, d) neighbours of the centres; with several blocks, about half stay fixed."""
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
        """(count, n) new weights: mixtures, steps to or from a checkpoint, swaps, small changes."""
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
        """(c, d) with weights below 0.005, and all but the `max_nonzero` largest, set to 0."""
        made, n = pool.copy(), self.problem.space.n
        most = min(self.settings.max_nonzero or n, n)
        for block in self.problem.space.blocks:
            shares = pool[:, block]
            least = np.maximum(-np.sort(-shares, axis=1)[:, most - 1 : most], 0.005)
            kept = np.where(shares < least, 0.0, shares)
            total = kept.sum(1, keepdims=True)
            made[:, block] = np.where(total > 0, kept / np.where(total > 0, total, 1.0), shares)
        return made
