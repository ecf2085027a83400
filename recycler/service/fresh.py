"""Answers that clients may keep: an ETag for each version of a study, 304 while it is the same."""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from recycler import __version__
from recycler.service.live import lagging
from recycler.service.problems import responses
from recycler.service.state import service_of

LATE = {"Cache-Control": "no-store", "X-Recycler-Lags": "1"}  # a running study is ahead of it
SAFE = ("GET", "HEAD")
# what OpenAPI documents for routes of one study
KEPT: dict[int | str, dict[str, Any]] = {
    304: {"description": "unchanged since the answer with this ETag (If-None-Match)"},
    **responses(404),
}


class Fresh(APIRoute):
    """A route of one study whose answer depends on nothing but the study and the request.

    The tag is read before the answer is made: what changes meanwhile is seen at the next request.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            study = request.path_params.get("study")
            if request.method not in SAFE or study is None:
                return await handle(request)
            tag = await run_in_threadpool(_tag, request, study)
            headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
            if _same(request.headers.get("if-none-match", ""), tag):
                return Response(status_code=304, headers=headers)
            late: list[bool] = []
            told = lagging.set(late)
            try:
                response = await handle(request)
            finally:
                lagging.reset(told)
            if response.status_code == 200:
                response.headers.update(LATE if late else headers)
            return response

        return answer


def _tag(request: Request, study: str) -> str:
    version = (__version__, *service_of(request).live.version(study))
    return f'W/"{hashlib.sha256(repr(version).encode()).hexdigest()[:24]}"'


def _same(asked: str, tag: str) -> bool:
    """Whether one of the tags that a client has is this one, by weak comparison."""
    known = {part.strip().removeprefix("W/") for part in asked.split(",")}
    return "*" in known or tag.removeprefix("W/") in known
