"""Routes of the page that explores a study: all trials column by column, and what was found."""

import gzip
import json
from collections.abc import Mapping
from importlib import import_module as lazy
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse, Response

from recycler.checkpoints.pool import Pool
from recycler.front.naming import named
from recycler.nouns.evaluation import Split
from recycler.service.problems import responses
from recycler.service.roots import Roots, roots_of
from recycler.service.state import Here
from recycler.submit.workspace import pool_name

router = APIRouter(prefix="/studies/{study}/explorer", tags=["explorer"], responses=responses(404))
Accepts = Annotated[str, Header(alias="Accept-Encoding", max_length=1000)]


@router.get("", response_class=JSONResponse)
def explore(service: Here, study: str, accept_encoding: Accepts = "") -> Response:
    """Return all trials column by column: names, kinds, states, weights, scores on each split."""
    collect = lazy("recycler.report.explorer").columns

    def make() -> bytes:
        plan, trials = service.live.study(study).trials()
        return _packed(json.dumps(collect(plan, trials), separators=(",", ":")))

    return _sent(service.live.computed(study, ("explorer",), make), accept_encoding)


@router.get("/front", response_class=JSONResponse)
def front(
    service: Here,
    study: str,
    split: Split | None = None,
    across: Annotated[int, Query(ge=1, le=3, description="panels side by side")] = 3,
    accept_encoding: Accepts = "",
) -> Response:
    """Return what was found: members, axes, groups, decision, and frames of figures (plotly's JSON).

    The frames have axes, floors and errors; the page draws the trials.
    """
    draw = lazy("recycler.report.explorer").found
    key = ("explorer", str(split or ""), across)
    made = service.live.document(study, key, lambda r: _packed(draw(r, split or "", across)))
    return _sent(made, accept_encoding)


@router.get("/trials/{trial}")
def merge(
    service: Here, study: str, trial: Annotated[str, Path(max_length=200, examples=["pick"])]
) -> dict[str, Any]:
    """Return what is known of one trial: its roles, its rivals, its differences from them."""
    results = service.live.results(study)
    number = named(results, trial).number
    show = lazy("recycler.report.merge").shown
    key = ("explorer", "trial", number)
    found: dict[str, Any] = service.live.document(study, key, lambda r: show(r, r.trial(number)))
    return found


@router.get("/trials/{trial}/recipe")
def recipe(
    service: Here, study: str, trial: Annotated[str, Path(max_length=200, examples=["pick"])]
) -> dict[str, str]:
    """Return a trial's recipe as YAML: `recycler`, and `mergekit` if that can express it."""
    results = service.live.results(study)
    spec = service.store.catalog.pool(pool_name(study))
    roots = roots_of(service.config)
    entries = [_entry(entry, roots) for entry in spec["checkpoints"]]
    pool = Pool.from_entries(study, entries, spec["base"] and _entry(spec["base"], roots))
    files: dict[str, str] = lazy("recycler.report.merge").recipe_files(
        named(results, trial).recipe, pool
    )
    return files


def _entry(entry: Mapping[str, Any], roots: Roots) -> dict[str, Any]:
    path = str(roots.resolve(entry["path"], f"checkpoint {entry['name']!r}"))
    return {"name": entry["name"], "path": path, **entry["about"]}


def _packed(text: str) -> bytes:
    return gzip.compress(text.encode(), 6, mtime=0)


def _sent(packed: bytes, accepts: str) -> Response:
    """A compressed document, unpacked for a client that does not read gzip."""
    headers = {"Vary": "Accept-Encoding", "Cache-Control": "no-cache"}
    if "gzip" in accepts:
        headers["Content-Encoding"] = "gzip"
        return Response(packed, headers=headers, media_type="application/json")
    return Response(gzip.decompress(packed), headers=headers, media_type="application/json")
