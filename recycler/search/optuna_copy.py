"""A study copied into Optuna, for its plots and its dashboard; the ledger is only read."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from recycler.errors import Conflict, MissingExtra
from recycler.front.results import Results
from recycler.nouns.trial import State, Trial

_STATES = {
    State.RUNNING: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


def copy_study(results: Results, storage: Any = None) -> optuna.Study:
    """Copy a study into an Optuna storage.

    Weights become parameters, scores on dev items values in their own unit and direction. User
    attributes hold name, kind, recipe id, standard errors, and the scores on other splits; of pruned
    trials also the estimates of their dev scores. Optuna's best trials are the Pareto set on dev
    items of all complete trials, without floors or a re-check.

    Args:
        results: the study as it is now.
        storage: URL or Optuna storage; None: in memory.

    Raises:
        Conflict: the storage has a study of that name.
    """
    searched = results.plan.objectives.searched
    ways = [
        StudyDirection.MAXIMIZE if o.direction == "max" else StudyDirection.MINIMIZE
        for o in searched
    ]
    try:
        study = optuna.create_study(storage=storage, study_name=results.name, directions=ways)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise Conflict(
            f"the Optuna storage has a study {results.name!r} already.",
            hint="give another storage; a copy replaces nothing.",
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in searched])
    for key, value in (("event", results.event), ("sampler", results.plan.sampler)):
        study.set_user_attr(f"recycler.{key}", value)
    space = _space(results)
    study.add_trials([_frozen(results, trial, space) for trial in results.trials])
    return study


def _space(results: Results) -> dict[str, FloatDistribution]:
    """One range for each checkpoint's weight: [0, 1], wider where the ledger has other weights."""
    names = results.plan.names
    rows = [trial.recipe.vector(names) for trial in results.trials]
    return {
        name: FloatDistribution(min(0.0, *column), max(1.0, *column))
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def _frozen(results: Results, trial: Trial, space: Mapping[str, FloatDistribution]) -> FrozenTrial:
    """One trial as Optuna's."""
    searched = results.plan.objectives.searched
    known = trial.means("dev")
    complete = trial.state == State.COMPLETE
    mine = any(name in space for name in trial.recipe.weights)  # a reference has no weights here
    return create_trial(
        state=_STATES[trial.state],
        values=[known[o.name] for o in searched] if complete else None,
        params=dict(zip(space, trial.recipe.vector([*space]), strict=True)) if mine else {},
        distributions=dict(space) if mine else {},
        user_attrs=_attributes(trial),
    )


def _attributes(trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": trial.name,
        "kind": str(trial.kind),
        "recipe": trial.recipe.id,
        "method": trial.recipe.method,
    }
    for split, evaluation in trial.evaluations.items():
        for name, score in evaluation.scores.items():
            found[f"{name}.{split}"] = score.mean
            found[f"{name}.{split}.stderr"] = score.stderr
    if trial.failure:
        found["failure"] = f"{trial.failure.kind}: {trial.failure.message}"
    return found


def dashboard(results: Results, host: str, port: int) -> None:
    """Serve a copy of the study with optuna-dashboard until the process is interrupted.

    Args:
        results: the study as it is now; later trials are not shown.
        host: address to listen on.
        port: its port.

    Raises:
        MissingExtra: optuna-dashboard is not installed.
    """
    require_dashboard()
    storage = InMemoryStorage()  # an SQLite copy takes 0.2 s for each trial
    copy_study(results, storage)
    import_module("optuna_dashboard").run_server(storage, host=host, port=port)


def require_dashboard() -> None:
    """Raise MissingExtra if optuna-dashboard is not installed."""
    if find_spec("optuna_dashboard") is None:
        raise MissingExtra(
            "`recycler dashboard` needs the package optuna-dashboard, which is not installed.",
            hint="pip install 'recycler[dashboard]', or pip install 'optuna-dashboard>=0.21,<0.22'.",
        )
