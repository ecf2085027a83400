"""Errors over HTTP: every one is a problem document (RFC 9457) with a code, a message and a hint."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from recycler.errors import RecyclerError
from recycler.store.engine import DatabaseError, passing

MEDIA = "application/problem+json"
STATUS = {  # code of an error -> HTTP status
    "invalid-config": 422,
    "not-found": 404,
    "conflict": 409,
    "broken-checkpoint": 422,
    "incompatible": 422,
    "missing-extra": 501,
    "study-failed": 409,
    "mismatch": 409,
    "unavailable": 503,
    "not-finite": 422,
    "unauthorized": 401,
    "forbidden": 403,
    "too-large": 413,
    "too-slow": 408,
    "uri-too-long": 414,
    "unsupported-media-type": 415,
    "misdirected": 421,
    "invalid-json": 400,
    "too-many": 429,
    "error": 500,
}


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field("about:blank", description="always about:blank; `code` tells kinds apart")
    title: str = Field(description="the HTTP status in words", examples=["Not Found"])
    status: int = Field(description="the HTTP status", examples=[404])
    detail: str = Field(description="what was found and what was expected")
    code: str = Field(description="stable name of the kind of error", examples=["not-found"])
    hint: str = Field("", description="what to do")


class Unauthorized(RecyclerError):
    """No token, or one that is unknown, expired or revoked."""

    code = "unauthorized"


class Forbidden(RecyclerError):
    """The token's scope, or the configuration of the service, does not allow it."""

    code = "forbidden"


class TooLarge(RecyclerError):
    """A request has more bytes than are accepted."""

    code = "too-large"


class TooMany(RecyclerError):
    """A client sends more requests, or opens more streams, than are accepted."""

    code = "too-many"


def problem(status: int, code: str, detail: str, hint: str = "", **headers: str) -> Response:
    """The response that states one error."""
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, code=code, hint=hint)
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body.model_dump(), status, shown, media_type=MEDIA)


def of_error(error: RecyclerError) -> Response:
    """The response that states an error of recycler."""
    status = STATUS.get(error.code, 500)
    headers = {401: {"WWW_Authenticate": "Bearer"}, 429: {"Retry_After": "1"}}.get(status, {})
    return problem(status, error.code, error.message, error.hint, **headers)


def fault() -> Response:
    """The response to a request that met a fault of recycler; its details are in the log alone."""
    return problem(
        500,
        "internal",
        "a fault of recycler.",
        "the log of the service has the details; please report it.",
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI documents for routes: the problems that each of them may answer with."""
    always = (400, 401, 403, 408, 413, 414, 415, 421, 422, 429, 500, 503)
    content = {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*always, *statuses})
    }


def install(app: FastAPI, page: Callable[[Request, Problem], Response]) -> None:
    """Make every error of an application a problem document.

    Args:
        app: the application.
        page: makes a page of a problem, for people who open an address outside of the API.
    """

    def shown(request: Request, found: Response) -> Response:
        reads = "text/html" in request.headers.get("accept", "")
        if request.url.path.startswith("/api/") or not reads:
            return found
        return page(request, Problem.model_validate_json(bytes(found.body)))

    @app.exception_handler(RecyclerError)
    def ours(request: Request, error: RecyclerError) -> Response:
        return shown(request, of_error(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        more = f" ({len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
        malformed = first["type"] == "json_invalid"
        return problem(
            400 if malformed else 422,
            "invalid-request",
            f"{place}: {first['msg']}{more}.",
            "the body has to be JSON." if malformed else "/api/v1/docs describes each request.",
        )

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        found = f"{request.method} {request.url.path}: {error.detail}."
        headers = {k.replace("-", "_"): v for k, v in (error.headers or {}).items()}
        hint = "/api/v1/docs lists all routes."
        return shown(request, problem(error.status_code, code, found, hint, **headers))

    @app.exception_handler(DatabaseError)
    def away(request: Request, error: DatabaseError) -> Response:
        found = passing(error)
        if found is None:
            raise error
        return shown(request, of_error(found))

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        return fault()
