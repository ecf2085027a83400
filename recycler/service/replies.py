"""Repeated requests: with the same Idempotency-Key, the work is done once and its answer repeated."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from recycler.errors import Conflict, InvalidConfig
from recycler.service.limits import Message, Receive
from recycler.service.state import Caller
from recycler.store.access import Access

Scope = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
KEY = "idempotency-key"
LONGEST = 200  # characters of a key
KEPT = 1_000_000  # bytes of an answer that is kept
PATIENCE, LOOK = 10.0, 0.1  # how long a repeated request waits for the first one, and looks [s]


class Replies:
    """Calls the application with a body that was read, and keeps its answer under a key.

    An answer is kept if it is a success. After an error the request can be repeated. If the service
    dies in between, nobody knows what was done: the key then is refused until it expires.
    """

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(
        self,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
        caller: Caller,
        headers: Mapping[str, str],
    ) -> None:
        again = _replay(body, receive)
        key = headers.get(KEY, "") if scope["method"] == "POST" else ""
        if not key:
            return await self._app(scope, again, send)
        if len(key) > LONGEST or not key.isprintable():
            raise InvalidConfig(
                f"the Idempotency-Key has {len(key)} characters.",
                hint=f"send at most {LONGEST} printable characters, such as a UUID.",
            )
        owner = caller.token or caller.name
        known = await self._known(owner, key, _digest(scope, body))
        if known is not None:
            return await known(scope, receive, send)
        return await self._first(scope, again, send, owner, key)

    async def _known(self, owner: str, key: str, request: str) -> Response | None:
        """The answer to an earlier request; None if this is the first.

        Raises:
            InvalidConfig: the earlier one was another request.
            Conflict: it is not answered.
        """
        waited = 0.0
        while True:
            found = await run_in_threadpool(self._access.begin_reply, owner, key, request)
            if found is None:
                return None
            if found["request"] != request:
                raise InvalidConfig(
                    f"the Idempotency-Key {key[:60]!r} belongs to another request.",
                    hint="use a new key for each request.",
                )
            if found["status"]:
                marks = {"idempotency-replayed": "true"}
                kind = "application/json"
                return Response(found["reply"], found["status"], marks, media_type=kind)
            if waited >= PATIENCE:
                raise Conflict(
                    f"the first request with the Idempotency-Key {key[:60]!r} has no answer.",
                    hint="it is still worked on, or the service ended meanwhile: look at "
                    "/api/v1/operations, then repeat it with a new key.",
                )
            await asyncio.sleep(LOOK)
            waited += LOOK

    async def _first(
        self, scope: Scope, receive: Receive, send: Send, owner: str, key: str
    ) -> None:
        """Let the application answer, and keep the answer before it is sent."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, keep)
        finally:
            status, reply = _answer(messages)
            await run_in_threadpool(self._access.end_reply, owner, key, status, reply)
        for message in messages:
            await send(message)


def _answer(messages: list[Message]) -> tuple[int, str]:
    """Status and body of an answer that can be repeated; status 0 for any other."""
    status = next((m["status"] for m in messages if m["type"] == "http.response.start"), 0)
    body = b"".join(m.get("body", b"") for m in messages if m["type"] == "http.response.body")
    try:
        json.loads(body)
    except ValueError:
        return 0, ""
    return (status, body.decode()) if 200 <= status < 300 and len(body) <= KEPT else (0, "")


def _digest(scope: Scope, body: bytes) -> str:
    sha = hashlib.sha256()
    for part in (scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b"")):
        sha.update(part + b"\0")
    sha.update(body)
    return sha.hexdigest()


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then whatever comes."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
