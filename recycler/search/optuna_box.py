"""Optuna's samplers on the simplex: an in-memory study is rebuilt from the ledger per proposal.

The parameters of an Optuna trial are the coordinates of its point.
"""

import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from recycler.front import baselines
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.trial import State, Trial
from recycler.protocols import Problem, SamplerFactory
from recycler.search.simplex import SamplerSettings, SimplexSampler, box

optuna.logging.set_verbosity(optuna.logging.ERROR)


class NsgaSettings(SamplerSettings):
    """`population`: trials per generation; None: the number of coordinates, within 8 to 24."""

    population: int | None = Field(None, ge=2)


class Nsga2(SimplexSampler):
    """Optuna's NSGA-II on the simplex; baselines and the greedy path belong to generation 0."""

    Settings = NsgaSettings
    _kind: ClassVar[type[NSGAIISampler] | type[NSGAIIISampler]] = NSGAIISampler

    def propose(self, study: Study, trial: FrozenTrial) -> Array:
        population = self.settings.population or max(8, min(self.problem.d, 24))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self._kind(
                population_size=population,
                child_generation_strategy=self._child,
                seed=int(self.rng.integers(2**31)),
            )
        key = sampler._get_generation_key()
        shadow = optuna.create_study(directions=study.directions, sampler=sampler)
        for known in study.get_trials(deepcopy=True, states=(TrialState.COMPLETE,)):
            known.system_attrs.setdefault(key, 0)
            shadow.add_trial(known)
        self._bred: Array | None = None
        shadow.ask(box(self.problem))
        generation = shadow.trials[-1].system_attrs[key]
        study._storage.set_trial_system_attr(trial._trial_id, key, generation)
        if self._bred is None:  # generation 0 is not full yet
            return self.problem.space.draw(self.rng, 1.0)
        return self._bred

    def _child(
        self, study: Study, search_space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> dict[str, Any]:
        """Take a point on the line through two parents; half the time, mix in a sparse draw."""
        first, second = self.rng.choice(len(parents), size=2, replace=len(parents) < 2)
        a, b = (
            np.array([parents[int(i)].params[name] for name in search_space])
            for i in (first, second)
        )
        weights = a + self.rng.uniform(-0.25, 1.25) * (b - a)
        if self.rng.random() < 0.5:
            sparse = self.problem.space.draw(self.rng, 0.3)
            weights = weights + self.rng.uniform(0.0, 0.4) * (sparse - weights)
        self._bred = self.problem.space.project(weights)
        return dict(zip(search_space, self._bred, strict=True))


class Nsga3(Nsga2):
    """Optuna's NSGA-III, for many objectives: it keeps niches around reference points."""

    _kind = NSGAIIISampler


def tpe(problem: Problem, seed: int) -> BaseSampler:
    """Return Optuna's tree-structured Parzen estimator on the box; weights are then normalised."""
    return TPESampler(seed=seed)


def gp(problem: Problem, seed: int) -> BaseSampler:
    """Return Optuna's Gaussian-process sampler on the box; weights are then normalised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return GPSampler(seed=seed)


class _LedgerStorage(InMemoryStorage):
    """Optuna's in-memory storage, filled without the deep copy of each trial that Optuna makes.

    Sharing trials is safe: Optuna never changes one in place but replaces it by a changed copy.
    """

    def fill(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Put trials numbered from 0 into an empty study."""
        held = self._studies[study_id].trials
        for trial in trials:
            held.append(trial)
            self._trial_id_to_study_id_and_number[trial._trial_id] = (study_id, trial.number)
            if len(self._studies[study_id].directions) == 1:  # which trial is the best
                self._update_cache(trial._trial_id, study_id)
        self._max_trial_id = len(trials) - 1


class Mirror:
    """Cache of the ledger's trials in Optuna's form, kept from proposal to proposal."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Trial, FrozenTrial]] = {}

    def of(self, problem: Problem, trials: Sequence[Trial]) -> list[FrozenTrial]:
        """Return the trials in Optuna's form, numbered by position; convert only changed ones."""
        whole = box(problem)
        found = []
        for number, trial in enumerate(trials):
            known, made = self._made.get(number, (None, None))
            if known is not trial or made is None:
                made = frozen(problem, trial, whole, number)
                self._made[number] = (trial, made)
            found.append(made)
        return found


def ask(
    factory: SamplerFactory,
    problem: Problem,
    trials: Sequence[Trial],
    seed: int,
    mirror: Mirror | None = None,
) -> tuple[Array, dict[str, Any]]:
    """Ask a sampler that has seen the whole ledger for one proposal.

    Args:
        factory: makes the sampler.
        problem: what the sampler may know of the study.
        trials: the ledger.
        seed: seed of this proposal.
        mirror: cache from earlier proposals of the same problem.

    Returns:
        (d,) a point of the space, and the sampler's notes on its trial.
    """
    study = study_of(problem, trials, factory(problem, seed), mirror)
    trial = study.ask(box(problem))
    notes = study.get_trials(deepcopy=False)[-1].system_attrs
    kept = {key: value for key, value in notes.items() if _is_json(value)}
    space = problem.space
    point = space.project(np.array([trial.params[name] for name in problem.names]))
    return space.sparsest(point, problem.settings.get("max_nonzero") or space.n), kept


def study_of(
    problem: Problem,
    trials: Sequence[Trial],
    sampler: BaseSampler | None,
    mirror: Mirror | None = None,
) -> Study:
    """Return an in-memory Optuna study of the ledger; its values are gains, all maximized."""
    storage = _LedgerStorage()
    directions = [StudyDirection.MAXIMIZE] * problem.objectives.m
    study = optuna.create_study(directions=directions, sampler=sampler, storage=storage)
    storage.fill(study._study_id, (mirror or Mirror()).of(problem, trials))
    return study


def frozen(
    problem: Problem, trial: Trial, whole: dict[str, BaseDistribution], number: int
) -> FrozenTrial:
    """Convert one trial to Optuna's form; `whole` is the search space, shared by all trials."""
    # a pruned trial counts as well: its scores have the larger error of fewer items
    known = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.COMPLETE}
    state = {**known, State.RUNNING: TrialState.RUNNING}.get(trial.state, TrialState.FAIL)
    user: dict[str, Any] = {"kind": trial.kind, "name": trial.name, "finished": trial.finished}
    values = None
    if state is TrialState.COMPLETE:
        scores = trial.evaluations["dev"].scores
        values = [float(g) for g in problem.objectives.gains([trial.means("dev")])[0]]
        user["stderr"] = [scores[o.name].stderr for o in problem.objectives.searched]
    start = datetime.fromtimestamp(0, UTC)
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=values,
        datetime_start=start,
        datetime_complete=None if state is TrialState.RUNNING else start,
        params=dict(
            zip(problem.names, problem.space.point_of(trial.recipe).tolist(), strict=True)
        ),
        distributions=whole,
        user_attrs=user,
        system_attrs=dict(trial.notes),
        intermediate_values={},
    )


def problem_of(plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | Array) -> Problem:
    """Return what a sampler may know of the study."""
    return Problem(
        space=plan.points,
        objectives=plan.objectives,
        reference=np.asarray(reference, dtype=np.float64),
        scales=baselines.scales_of(plan, trials),
        seed=plan.seed,
        settings=plan.settings,
        evaluations=plan.evaluations,
    )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
