"""Routes of what a study has found: the front, the pick, predictions, comparisons, figures."""

import math
from collections.abc import Callable, Iterator
from importlib import import_module as lazy
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from recycler.errors import InvalidConfig, NotFound
from recycler.front.compare import Comparison, compare
from recycler.front.naming import named
from recycler.front.proposals import foreseen
from recycler.front.results import Results
from recycler.nouns.evaluation import Split
from recycler.nouns.recipe import Recipe
from recycler.report.decision import why
from recycler.service.assets import PLOTLY
from recycler.service.problems import responses
from recycler.service.routes.trials import Weights, queued
from recycler.service.state import By, Here

router = APIRouter(prefix="/studies/{study}", tags=["results"], responses=responses(404))
FIGURES = {  # name -> function of the report that draws it
    "front": "figures:front_figure",
    "parallel": "figures:parallel_figure",
    "weights": "weights:weights_figure",
    "roles": "weights:roles_figure",
    "hypervolume": "volume:trace_figure",
    "differences": "forest:forest_figure",
}
SCRIPT = "<!-- plotly -->"
# A report has its script within it, so it gets an origin of its own, without cookies.
ALONE = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:"
)
Pairs = Annotated[
    str, Query(max_length=2000, description="objective=number, …", examples=["code=2,prose=1"])
]
Names = Annotated[list[str], Query(min_length=1, max_length=20, examples=[["pick", "uniform"]])]


class Questions(BaseModel):
    """What to predict: merges, and preferences for which merges are proposed."""

    model_config = ConfigDict(extra="forbid")
    weights: list[Weights] = Field(
        default_factory=list, max_length=100, examples=[[{"code-a": 0.5, "prose-a": 0.5}]]
    )
    prefer: list[dict[str, FiniteFloat]] = Field(
        default_factory=list, max_length=100, examples=[[{"code": 2, "prose": 1}]]
    )
    grid: int = Field(0, ge=0, le=100)


class Prompts(BaseModel):
    """What trials are to answer."""

    model_config = ConfigDict(extra="forbid")
    trials: list[str] = Field(min_length=1, max_length=20, examples=[["pick", "uniform"]])
    prompts: list[str] = Field(min_length=1, max_length=100, examples=[["12+7="]])
    temperature: float = Field(0.0, ge=0, le=100)
    seed: int = Field(0, ge=0, lt=2**32)
    max_new_tokens: int = Field(128, ge=1, le=8192)
    chat: bool | None = None


class Again(BaseModel):
    """Whose answers to make again."""

    model_config = ConfigDict(extra="forbid")
    trials: list[str] = Field(min_length=1, max_length=20, examples=[["pick"]])
    split: Split = Split.TEST
    objective: str = Field(max_length=200)


@router.get("/front")
def front(service: Here, study: str) -> dict[str, Any]:
    """Return the front: members, baselines, decision; as `recycler front STUDY --json`."""
    found: dict[str, Any] = service.live.document(study, ("front",), lambda r: r.front_json())
    return found


@router.get("/pick")
def pick(
    service: Here,
    study: str,
    knee: bool = False,
    prefer: Pairs | None = None,
    floor: Pairs = "",
) -> dict[str, Any]:
    """Return the trial to take, and why; as `recycler pick STUDY --json`.

    `prefer` without a value takes the weights of the objectives. At most one rule.
    """
    if knee + (prefer is not None) + bool(floor) > 1:
        raise InvalidConfig("expected one of knee, prefer and floor.", hint="leave two out.")
    results = service.live.results(study)
    wanted = None if prefer is None else numbers(prefer, "prefer") if prefer else {}
    trial = results.picked(knee, wanted, numbers(floor, "floor") if floor else None)
    return {**results.trial_json(trial.number), "why": why(results, trial, asked=bool(prefer))}


@router.post("/predictions")
def predictions(service: Here, study: str, asked: Questions) -> dict[str, Any]:
    """Say what is expected of merges that nobody scored; as `recycler predict STUDY --json`.

    Nothing is evaluated or written.
    """
    key = ("predictions", asked.model_dump_json())

    def make(results: Results) -> dict[str, Any]:
        return {**foreseen(results, asked.weights, asked.prefer, asked.grid), "evaluated": []}

    found: dict[str, Any] = service.live.document(study, key, make)
    return found


@router.post("/predictions/evaluate", status_code=202)
def evaluate(service: Here, by: By, study: str, asked: Questions) -> dict[str, Any]:
    """Score the merges of such a prediction, as trials of one's own."""
    table = foreseen(service.live.results(study), asked.weights, asked.prefer, asked.grid)
    rows = {row["id"]: row for row in [*table["predictions"], *table["proposals"]]}
    recipes = [Recipe.from_json(row["recipe"]) for row in rows.values()]
    made = [queued(service, by, study, recipe, {}) for recipe in recipes]
    return {**table, "evaluated": made}


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
    asked = {"study": study, "trials": numbers, "prompts": prompts.prompts, "sampling": sampling}
    return service.ask(by, "sample", study, asked, priority=10).to_json()


@router.get("/report", response_class=HTMLResponse)
def report(service: Here, study: str) -> StreamingResponse:
    """Return the report: one HTML file that needs no network."""
    page = lazy("recycler.report.page").html_page
    text: str = service.live.document(study, ("report",), lambda r: page(r, SCRIPT))
    before, _, after = text.partition(SCRIPT)

    def parts() -> Iterator[bytes]:
        yield f"{before}<script>".encode()
        with PLOTLY.open("rb") as source:  # 4.8 MB, which stay out of memory
            yield from iter(lambda: source.read(1 << 16), b"")
        yield f"</script>{after}".encode()

    headers = {
        "Content-Disposition": f'inline; filename="{study}.html"',
        "Content-Security-Policy": ALONE,
    }
    return StreamingResponse(parts(), headers=headers, media_type="text/html; charset=utf-8")


@router.get("/figures/{name}")
def figure(
    service: Here,
    study: str,
    name: Literal["front", "parallel", "weights", "roles", "hypervolume", "differences"],
) -> Response:
    """Return a figure as plotly's JSON: `data`, `layout`."""
    text: str = service.live.document(study, ("figure", name), _drawn(name))
    return Response(text, media_type="application/json")


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


def numbers(text: str, where: str) -> dict[str, float]:
    """`a=2,b=1` as a mapping."""
    try:
        pairs = [part.split("=", 1) for part in text.split(",")]
        found = {name.strip(): float(value) for name, value in pairs}
        if len(found) < len(pairs) or not all(map(math.isfinite, found.values())):
            raise ValueError(text)
    except ValueError as error:
        raise InvalidConfig(
            f"{where}: {text!r} is not of the form name=number,name=number.",
            hint="for example code=2,prose=1; each name once.",
        ) from error
    return found


def _drawn(name: str) -> Callable[[Results], str]:
    module, _, function = FIGURES[name].partition(":")
    draw = getattr(lazy(f"recycler.report.{module}"), function)

    def make(results: Results) -> str:
        if name == "differences":
            decision = results.decision
            if decision is None or decision.verdict is None:
                raise NotFound(
                    f"study {results.name!r} has no pick that is scored with its rivals yet.",
                    hint="run the study first.",
                )
            return str(draw(decision.verdict).to_json())
        return str(draw(results).to_json())

    return make
