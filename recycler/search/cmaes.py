"""CMA-ES by the cmaes package: exactly as in arXiv 2412.04144 (§ 3.2, § 4), and on a softmax.

A box [0, 1]^n, start 1/n, σ₀ = 1.0, population 4 + ⌊3 ln n⌋, one weight vector an evaluation; the
raw vector is divided by its sum; fitness is the plain mean over objectives. As Optuna's CMA-ES,
which the paper used, draws outside the box are repeated 10·n times and then clipped.

Divided by their sum, draws from a box stay near the uniform soup. `Softmax` searches the logarithms
of the weights instead, without a box, and reaches sparse merges.
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
    """Settings of `paper`: first step size, and trials a generation (None: 4 + ⌊3 ln d⌋)."""

    sigma: float = Field(1.0, gt=0)
    population: int | None = Field(None, ge=2)


class SoftmaxSettings(PaperSettings):
    """Those of `cmaes`; its step is in logarithms of weights."""

    sigma: float = Field(0.7, gt=0)


class Paper(SimplexSampler):
    """The paper's search. State is rebuilt by replay: which draw a trial was is in its notes.

    A generation is told when as many of its trials as the population counts have finished, in
    the order in which they finished; while others are still running, more are drawn from the same
    distribution.
    """

    Settings = PaperSettings

    def __init__(self, problem: Problem, seed: int) -> None:
        """Take the problem; the seed of a single proposal is not used, only the study's."""
        super().__init__(problem, seed)
        default = 4 + math.floor(3 * math.log(problem.d))
        self._population = self.settings.population or default
        self._cma = self._search()

    def _search(self) -> CMA:
        """The search before its first draw."""
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
        """(d,) the point of a draw."""
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
        while True:  # a clipped draw can repeat a single or an own draw; it is passed over
            number = len(raw)
            raw[number] = self._cma.ask()
            weights = self._merge(raw[number])
            if tuple(weights) not in known:  # nor uniform, which a draw of zeros would be
                break
        storage = study._storage
        storage.set_trial_system_attr(trial._trial_id, ASK, number)
        storage.set_trial_system_attr(trial._trial_id, GENERATION, self._cma.generation)
        return weights

    def _finished(self, study: Study) -> list[FrozenTrial]:
        """Finished trials of the present generation, in the order in which they finished."""
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
    """CMA-ES on the logarithms of the weights; a weight below `SMALLEST` is 0."""

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
