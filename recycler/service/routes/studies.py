"""Routes of studies: create, start, stop, extend, clone, delete, and how far each is."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from recycler.errors import Conflict, NotFound, RecyclerError
from recycler.nouns.operation import OPEN, Operation
from recycler.nouns.status import Wanted
from recycler.service.about import study_json
from recycler.service.admission import admit, admit_execution
from recycler.service.live import thinned
from recycler.service.problems import responses
from recycler.service.state import By, Caller, Here, Service
from recycler.submit.config import ExecutionSection, parse_study
from recycler.submit.workspace import executor_of

router = APIRouter(tags=["studies"], responses=responses(404, 409))
EXAMPLE = {
    "study": "mine",
    "pool": "drawer",
    "objectives": [{"name": "gsm8k", "metric": "exact_match,strict-match"}],
    "search": {"evaluations": 50},
}
Execution = Annotated[dict[str, Any], Field(default_factory=dict, examples=[{"workers": 2}])]


class Document(BaseModel):
    """A study: the content of a study file, as JSON."""

    model_config = ConfigDict(extra="forbid")
    document: dict[str, Any] = Field(examples=[EXAMPLE])
    execution: Execution


class NewStudy(Document):
    """A study to create."""

    replace: bool = Field(False, description="start a study of this name anew")
    start: bool = Field(False, description="also put it into the queue")


class Quoted(Document):
    """A study to be quoted."""

    replace: bool = Field(False, description="as for a study that is started anew")


class Start(BaseModel):
    """How to run a study; without `execution` as the last time, or as its document says."""

    model_config = ConfigDict(extra="forbid")
    execution: Execution
    priority: int = Field(0, ge=-100, le=100, description="larger goes first")


class Extension(BaseModel):
    """A larger budget."""

    model_config = ConfigDict(extra="forbid")
    evaluations: int = Field(ge=0, le=1_000_000)
    stop_gain: float | None = Field(None, ge=0, le=1)


class Clone(BaseModel):
    """A new study like another one."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    changes: dict[str, Any] = Field(default_factory=dict, examples=[{"search": {"seed": 1}}])


@router.get("/studies")
def list_studies(service: Here) -> dict[str, Any]:
    """List the studies with their progress."""
    return {"studies": [thinned(found.to_json()) for found in service.live.snapshots()]}


@router.post("/studies", status_code=202)
def create(service: Here, by: By, new: NewStudy) -> dict[str, Any]:
    """Create a study from its document, or extend the same one; returns the operation."""
    asked = asked_of(service, new)
    return service.ask(
        by,
        "create",
        asked["document"]["study"],
        {**asked, "replace": new.replace, "start": new.start},
        priority=5,
    ).to_json()


@router.post("/studies/validate")
def validate(service: Here, new: Document) -> dict[str, Any]:
    """Check a document without writing anything: its fields, and its pool from the headers.

    What only the tasks know, such as their metrics, is checked when the study is created.
    """
    try:
        asked_of(service, new)
    except RecyclerError as error:
        return {"valid": False, "problem": error.to_json()}
    return {"valid": True, "problem": None}


@router.post("/studies/bill", status_code=202)
def bill(service: Here, by: By, new: Quoted) -> dict[str, Any]:
    """Time one merge and some items, and add up what the study will cost; returns the operation."""
    asked = {**asked_of(service, new), "replace": new.replace}
    return service.ask(by, "bill", asked["document"]["study"], asked, priority=10).to_json()


@router.post("/scouts", status_code=202)
def scout(service: Here, by: By, new: Document) -> dict[str, Any]:
    """Score the single checkpoints on all tasks of a document; returns the operation."""
    asked = asked_of(service, new)
    return service.ask(by, "scout", asked["document"]["study"], asked, priority=5).to_json()


@router.get("/studies/{study}")
def show(service: Here, study: str) -> dict[str, Any]:
    """Show a study: progress, ETA, latest trials, the pick so far, and its plan in short."""
    followed = service.live.study(study)
    snapshot, plan = followed.snapshot().to_json(), followed.trials()[0]
    return {**snapshot, **study_json(service.store, service.config, study, plan)}


@router.post("/studies/{study}/start", status_code=202)
def start(service: Here, by: By, study: str, how: Start) -> dict[str, Any]:
    """Run or resume a study; returns the operation."""
    return run(service, by, study, how.execution, how.priority).to_json()


@router.post("/studies/{study}/resume", status_code=202)
def resume(service: Here, by: By, study: str, how: Start) -> dict[str, Any]:
    """Resume a paused or stopped study; the same as start."""
    return run(service, by, study, how.execution, how.priority).to_json()


@router.post("/studies/{study}/pause")
def pause(service: Here, study: str) -> dict[str, Any]:
    """Pause a study once the merges in flight are scored."""
    return want(service, study, Wanted.PAUSE)


@router.post("/studies/{study}/stop")
def stop(
    service: Here,
    study: str,
    now: Annotated[bool, Query(description="don't wait for the merges in flight")] = False,
) -> dict[str, Any]:
    """Stop a study once the merges in flight are scored, and take it out of the queue."""
    return want(service, study, Wanted.NOW if now else Wanted.STOP)


@router.post("/studies/{study}/extend")
def extend(service: Here, study: str, by_how_much: Extension) -> dict[str, Any]:
    """Give a study a larger budget; start it again to use it."""
    require_idle(service, study)
    plan = service.store.plan(study)
    if by_how_much.evaluations < plan.evaluations:
        raise Conflict(
            f"study {study!r} has a budget of {plan.evaluations} evaluations, "
            f"{by_how_much.evaluations} is less.",
            hint="a budget can only grow; `clone` makes a smaller study.",
        )
    service.store.extend(study, by_how_much.evaluations, by_how_much.stop_gain)
    return {"study": study, "evaluations": by_how_much.evaluations}


@router.post("/studies/{study}/clone", status_code=202)
def clone(service: Here, by: By, study: str, new: Clone) -> dict[str, Any]:
    """Create a study with the document of another one, a new name and some changes.

    Tables in `changes` change only the keys that they have.
    """
    document = merged(document_of(service, study), {**new.changes, "study": new.name})
    return create(service, by, NewStudy(document=document, execution={}))


@router.get("/studies/{study}/document")
def document(service: Here, study: str) -> dict[str, Any]:
    """Return the document that a study was created from."""
    return {"study": study, "document": document_of(service, study)}


@router.delete("/studies/{study}")
def delete(service: Here, study: str) -> dict[str, Any]:
    """Delete a study with its trials; its evaluations stay for other studies."""
    require_idle(service, study)
    done = service.workspace.remove_study(study)
    service.live.forget(study)
    return done


# --- what the routes share ---


def asked_of(service: Service, new: Document) -> dict[str, Any]:
    """The arguments of an operation over a document; everything cheap is checked now.

    Raises:
        InvalidConfig, Forbidden, Incompatible: the document can't be accepted.
    """
    given = {**new.document}
    if new.execution:
        given["execution"] = {**given.get("execution", {}), **new.execution}
    document = admit(given, service.config)
    config = parse_study(document, "document")
    executor_of(config.execution)
    execution = config.execution.model_dump()
    return {"document": document, "root": service.config.exports, "execution": execution}


def run(
    service: Service, by: Caller, study: str, execution: Mapping[str, Any], priority: int
) -> Operation:
    """Put a run of a study into the queue."""
    require_idle(service, study)
    chosen = admit_execution(execution) if execution else last_execution(service, study)
    executor_of(ExecutionSection.model_validate(chosen))
    return service.ask(by, "run", study, {"study": study, "execution": {**chosen}}, priority)


def last_execution(service: Service, study: str) -> Mapping[str, Any]:
    """How a study was run last, or how its document says; empty if neither is known."""
    kinds = ("run", "create")
    found = service.store.operations.listed(kinds=kinds, subject=study, limit=20)
    return next((f.arguments["execution"] for f in found if f.arguments.get("execution")), {})


def require_idle(service: Service, study: str) -> None:
    """Raise Conflict if a process runs the study, or if it is in the queue."""
    status = service.store.status(study)
    if status["alive"]:
        raise Conflict(
            f"study {study!r} is being run by {status['holder']}.",
            hint=f"stop it first: POST /api/v1/studies/{study}/stop.",
        )
    waiting = service.store.operations.listed(OPEN, kinds=["run", "try"], subject=study, limit=1)
    if waiting:
        raise Conflict(
            f"study {study!r} is in the queue, as operation {waiting[0].id}.",
            hint="wait for it, or cancel it.",
        )


def want(service: Service, study: str, wanted: Wanted) -> dict[str, Any]:
    """Ask the process of a study to pause or stop, and take its run out of the queue."""
    service.store.status(study)
    cancelled = []
    for waiting in service.store.operations.listed(["queued"], kinds=["run"], subject=study):
        service.store.operations.cancel(waiting.id)
        cancelled.append(waiting.id)
    asked = service.store.want(study, wanted)
    status = service.store.status(study)
    shown = {key: status[key] for key in ("status", "message", "alive", "holder", "heartbeat")}
    return {"study": study, "asked": asked, "cancelled": cancelled, **shown}


def document_of(service: Service, study: str) -> dict[str, Any]:
    """The document that a study was created from by this service."""
    service.store.status(study)
    found = service.store.operations.listed(["done"], kinds=["create"], subject=study, limit=1)
    if not found:
        raise NotFound(
            f"study {study!r} was not created through the service, so its document is not known.",
            hint="create the new study from its study file.",
        )
    return dict(found[0].arguments["document"])


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with changes; tables within it are changed key by key."""
    made = {**table}
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = merged(made[key], value) if both else value
    return made
