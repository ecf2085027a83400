"""Limits of one request and of one client: size and time of bodies, depth of JSON, rates."""

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

from recycler.errors import RecyclerError
from recycler.service.problems import TooLarge

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

DEPTH = 64  # of lists and tables in a body
BURST = 10  # seconds' worth of requests that a client may send at once
CLIENTS = 10_000  # clients whose rate is remembered
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class BadBody(RecyclerError):
    """A body is no JSON that can be stored."""

    code = "invalid-json"


class TooSlow(RecyclerError):
    """A body takes longer than is accepted."""

    code = "too-slow"


class Gone(Exception):
    """The client closed the connection before its request was complete."""


class Rates:
    """A token bucket for each client.

    Args:
        rate: requests per second.
        burst: requests that may come at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, max(1.0, burst)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take one request of a client's; seconds until one is free, 0 if it was taken."""
        now = time.monotonic()
        left, since = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        short = max(0.0, 1.0 - left)
        self._left[client] = (left if short else left - 1.0, now)
        while len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return short / self._rate


class Incoming:
    """The messages of a request; `complete` once the last one came."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.complete = not message.get("more_body", False)
        return message

    async def drain(self, most: int, seconds: float) -> None:
        """Read and forget the rest of a refused body, so that its sender reads the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.complete and most > 0:
                    most -= len((await self()).get("body", b""))


async def read_body(receive: Receive, most: int, seconds: float) -> bytes:
    """The whole body of a request; never more than `most` bytes and one chunk are held.

    Raises:
        TooLarge: it has more bytes.
        TooSlow: it is not complete after `seconds`.
        Gone: the client closed the connection.
    """
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                require_size(size, most)
                more = message.get("more_body", False)
    except TimeoutError:
        raise TooSlow(
            f"the body was not complete after {seconds:g} s ({size} bytes had come).",
            hint="send it at once; `limits.seconds` in the service's settings is the time.",
        ) from None
    return b"".join(parts)


def require_size(size: int, most: int) -> None:
    """Raise TooLarge if a body has more bytes than are accepted."""
    if size > most:
        raise TooLarge(
            f"the body has more than {most} bytes.",
            hint="send less at once; `limits.body` in the service's settings is the largest size.",
        )


def require_json(body: bytes) -> None:
    """Raise BadBody unless a body is JSON of limited depth whose texts any database can store."""
    if body.count(b"[") + body.count(b"{") > DEPTH and _depth(body) > DEPTH:
        raise BadBody(
            f"the body nests deeper than {DEPTH} levels.", hint="send fewer levels of [ and {."
        )
    try:
        table = json.loads(body)
        texts = json.dumps(table, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, half a surrogate pair
        why = str(error).split(":")[0][:120]
        raise BadBody(
            f"the body is not JSON: {why}.", hint="send a UTF-8 JSON document."
        ) from None
    if b"\\u0000" in texts.replace(b"\\\\", b""):
        raise BadBody("a text in the body has a NUL character.", hint="leave it out.")


def _depth(body: bytes) -> int:
    """Deepest nesting of lists and tables, outside of strings."""
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)
