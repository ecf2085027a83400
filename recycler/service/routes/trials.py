"""Routes of trials: the merges of a study."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from recycler.errors import InvalidConfig
from recycler.front.asked import weighted
from recycler.front.naming import named
from recycler.nouns.evaluation import Split
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind, State, Trial
from recycler.service.live import trial_row
from recycler.service.problems import responses
from recycler.service.state import By, Caller, Here, Service
from recycler.submit.recipes import require_allowed

router = APIRouter(prefix="/studies/{study}/trials", tags=["trials"], responses=responses(404))
PLAIN = ("number", "name", "kind", "state")  # columns to sort by, besides objectives
Weights = dict[str, FiniteFloat]


class NewTrial(BaseModel):
    """A merge of one's own: weights, or a whole recipe of this study."""

    model_config = ConfigDict(extra="forbid")
    weights: Weights | None = Field(None, examples=[{"code-a": 0.5, "prose-a": 0.5}])
    recipe: dict[str, Any] | None = Field(
        None, description="`recipe` as `GET …/trials/{trial}` or a prediction has it"
    )
    execution: dict[str, Any] = Field(default_factory=dict, examples=[{"workers": 1}])


@router.get("")
def list_trials(
    service: Here,
    study: str,
    state: Annotated[list[State] | None, Query()] = None,
    kind: Annotated[list[Kind] | None, Query()] = None,
    text: Annotated[str, Query(description="part of the name", max_length=200)] = "",
    split: Annotated[Split, Query(description="of the scores to sort by")] = Split.DEV,
    sort: Annotated[
        str, Query(description="number, name, kind, state or an objective; `-` first: descending")
    ] = "number",
    limit: Annotated[int, Query(ge=1, le=5000)] = 100,
    skip: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> dict[str, Any]:
    """List trials: filtered, sorted, a page at a time. Trials without the score come last."""
    plan, trials = service.live.study(study).trials()
    found = [
        trial
        for trial in trials
        if (not state or trial.state in state)
        and (not kind or trial.kind in kind)
        and text.lower() in trial.name.lower()
    ]
    ordered = _sorted(found, plan, sort, split)
    rows = [trial_row(plan, trial) for trial in ordered[skip : skip + limit]]
    return {"study": study, "total": len(found), "skip": skip, "trials": rows}


@router.get("/{trial}")
def show(
    service: Here, study: str, trial: Annotated[str, Path(examples=["17", "pick"])]
) -> dict[str, Any]:
    """Show one trial, by number or name: recipe, scores, digest, timings, failure."""
    results = service.live.results(study)
    return results.trial_json(named(results, trial).number)


@router.post("", status_code=202)
def add(service: Here, by: By, study: str, new: NewTrial) -> dict[str, Any]:
    """Make a merge of one's own a trial, outside the budget.

    A process that runs the study takes it up next. If none does, an operation scores it.
    """
    recipe = recipe_of(service.store.plan(study), new.weights, new.recipe)
    return queued(service, by, study, recipe, new.execution)


def recipe_of(plan: Plan, weights: Weights | None, recipe: Mapping[str, Any] | None) -> Recipe:
    """The merge that a request means, as a recipe of the study."""
    if (weights is None) == (recipe is None):
        raise InvalidConfig(
            "expected one of `weights` and `recipe`.", hint='for example {"weights": {"a": 1.0}}.'
        )
    if weights is not None:
        require_allowed(plan, weights)
        return weighted(plan, weights)
    try:
        found = Recipe.from_json(recipe or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidConfig(
            f"recipe: {type(error).__name__} {error}.",
            hint="send it as `GET /api/v1/studies/{study}/trials/{trial}` shows it.",
        ) from error
    known = {*plan.ingredients, *([plan.base] if plan.base else [])}
    for item in (*found.ingredients, *([found.base] if found.base else [])):
        if (item.name, item.fingerprint) not in known:
            raise InvalidConfig(
                f"recipe: {item.name!r} is none of the checkpoints of study {plan.name!r}.",
                hint=f"it has {', '.join(plan.names)}.",
            )
    return found


def queued(
    service: Service, by: Caller, study: str, recipe: Recipe, execution: Mapping[str, Any]
) -> dict[str, Any]:
    """Queue a merge of the user's; start an operation if no process runs the study."""
    known = next(
        (t for t in service.live.study(study).trials()[1] if t.recipe.id == recipe.id), None
    )
    status = service.store.status(study)
    about = {
        "study": study,
        "id": recipe.id,
        "holder": status["holder"] if status["alive"] else "",
    }
    if known is not None:
        return {**about, "trial": known.number, "name": known.name, "operation": None}
    name = service.store.ask_for(study, recipe).name
    if status["alive"]:
        return {**about, "trial": None, "name": name, "operation": None}
    asked = {"study": study, "recipes": [recipe.to_json()], "execution": {**execution}}
    operation = service.ask(by, "try", study, asked, priority=10)
    return {**about, "trial": None, "name": name, "operation": operation.id}


def _sorted(trials: Sequence[Trial], plan: Plan, sort: str, split: str) -> list[Trial]:
    """Trials in an order; those without the score last."""
    column, down = sort.removeprefix("-"), sort.startswith("-")
    if column in PLAIN:
        return sorted(trials, key=lambda trial: getattr(trial, column), reverse=down)
    if column not in {objective.name for objective in plan.objectives}:
        known = ", ".join([*PLAIN, *(objective.name for objective in plan.objectives)])
        raise InvalidConfig(f"sort: there is no column {column!r}.", hint=f"known: {known}.")

    def place(trial: Trial) -> tuple[bool, float]:
        mean = trial.means(split).get(column, math.nan)
        return (True, 0.0) if math.isnan(mean) else (False, -mean if down else mean)

    return sorted(trials, key=place)
