"""Routes of trials: the merges of a study."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from recycler.errors import InvalidConfig
from recycler.front.asked import weighted
from recycler.front.naming import named
from recycler.front.pareto import contributions
from recycler.nouns.evaluation import Split
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind, State, Trial
from recycler.service.fresh import KEPT, Fresh
from recycler.service.live import trial_row
from recycler.service.state import By, Caller, Here, Service
from recycler.submit.recipe_tables import recipe_of_table
from recycler.submit.recipes import require_allowed
from recycler.submit.workspace import pool_name

router = APIRouter(
    prefix="/studies/{study}/trials", tags=["trials"], route_class=Fresh, responses=KEPT
)
PLAIN = ("number", "name", "kind", "state")  # columns to sort by, besides scores
SORTS = "number, name, kind, state, hypervolume or an objective; `-` first: descending"
Weights = dict[str, FiniteFloat]


class NewTrial(BaseModel):
    """A merge of one's own: weights, or a whole recipe of this study."""

    model_config = ConfigDict(extra="forbid")
    weights: Weights | None = Field(None, examples=[{"code-a": 0.5, "prose-a": 0.5}])
    recipe: dict[str, Any] | None = Field(
        None,
        description="`recipe` as a trial or a prediction has it; or a recipe file of recycler or "
        "mergekit as JSON, whose models are names or paths of the study's checkpoints",
        examples=[
            {
                "merge_method": "linear",
                "models": [{"model": "code-a", "parameters": {"weight": 1.0}}],
            }
        ],
    )
    execution: dict[str, Any] = Field(default_factory=dict, examples=[{"workers": 1}])


@router.get("")
def list_trials(
    service: Here,
    study: str,
    state: Annotated[list[State] | None, Query()] = None,
    kind: Annotated[list[Kind] | None, Query()] = None,
    text: Annotated[
        str, Query(description="part of the name, or the begin of its id", max_length=200)
    ] = "",
    split: Annotated[Split, Query(description="of the scores to sort by")] = Split.DEV,
    sort: Annotated[str, Query(description=SORTS, max_length=200)] = "number",
    limit: Annotated[int, Query(ge=1, le=5000)] = 100,
    skip: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    fields: Annotated[
        str, Query(description="keys of the rows, with commas; empty: all", max_length=500)
    ] = "",
) -> dict[str, Any]:
    """List trials: filtered, sorted, a page at a time. Trials without the value come last.

    `hypervolume` is what a merge adds to the volume of the front of its split, above the study's
    reference; 0 for dominated ones.
    """
    plan, trials = service.live.study(study).trials()
    found = [
        trial
        for trial in trials
        if (not state or trial.state in state)
        and (not kind or trial.kind in kind)
        and (text.lower() in trial.name.lower() or trial.recipe.id.startswith(text))
    ]
    added = volumes(service, study, split) if sort.removeprefix("-") == "hypervolume" else {}
    ordered = _sorted(found, plan, sort, split, added)
    rows = [trial_row(plan, trial) for trial in ordered[skip : skip + limit]]
    if added:
        rows = [{**row, "hypervolume": added.get(row["number"])} for row in rows]
    return {
        "study": study,
        "total": len(found),
        "skip": skip,
        "trials": [_chosen(row, fields) for row in rows],
    }


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
    plan = service.store.plan(study)
    entries = entries_of(service, study) if new.recipe else ()
    recipe = recipe_of(plan, new.weights, new.recipe, entries)
    return queued(service, by, study, recipe, new.execution)


def recipe_of(
    plan: Plan,
    weights: Weights | None,
    recipe: Mapping[str, Any] | None,
    entries: Sequence[Mapping[str, Any]] = (),
) -> Recipe:
    """The merge that a request means, as a recipe of the study.

    Args:
        plan: the study.
        weights: checkpoint -> weight, or None.
        recipe: a recipe as a table, or None (see `recipe_of_table`).
        entries: the checkpoints that models of the recipe may name.
    """
    if (weights is None) == (recipe is None):
        raise InvalidConfig(
            "expected one of `weights` and `recipe`.", hint='for example {"weights": {"a": 1.0}}.'
        )
    if weights is not None:
        require_allowed(plan, weights)
        return weighted(plan, weights)
    return recipe_of_table(plan, entries, recipe or {})


def entries_of(service: Service, study: str) -> list[dict[str, Any]]:
    """Name, path and fingerprint of the checkpoints of a study's pool, and of its base."""
    spec = service.store.catalog.pool(pool_name(study))
    return [*spec["checkpoints"], *([spec["base"]] if spec["base"] else [])]


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


def volumes(service: Service, study: str, split: str) -> dict[int, float]:
    """Trial -> hypervolume that it adds to the front of a split; of merges that are scored there."""

    def make() -> dict[int, float]:
        plan, trials = service.live.study(study).trials()
        reference = service.store.status(study)["reference"]
        merges = [t for t in trials if t.is_merge and split in t.evaluations]
        if reference is None or not merges:
            return {}
        gains = plan.objectives.gains([trial.means(split) for trial in merges])
        added = contributions(gains, np.array(reference))
        return dict(zip((trial.number for trial in merges), added.tolist(), strict=True))

    found: dict[int, float] = service.live.computed(study, ("volumes", split), make)
    return found


def _sorted(
    trials: Sequence[Trial], plan: Plan, sort: str, split: str, added: Mapping[int, float]
) -> list[Trial]:
    """Trials in an order; those without the value last."""
    column, down = sort.removeprefix("-"), sort.startswith("-")
    if column in PLAIN:
        return sorted(trials, key=lambda trial: getattr(trial, column), reverse=down)
    if column == "hypervolume":
        values = {trial.number: added.get(trial.number, math.nan) for trial in trials}
    elif column in {objective.name for objective in plan.objectives}:
        values = {trial.number: trial.means(split).get(column, math.nan) for trial in trials}
    else:
        known = ", ".join([*PLAIN, "hypervolume", *(o.name for o in plan.objectives)])
        raise InvalidConfig(f"sort: there is no column {column!r}.", hint=f"known: {known}.")

    def place(trial: Trial) -> tuple[bool, float]:
        value = values[trial.number]
        return (True, 0.0) if math.isnan(value) else (False, -value if down else value)

    return sorted(trials, key=place)


def _chosen(row: dict[str, Any], fields: str) -> dict[str, Any]:
    """The keys of a row that are asked for. Raises InvalidConfig for one that it has not."""
    if not fields:
        return row
    wanted = [field.strip() for field in fields.split(",")]
    for name in wanted:
        if name not in row:
            raise InvalidConfig(
                f"fields: a trial has no {name!r}.", hint=f"it has {', '.join(row)}."
            )
    return {name: row[name] for name in wanted}
