"""Routes of the ledger as `recycler --server` reads it: rows from which the client computes."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from recycler.errors import NotFound
from recycler.nouns.evaluation import Split
from recycler.nouns.recipe import canonical
from recycler.nouns.trial import Proposal
from recycler.nouns.wire import answers_json, trial_json
from recycler.service.problems import responses
from recycler.service.routes.trials import recipe_of
from recycler.service.state import By, Here

router = APIRouter(prefix="/ledger", tags=["ledger"], responses=responses(404))
Known = Annotated[str, Header(alias="If-None-Match", max_length=200)]
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "unchanged since the ETag"}}


class Asked(BaseModel):
    """A merge that the next run of a study is to score."""

    model_config = ConfigDict(extra="forbid")
    recipe: dict[str, Any]


class Running(BaseModel):
    """How merges are scored."""

    model_config = ConfigDict(extra="forbid")
    execution: dict[str, Any] = Field(default_factory=dict, examples=[{"workers": 1}])


@router.get("/pools")
def pools(service: Here) -> dict[str, Any]:
    """List the registered pools, those of studies too."""
    return {"pools": service.store.catalog.pools()}


@router.get("/pools/{pool}")
def pool(service: Here, pool: str) -> dict[str, Any]:
    """Return a pool as the ledger has it, also the pool of a study (`study:NAME`)."""
    return {"name": pool, "spec": service.store.catalog.pool(pool)}


@router.get("/studies")
def studies(service: Here) -> dict[str, Any]:
    """List the status of every study, oldest first."""
    return {"studies": service.store.studies()}


@router.get("/studies/{study}/status")
def status(service: Here, study: str) -> dict[str, Any]:
    """Return the status of a study, without its trials."""
    return service.store.status(study)


@router.get("/studies/{study}/plan")
def plan(service: Here, study: str) -> dict[str, Any]:
    """Return the plan of a study: all its settings."""
    return service.store.plan(study).to_json()


@router.get("/studies/{study}/trials")
def trials(
    service: Here, study: str, since: Annotated[int, Query(ge=-1, lt=2**31)] = -1
) -> dict[str, Any]:
    """Return the trials that changed after an event of the study, without item outcomes."""
    found = service.store.trials(study, since)
    return {"study": study, "trials": [trial_json(trial) for trial in found]}


@router.get("/studies/{study}/reading", response_model=dict[str, Any], responses=UNCHANGED)
def reading(service: Here, study: str, known: Known = "") -> Response:
    """Return a study whole: status, plan, trials, and item outcomes as the ledger packs them.

    All are of one moment. Outcomes are `[trial, split, objective, base64]`: compressed JSON.
    """
    state = canonical(service.store.status(study))
    tag = f'"{hashlib.sha256(state.encode()).hexdigest()[:32]}"'
    if tag == known:
        return Response(status_code=304, headers={"ETag": tag})
    text = json.dumps(service.store.packed(study).to_json(), separators=(",", ":"))
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    return Response(text, media_type="application/json", headers=headers)


@router.get("/studies/{study}/answers")
def answers(
    service: Here,
    study: str,
    trial: Annotated[int, Query(ge=0, lt=2**31)],
    split: Split,
    objective: Annotated[str, Query(max_length=200)],
) -> dict[str, Any]:
    """Return the kept answers of a trial, packed as in the ledger; null where none are kept."""
    results = service.live.results(study)
    return answers_json(results.answers(results.trial(trial), split, objective))


@router.get("/studies/{study}/tries")
def tries(service: Here, study: str) -> dict[str, Any]:
    """List the merges asked for that the study has no trial of yet, oldest first."""
    service.store.status(study)
    return {"study": study, "tries": [_proposal(p) for p in service.store.asked_for(study)]}


@router.post("/studies/{study}/tries")
def ask_for(service: Here, by: By, study: str, asked: Asked) -> dict[str, Any]:
    """Queue a merge for the next run of a study; starts nothing."""
    recipe = recipe_of(service.store.plan(study), None, asked.recipe)
    return _proposal(service.store.ask_for(study, recipe))


@router.post("/studies/{study}/tries/run", status_code=202)
def run_tries(service: Here, by: By, study: str, how: Running) -> dict[str, Any]:
    """Score the merges asked for, in one operation that nobody runs the study beside."""
    waiting = service.store.asked_for(study)
    if not waiting:
        raise NotFound(
            f"study {study!r} waits for no merge.", hint="POST to …/tries asks for one."
        )
    recipes = [proposal.recipe.to_json() for proposal in waiting]
    asked = {"study": study, "recipes": recipes, "execution": how.execution}
    return service.ask(by, "try", study, asked, priority=10).to_json()


def _proposal(found: Proposal) -> dict[str, Any]:
    return {"kind": str(found.kind), "name": found.name, "recipe": found.recipe.to_json()}
