"""BoTorch's qLogNoisyEHVI on the simplex, with known noise and pending points.

Each objective has its own GP. The observation variance is taken from the items' standard errors and
fitted only where there are none. Weights that sum to 1 are an equality constraint of the optimiser.
One objective uses qLogNoisyExpectedImprovement; five or more use qLogNParEGO, because exact
volumes are slow there.
Letters: k finished trials, d coordinates of a point, m objectives.
Reference: Daulton et al. 2021, arXiv 2105.08195; Ament et al. 2023, arXiv 2310.20708.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from botorch import fit_gpytorch_mll
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.parego import qLogNParEGO
from botorch.exceptions.warnings import BotorchWarning
from botorch.models.gp_regression import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.models.transforms.outcome import Standardize
from botorch.optim.optimize import optimize_acqf
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.kernels import RBFKernel
from gpytorch.mlls import SumMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field
from torch import Tensor

from recycler.front import pareto
from recycler.front.posterior import Squeeze
from recycler.nouns.objectives import Array
from recycler.search.simplex import (
    SamplerSettings,
    SimplexSampler,
    complete,
    gains,
    points,
    running,
)

# Keep BoTorch from compiling its C++ kernel: that needs a compiler and gains little here.
logei._load_attempted = True

DTYPE = torch.float64
# Posterior draws by number of objectives. Each needs a box decomposition of the front, which takes
# most of the time from three objectives on (at k = 60: 3.7 s with 64 draws, 2.1 s with 24).
_SAMPLES = {1: 64, 2: 64, 3: 24}


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on matrices this small, two busy threads were 10 x slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class NehviSettings(SamplerSettings):
    """Settings of `nehvi`.

    Attributes:
        samples: posterior draws; None: fewer for more objectives.
        raw: candidates from which the best become starting points.
        restarts: starting points of the optimiser.
        maxiter: optimiser steps from each starting point.
    """

    samples: int | None = Field(None, ge=1)
    raw: int = Field(128, ge=2)
    restarts: int = Field(2, ge=1)
    maxiter: int = Field(40, ge=1)


class Nehvi(SimplexSampler):
    """Noisy expected hypervolume improvement over the front of the finished trials."""

    Settings = NehviSettings

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        finished, pending = complete(study), running(study)
        if len(finished) < 2:
            return self.problem.space.draw(self.rng, 1.0)
        x, y = points(self.problem, finished), gains(finished)
        errors = np.array([t.user_attrs["stderr"] for t in finished])
        for j, corner in enumerate(
            self.problem.reference
        ):  # collapsed merges must not set the scale
            y[:, j], factor = Squeeze.of(y[:, j], float(corner))(y[:, j])
            errors[:, j] *= factor
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), one_thread():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            torch.manual_seed(int(self.rng.integers(2**31)))
            model = _fit(x, y, errors)
            return self._maximise(model, x, y, points(self.problem, pending))

    def _maximise(self, model: ModelListGP, x: Array, y: Array, pending: Array) -> Array:
        acquisition = self._acquisition(model, x, y.shape[1], pending)
        d = x.shape[1]
        starts = self._starts(acquisition, x, y)
        best, _ = optimize_acqf(
            acquisition,
            bounds=torch.tensor([[0.0] * d, [1.0] * d], dtype=DTYPE),
            q=1,
            num_restarts=len(starts),
            batch_initial_conditions=starts,
            equality_constraints=[
                (torch.arange(b.start, b.stop), torch.ones(b.stop - b.start, dtype=DTYPE), 1.0)
                for b in self.problem.space.blocks
            ],
            options={"maxiter": self.settings.maxiter, "batch_limit": 1},
        )
        weights = best.detach().numpy()[0]
        weights[weights < 1e-4] = 0.0  # the constrained optimum is often sparse up to rounding
        return self.problem.space.project(weights)

    def _acquisition(
        self, model: ModelListGP, x: Array, m: int, pending: Array
    ) -> AcquisitionFunction:
        """Expected improvement of the front by a point; of the best value where m = 1."""
        samples = self.settings.samples or _SAMPLES.get(m, 16)
        sampler = SobolQMCNormalSampler(torch.Size([samples]), seed=int(self.rng.integers(2**31)))
        baseline = torch.as_tensor(x, dtype=DTYPE)
        waiting = torch.as_tensor(pending, dtype=DTYPE) if len(pending) else None
        if m == 1:
            return qLogNoisyExpectedImprovement(
                model, X_baseline=baseline, sampler=sampler, X_pending=waiting, prune_baseline=True
            )
        if m >= 5:  # a random Chebyshev scalarization
            return qLogNParEGO(
                model, X_baseline=baseline, sampler=sampler, X_pending=waiting, prune_baseline=True
            )
        return qLogNoisyExpectedHypervolumeImprovement(
            model,
            ref_point=torch.as_tensor(self.problem.reference, dtype=DTYPE),
            X_baseline=baseline,
            X_pending=waiting,
            prune_baseline=True,
            sampler=sampler,
            alpha=0.0 if m <= 3 else 0.01,
        )

    def _starts(self, acquisition: AcquisitionFunction, x: Array, y: Array) -> Tensor:
        """(restarts, 1, d) the best of `raw` candidates: half drawn wide, half near the front."""
        space, raw = self.problem.space, self.settings.raw
        front = x[pareto.nondominated(y)]
        centres = front[self.rng.integers(len(front), size=raw // 2)]
        wide = [space.draw(self.rng, float(self.rng.choice([0.2, 1.0]))) for _ in centres]
        near = [space.near(self.rng, centre) for centre in centres]
        candidates = torch.as_tensor(np.array(wide + near), dtype=DTYPE).unsqueeze(1)
        with torch.no_grad():
            values = acquisition(candidates)
        best = values.topk(min(self.settings.restarts, len(candidates))).indices
        return candidates[best]


def _fit(x: Array, y: Array, errors: Array) -> ModelListGP:
    """Fit one GP per objective to (k, d) points, (k, m) gains and their (k, m) standard errors.

    The RBF kernel has one length for all coordinates, with a LogNormal(-0.7, 0.7) prior: better at
    about fifty evaluations than BoTorch's default of one length per coordinate.
    """
    inputs = torch.as_tensor(x, dtype=DTYPE)
    models = []
    for column in range(y.shape[1]):
        values = y[:, column]
        floor = 1e-6 * max(float(values.var()), 1e-12)
        variance = torch.as_tensor(np.maximum(errors[:, column] ** 2, floor), dtype=DTYPE)
        known = bool((errors[:, column] > 0).any())
        models.append(
            SingleTaskGP(
                inputs,
                torch.as_tensor(values, dtype=DTYPE).unsqueeze(1),
                variance.unsqueeze(1) if known else None,
                covar_module=RBFKernel(lengthscale_prior=LogNormalPrior(-0.7, 0.7)),
                outcome_transform=Standardize(1),
            )
        )
    model = ModelListGP(*models)
    fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
    return model
