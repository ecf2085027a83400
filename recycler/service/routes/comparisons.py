"""Routes that set trials side by side: comparisons item by item, answers, samples, the scouting."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from recycler.errors import NotFound
from recycler.front.compare import Comparison, compare
from recycler.front.naming import named
from recycler.nouns.evaluation import Split
from recycler.service.problems import responses
from recycler.service.state import By, Here

router = APIRouter(prefix="/studies/{study}", tags=["comparisons"], responses=responses(404))
Names = Annotated[list[str], Query(min_length=1, max_length=20, examples=[["pick", "uniform"]])]


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: str = Field(min_length=1, max_length=100, examples=["user"])
    content: str = Field(max_length=100_000, examples=["12+7="])


class Conversation(BaseModel):
    """A prompt in messages."""

    model_config = ConfigDict(extra="forbid")
    messages: list[Turn] = Field(min_length=1, max_length=100)


class Prompts(BaseModel):
    """What trials are to answer."""

    model_config = ConfigDict(extra="forbid")
    trials: list[str] = Field(min_length=1, max_length=20, examples=[["pick", "uniform"]])
    prompts: list[str | Conversation] = Field(min_length=1, max_length=100, examples=[["12+7="]])
    temperature: float = Field(0.0, ge=0, le=100)
    seed: int = Field(0, ge=0, lt=2**32)
    max_new_tokens: int = Field(128, ge=1, le=8192)
    chat: bool | None = None
    device: str = Field("cpu", pattern=r"^(cpu|cuda|mps|xpu|npu)(:\d{1,3})?$")


class Again(BaseModel):
    """Whose answers to make again."""

    model_config = ConfigDict(extra="forbid")
    trials: list[str] = Field(min_length=1, max_length=20, examples=[["pick"]])
    split: Split = Split.TEST
    objective: str = Field(max_length=200)


@router.get("/comparison")
def comparison(
    service: Here,
    study: str,
    trial: Names,
    split: Split | None = None,
    items: Annotated[str, Query(description="a task: list its items", max_length=200)] = "",
    every: Annotated[bool, Query(description="also items that do not differ")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    skip: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> dict[str, Any]:
    """Compare the first trial with each of the others; as `recycler compare --json`.

    With `items`, a page of the items of one task, with prompts and answers where they are kept.
    """
    found: Comparison = compare(service.live.results(study), trial, split or "")
    if not items:
        return found.to_json()
    listed = found.items(items, every).to_json()
    rows = listed.pop("items")
    page = {**listed, "total": len(rows), "skip": skip, "items": rows[skip : skip + limit]}
    return {**found.to_json(), "items": page}


@router.post("/answers", status_code=202)
def answers(service: Here, by: By, study: str, again: Again) -> dict[str, Any]:
    """Score trials again whose answers were not kept; returns the operation."""
    results = service.live.results(study)
    numbers = [named(results, name).number for name in again.trials]
    asked = {
        "study": study,
        "trials": numbers,
        "split": str(again.split),
        "objective": again.objective,
    }
    return service.ask(by, "answers", study, asked).to_json()


@router.post("/samples", status_code=202)
def samples(service: Here, by: By, study: str, prompts: Prompts) -> dict[str, Any]:
    """Let trials answer prompts side by side; returns the operation."""
    results = service.live.results(study)
    numbers = [named(results, name).number for name in prompts.trials]
    sampling = prompts.model_dump(exclude={"trials", "prompts"}, exclude_none=True)
    texts = [p if isinstance(p, str) else p.model_dump() for p in prompts.prompts]
    asked = {"study": study, "trials": numbers, "prompts": texts, "sampling": sampling}
    return service.ask(by, "sample", study, asked, priority=10).to_json()


@router.get("/scout")
def scout(service: Here, study: str) -> dict[str, Any]:
    """Return what scouting found, as `recycler scout --json`, from its last operation."""
    done = service.store.operations.listed(["done"], kinds=["scout"], subject=study, limit=1)
    if not done or done[0].result is None:
        raise NotFound(
            f"study {study!r} was not scouted here.",
            hint="POST /api/v1/scouts with its document scores the single checkpoints.",
        )
    return {**done[0].result, "operation": done[0].id}
