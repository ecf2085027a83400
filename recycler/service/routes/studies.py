"""Routes of studies: create, start, stop, and what each shows."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from recycler.nouns.status import Wanted
from recycler.service.admission import admit
from recycler.service.state import By, Here
from recycler.submit.config import parse_study

router = APIRouter(prefix="/studies", tags=["studies"])


class NewStudy(BaseModel):
    """A study to create: the content of a study file, as JSON."""

    model_config = ConfigDict(extra="forbid")
    document: dict[str, Any] = Field(examples=[{"study": "demo", "pool": "drawer"}])
    replace: bool = False


class Start(BaseModel):
    """How to run a study."""

    model_config = ConfigDict(extra="forbid")
    execution: dict[str, Any] = Field(default_factory=dict, examples=[{"workers": 2}])
    priority: int = Field(0, ge=-100, le=100)


@router.get("")
def list_studies(service: Here) -> dict[str, Any]:
    """List the studies with their progress."""
    rows = service.store.studies()
    return {"studies": [service.live.study(row["name"]).snapshot().to_json() for row in rows]}


@router.post("", status_code=202)
def create(service: Here, by: By, new: NewStudy) -> dict[str, Any]:
    """Create a study from its document; returns the operation."""
    document = admit(new.document, service.config)
    config = parse_study(document)
    asked = {"document": document, "root": service.config.exports, "replace": new.replace}
    return service.ask(by, "create", config.study, asked).to_json()


@router.get("/{study}")
def show(service: Here, study: str) -> dict[str, Any]:
    """Show how far a study is: progress, ETA, latest trials, the pick so far."""
    return service.live.study(study).snapshot().to_json()


@router.post("/{study}/start", status_code=202)
def start(service: Here, by: By, study: str, how: Start) -> dict[str, Any]:
    """Run or resume a study; returns the operation."""
    service.store.status(study)
    asked = {"study": study, "execution": how.execution}
    return service.ask(by, "run", study, asked, how.priority).to_json()


@router.post("/{study}/stop")
def stop(service: Here, by: By, study: str, now: bool = False) -> dict[str, Any]:
    """Stop a study once the merges in flight are scored, or at once."""
    return _want(service, study, Wanted.NOW if now else Wanted.STOP)


@router.post("/{study}/pause")
def pause(service: Here, by: By, study: str) -> dict[str, Any]:
    """Pause a study once the merges in flight are scored."""
    return _want(service, study, Wanted.PAUSE)


def _want(service: Here, study: str, wanted: Wanted) -> dict[str, Any]:
    asked = service.store.want(study, wanted)
    return {"study": study, "asked": asked}
