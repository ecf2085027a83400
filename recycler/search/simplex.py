"""Base class of the samplers written here, and the two that draw at random: Dirichlet and Sobol.

A point has coordinates in [0, 1]: blocks of weights that sum to 1, and ranges.
Letters: n checkpoints, d coordinates of a point, k finished trials, m objectives.
Randomness: a generator seeded per proposal; never a global one.
"""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field
from scipy.stats.qmc import Sobol

from recycler.errors import InvalidConfig
from recycler.nouns.objectives import Array
from recycler.protocols import Problem
from recycler.settings import Settings, checked


class _Coordinate(FloatDistribution):
    """A number in [0, 1]; immutable, so that copies of a study share it.

    Deep copies of d of them per trial took most of a proposal's time at 500 trials.
    """

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Coordinate":
        return self


_COORDINATE = _Coordinate()


def box(problem: Problem) -> dict[str, BaseDistribution]:
    """Optuna's search space: each coordinate in [0, 1]. The samplers make weights sum to 1."""
    return dict.fromkeys(problem.names, _COORDINATE)


def points(problem: Problem, trials: list[FrozenTrial]) -> Array:
    """(k, d) points of k trials."""
    rows = [[trial.params[name] for name in problem.names] for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), problem.d)


def gains(trials: list[FrozenTrial]) -> Array:
    """(k, m) gains of finished trials, larger is better."""
    return np.array([trial.values for trial in trials], dtype=np.float64)


def utilities(problem: Problem, values: Array) -> Array:
    """(k,) mean over objectives of (k, m) gains, each divided by its scale."""
    means: Array = (values / problem.scales).mean(axis=1)
    return means


class SamplerSettings(Settings):
    """Settings that every sampler takes (see `optuna_box.ask`); each adds its own.

    Attributes:
        max_nonzero: largest number of checkpoints in a merge; None: no limit.
    """

    max_nonzero: int | None = Field(None, ge=1)


class SimplexSampler(BaseSampler, ABC):
    """Abstract sampler that proposes all coordinates of a point at once."""

    Settings: ClassVar[type[SamplerSettings]] = SamplerSettings

    def __init__(self, problem: Problem, seed: int) -> None:
        """Store the problem, its checked settings and a generator seeded for this proposal."""
        self.problem = problem
        self.settings: Any = checked(self.Settings, problem.settings, "search.settings")
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        """Return the next point, (d,)."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return box(self.problem)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        point = self.propose(study, trial)
        return {n: float(x) for n, x in zip(self.problem.names, point, strict=True)}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise InvalidConfig(
            f"{param_name!r} is not a coordinate of this study.", hint="ask for the whole space."
        )


class DirichletSettings(SamplerSettings):
    """`concentration`: below 1 the draws are sparse; above 1 they gather around uniform."""

    concentration: float = Field(1.0, gt=0)


class Dirichlet(SimplexSampler):
    """Independent draws from Dirichlet(concentration, …): random search, which others must beat."""

    Settings = DirichletSettings

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        return self.problem.space.draw(self.rng, self.settings.concentration)


class SobolDraws(SimplexSampler):
    """Scrambled Sobol points mapped to the simplex: more even than independent draws.

    -log of a uniform variable is exponential; exponentials divided by their sum are Dirichlet(1, …).
    """

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        drawn = sum(t.user_attrs.get("kind") == "search" for t in study.get_trials(deepcopy=False))
        space = self.problem.space
        sequence = Sobol(space.d, rng=np.random.default_rng(self.problem.seed))
        with warnings.catch_warnings():  # Sobol's balance at powers of two is not needed
            warnings.simplefilter("ignore", UserWarning)
            unit = sequence.random(drawn + 1)[-1]
        weights = slice(0, space.tail.start)
        unit[weights] = -np.log(np.clip(unit[weights], 1e-12, 1.0))
        return space.project(unit)


def complete(study: Study) -> list[FrozenTrial]:
    """Finished trials with values, in ledger order."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def running(study: Study) -> list[FrozenTrial]:
    """Running trials whose weights are known."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in trials if trial.params]
