"""Routes of what a study has found: the front, the pick, predictions, figures, the report."""

import json
import math
import re
from collections.abc import Callable, Iterator
from importlib import import_module as lazy
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from recycler.errors import InvalidConfig, NotFound
from recycler.front.proposals import foreseen
from recycler.front.results import Results
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Trial
from recycler.report.decision import why
from recycler.service.assets import PLOTLY
from recycler.service.fresh import KEPT, Fresh
from recycler.service.routes.trials import Weights, queued
from recycler.service.state import By, Here

router = APIRouter(prefix="/studies/{study}", tags=["results"], route_class=Fresh, responses=KEPT)
FIGURES = {  # name -> function of the report that draws it
    "front": "figures:front_figure",
    "parallel": "figures:parallel_figure",
    "weights": "weights:weights_figure",
    "roles": "weights:roles_figure",
    "hypervolume": "volume:trace_figure",
    "differences": "forest:forest_figure",
}
Figure = Literal["front", "parallel", "weights", "roles", "hypervolume", "differences"]
SCRIPT = "<!-- plotly -->"
# A report has its script within it, so it gets an origin of its own, without cookies.
ALONE = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:"
)
Pairs = Annotated[
    str, Query(max_length=2000, description="objective=number, …", examples=["code=2,prose=1"])
]


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


@router.get("/front")
def front(
    service: Here, study: str, prefer: Pairs = "", floor: Pairs = "", knee: bool = False
) -> Any:
    """Return the front: members, baselines, decision; as `recycler front STUDY --json`.

    With `prefer`, `floor` or `knee` also `picked`, what `pick` names by this rule: `{"trial",
    "name", "why"}`, or `{"trial": null, "why"}` if no member meets the floors.
    """
    text: bytes = service.live.document(study, ("front",), front_text)
    if not (prefer or floor or knee):
        return Response(text, media_type="application/json")
    found = json.loads(text)
    results = service.live.results(study)
    try:
        trial = chosen(results, knee, prefer or None, floor)
    except NotFound as error:
        return {**found, "picked": {"trial": None, "name": None, "why": error.message}}
    sentence = why(results, trial, asked=bool(prefer))
    return {**found, "picked": {"trial": trial.number, "name": trial.name, "why": sentence}}


def front_text(results: Results) -> bytes:
    """The front as JSON text, which is smaller than its objects."""
    return json.dumps(results.front_json(), ensure_ascii=False, allow_nan=False).encode()


@router.get("/pick")
def pick(
    service: Here,
    study: str,
    knee: bool = False,
    prefer: Pairs | None = None,
    floor: Pairs = "",
) -> dict[str, Any]:
    """Return the trial to take, and why; as `recycler pick STUDY --json`.

    `prefer` without a value takes the weights of the objectives. With `prefer` and `floor`: the best
    by that preference among the members that meet the floors.
    """
    results = service.live.results(study)
    trial = chosen(results, knee, prefer, floor)
    return {**results.trial_json(trial.number), "why": why(results, trial, asked=bool(prefer))}


def chosen(results: Results, knee: bool, prefer: str | None, floor: str) -> Trial:
    """The trial that a rule takes. Raises NotFound if no member meets the floors."""
    if knee and (prefer is not None or floor):
        raise InvalidConfig("`knee` is a rule of its own.", hint="leave out prefer and floor.")
    wanted = None if prefer is None else numbers(prefer, "prefer") if prefer else {}
    return results.picked(knee, wanted, numbers(floor, "floor") if floor else None)


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
        "Content-Disposition": disposition(f"{study}.html", "inline"),
        "Content-Security-Policy": ALONE,
    }
    return StreamingResponse(parts(), headers=headers, media_type="text/html; charset=utf-8")


class Csv(Response):
    """A table as text."""

    media_type = "text/csv"


@router.get("/report.csv", response_class=Csv)
def report_csv(service: Here, study: str) -> Response:
    """Return members and baselines as a table; as `recycler front STUDY --csv`."""
    text: str = service.live.document(study, ("csv",), lazy("recycler.report.tables").front_csv)
    headers = {"Content-Disposition": disposition(f"{study}.csv", "attachment")}
    return Csv(text, headers=headers)


@router.get("/figures/{name}", response_class=JSONResponse)
def figure(
    service: Here,
    study: str,
    name: Figure,
    width: Annotated[int, Query(ge=200, le=4000, description="of the figure [px]")] = 960,
) -> Response:
    """Return a figure of the report as plotly's JSON: `data`, `layout`; its caption is in `meta`."""
    text: str = service.live.document(study, ("figure", name, width), _drawn(name, width))
    return Response(text, media_type="application/json")


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


def disposition(file: str, how: str) -> str:
    """A Content-Disposition header; the name can't end it or begin another (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", file)
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(file, safe='')}"


def _drawn(name: str, width: int) -> Callable[[Results], str]:
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
            return str(draw(decision.verdict).update_layout(width=width).to_json())
        return str(draw(results).update_layout(width=width).to_json())

    return make
