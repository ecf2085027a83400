"""The OpenAPI document of the service, and a page that lists its routes without any script."""

import html
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from recycler.service.problems import Problem

EVENTS = "text/event-stream"


def operation_id(route: APIRoute) -> str:
    """A readable name of a route, such as `studies_show`."""
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name


def install(app: FastAPI, path: str) -> None:
    """Give an application its document, and the page of it at a path."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = made(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    app.add_api_route(path, lambda: HTMLResponse(page(document())), include_in_schema=False)


def made(app: FastAPI) -> dict[str, Any]:
    """The document: FastAPI's, with the schema of problems and what only reads answer."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for where, methods in found["paths"].items():
        for method, operation in methods.items():
            if method != "get":
                operation["responses"].pop("304", None)
            if where.endswith("/events"):
                content = {EVENTS: {"schema": {"type": "string"}}}
                operation["responses"]["200"]["content"] = content
    return found


def page(document: dict[str, Any]) -> str:
    """The routes as HTML, by tag."""
    rows: dict[str, list[str]] = {}
    for where, methods in document["paths"].items():
        for method, operation in methods.items():
            about = html.escape(operation.get("description") or operation.get("summary", ""))
            asked = [
                f"<li><code>{html.escape(p['name'])}</code> in {p['in']}"
                f"{', required' if p.get('required') else ''}"
                f"{html.escape(': ' + p['description']) if p.get('description') else ''}</li>"
                for p in operation.get("parameters", ())
            ]
            rows.setdefault(operation.get("tags", ["other"])[0], []).append(
                f"<h3><code>{method.upper()} {html.escape(where)}</code></h3>"
                f"<p>{about}</p><ul>{''.join(asked)}</ul>"
            )
    parts = "".join(f"<h2>{html.escape(tag)}</h2>{''.join(found)}" for tag, found in rows.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>recycler: API</title>'
        f"</head><body><h1>API</h1><p>{html.escape(document['info']['description'])}</p>"
        '<p>For programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
        f"{parts}</body></html>"
    )
