"""CMA-ES (cmaes package): as published in arXiv 2412.04144 (§ 3.2, § 4), and on log weights.

`Paper` searches the box [0, 1]^n from 1/n with σ₀ = 1.0 and population 4 + ⌊3 ln n⌋. Each raw vector
is divided by its sum and costs one evaluation; fitness is the plain mean over objectives. Draws
outside the box are repeated up to 10·n times, then clipped, as in the paper's Optuna sampler.

Draws from a box, divided by their sum, stay near the uniform soup. `Softmax` searches the logarithms
of the weights without a box and reaches sparse merges.
"""

import math

import numpy as np
from cmaes import CMA
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from recycler.nouns.objectives import Array
from recycler.protocols import Problem
from recycler.search.simplex import (
    SamplerSettings,
    SimplexSampler,
    complete,
    gains,
    points,
    utilities,
)

SMALLEST = 0.002
ASK, GENERATION = "paper:ask", "paper:generation"


class PaperSettings(SamplerSettings):
    """Settings of `paper`: initial step size, and trials per generation (None: 4 + ⌊3 ln d⌋)."""

    sigma: float = Field(1.0, gt=0)
    population: int | None = Field(None, ge=2)


class SoftmaxSettings(PaperSettings):
    """Settings of `cmaes`; the step size is in log weights."""

    sigma: float = Field(0.7, gt=0)


class Paper(SimplexSampler):
    """CMA-ES as in the paper; its state is replayed from the draw numbers in the trials' notes.

    A generation ends when as many of its trials as the population size have finished; the first to
    finish count. Until then, further proposals are drawn from the same distribution.
    """

    Settings = PaperSettings

    def __init__(self, problem: Problem, seed: int) -> None:
        """Set up the search from the study's seed; the seed of the single proposal is ignored."""
        super().__init__(problem, seed)
        default = 4 + math.floor(3 * math.log(problem.d))
        self._population = self.settings.population or default
        self._cma = self._search()

    def _search(self) -> CMA:
        """Return the CMA-ES before its first draw."""
        d = self.problem.d
        return CMA(
            mean=self.problem.space.centre,
            sigma=self.settings.sigma,
            bounds=np.tile([0.0, 1.0], (d, 1)),
            seed=self.problem.seed,
            population_size=self._population,
            n_max_resampling=10 * d,
        )

    def _merge(self, raw: Array) -> Array:
        """(d,) the point that a raw draw stands for."""
        return self.problem.space.project(raw)

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        own = [t for t in study.get_trials(deepcopy=False) if ASK in t.system_attrs]
        own.sort(key=lambda t: t.system_attrs[ASK])
        raw: dict[int, Array] = {}
        for t in own:
            while self._cma.generation < t.system_attrs[GENERATION]:
                self._tell(study, raw)
            while len(raw) <= t.system_attrs[ASK]:
                raw[len(raw)] = self._cma.ask()
        if len(self._finished(study)) >= self._population:
            self._tell(study, raw)
        ledger = [t for t in study.get_trials(deepcopy=False) if t.params]
        known = {tuple(row) for row in points(self.problem, ledger)}
        while True:  # skip a clipped draw that repeats a single or an earlier draw
            number = len(raw)
            raw[number] = self._cma.ask()
            weights = self._merge(raw[number])
            if tuple(weights) not in known:  # nor uniform, the projection of all zeros
                break
        storage = study._storage
        storage.set_trial_system_attr(trial._trial_id, ASK, number)
        storage.set_trial_system_attr(trial._trial_id, GENERATION, self._cma.generation)
        return weights

    def _finished(self, study: Study) -> list[FrozenTrial]:
        """Finished trials of the current generation, in the order in which they finished."""
        return sorted(
            (t for t in complete(study) if t.system_attrs.get(GENERATION) == self._cma.generation),
            key=lambda t: t.user_attrs["finished"],
        )

    def _tell(self, study: Study, raw: dict[int, Array]) -> None:
        chosen = self._finished(study)[: self._population]
        fitness = utilities(self.problem, gains(chosen))
        self._cma.tell(
            [
                (raw[t.system_attrs[ASK]], -float(value))
                for t, value in zip(chosen, fitness, strict=True)
            ]
        )


class Softmax(Paper):
    """CMA-ES on the logarithms of the weights; a weight below `SMALLEST` becomes 0."""

    Settings = SoftmaxSettings

    def _search(self) -> CMA:
        return CMA(
            mean=np.zeros(self.problem.d),
            sigma=self.settings.sigma,
            seed=self.problem.seed,
            population_size=self._population,
        )

    def _merge(self, raw: Array) -> Array:
        space, point = self.problem.space, np.empty_like(raw)
        for block in space.blocks:
            weights = np.exp(raw[block] - raw[block].max())
            weights /= weights.sum()
            point[block] = np.where(weights < SMALLEST, 0.0, weights)
        point[space.tail] = 1 / (1 + np.exp(-raw[space.tail]))
        return space.project(point)
