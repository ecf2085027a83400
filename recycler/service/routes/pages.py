"""The page: server-rendered frames that are filled from the API."""

import os
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from recycler import __version__
from recycler.service.assets import FOR_EVER, STATIC, TEMPLATES, plotly_compressed, version
from recycler.service.problems import Problem
from recycler.service.state import By, Here, caller_of

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(directory=TEMPLATES)


@router.get("/")
def studies(request: Request, service: Here, by: By) -> HTMLResponse:
    """All studies."""
    return _page(request, "studies", "Studies")


@router.get("/studies/{study}")
def front(request: Request, service: Here, by: By, study: str) -> HTMLResponse:
    """One study: its decision and its front."""
    service.store.status(study)
    return _page(request, "front", study, study=study)


@router.get("/studies/{study}/trials/{trial}")
def merge(request: Request, service: Here, by: By, study: str, trial: str) -> HTMLResponse:
    """One merge."""
    service.store.status(study)
    return _page(request, "merge", f"{trial} of {study}", study=study, trial=trial)


@router.get("/new")
def new(request: Request, service: Here, by: By) -> HTMLResponse:
    """A new study."""
    config = service.config
    offers = {
        "evaluators": {
            name: section.get("kind", "lm-eval") for name, section in config.evaluators.items()
        },
        "roots": config.checkpoints,
        "cores": os.cpu_count(),
    }
    return _page(request, "new", "New study", offers=offers)


@router.get("/pools")
def pools(request: Request, service: Here, by: By) -> HTMLResponse:
    """All pools."""
    return _page(request, "pools", "Pools", roots=service.config.checkpoints)


@router.get("/pools/{pool}")
def pool(request: Request, service: Here, by: By, pool: str) -> HTMLResponse:
    """One pool."""
    service.store.catalog.pool(pool)
    return _page(request, "pool", pool, pool=pool)


@router.get("/operations")
def operations(request: Request, service: Here, by: By) -> HTMLResponse:
    """The queue and the machine."""
    return _page(request, "operations", "Operations")


@router.get("/login")
def login(request: Request) -> HTMLResponse:
    """Log in with a token."""
    return _page(request, "login", "Log in")


@router.get("/assets/plotly.min.js")
def plotly() -> Response:
    """Plotly's source, as the installed package has it."""
    headers = {"Content-Encoding": "gzip", "Cache-Control": FOR_EVER}
    return Response(plotly_compressed(), headers=headers, media_type="text/javascript")


@router.get("/favicon.ico")
def icon() -> Response:
    """The icon, for pages that don't name one."""
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def of_problem(request: Request, problem: Problem) -> HTMLResponse:
    """A problem as a page."""
    found = _page(request, "problem", problem.title, problem=problem.model_dump())
    found.status_code = problem.status
    return found


def _page(request: Request, name: str, title: str, **about: Any) -> HTMLResponse:
    shown = {
        "title": title,
        "page": name,
        "about": about,
        "version": __version__,
        "build": version(),
        "tokens": request.app.state.service.config.needs_tokens,
        "writes": "write" in caller_of(request).scopes,
    }
    return templates.TemplateResponse(request, f"{name}.html", shown)
