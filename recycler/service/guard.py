"""The guard: what every request passes before a route sees it, and what every answer carries.

In this order: the Host header, the rate of the client, who it is, where it comes from, what it may
do, its body. Answers get the headers that browsers need to keep other sites out.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from recycler.errors import RecyclerError
from recycler.service import limits, problems
from recycler.service.origins import OWN_HEADER, SAFE, is_foreign, is_known_host, is_ours
from recycler.service.problems import Forbidden, TooMany, Unauthorized
from recycler.service.replies import Replies
from recycler.service.state import Caller, Service
from recycler.store.access import Token
from recycler.store.engine import DatabaseError, passing

Scope = dict[str, Any]
Send = Callable[[limits.Message], Awaitable[None]]
App = Callable[[Scope, limits.Receive, Send], Awaitable[None]]

API = "/api/v1"
COOKIE = "recycler_session"
LOGIN, SESSION = "/login", f"{API}/session"
PUBLIC = re.compile(rf"{LOGIN}|{SESSION}|{API}/(health|ready)|/static/.*|/favicon\.ico")
READING = re.compile(  # POST routes that only compute
    rf"{API}/(studies/([^/]+/predictions|validate)|pools/check)"
)
TARGET = 16_000  # bytes of a path with its query
DRAINED, DRAIN_SECONDS = 10, 2.0  # bodies' worth, and time, of what is read and forgotten
LOOK = 15.0  # seconds between two looks whether the token of an open stream is valid
LOGINS = 0.2  # failed and other logins per second and address; ten at once

_POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "object-src": "'none'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "img-src": "'self' data: blob:",
    "style-src": "'self' 'unsafe-inline'",
}
# Pages whose plots are drawn by WebGL programs that plotly compiles
_COMPILES = re.compile(r"/studies/[^/]+/?")
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Misdirected(RecyclerError):
    """The Host header names another service."""

    code = "misdirected"


class Unsupported(RecyclerError):
    """A body of another kind than JSON."""

    code = "unsupported-media-type"


class TooLong(RecyclerError):
    """The path and query of a request are too long."""

    code = "uri-too-long"


def policy(path: str) -> str:
    """The Content-Security-Policy of a page or an answer of the API."""
    scripts = "'self' 'unsafe-eval'" if _COMPILES.fullmatch(path) else "'self'"
    return "; ".join(
        f"{name} {value}" for name, value in (_POLICY | {"script-src": scripts}).items()
    )


def attachment(name: str) -> str:
    """The Content-Disposition of a download; no name can add a header or leave the folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-") or "download"
    return f"attachment; filename=\"{plain[:150]}\"; filename*=UTF-8''{quote(name[:150], safe='')}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request before its body: what the guard decides by."""

    scope: Scope
    headers: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope) -> "Asked":
        pairs = ((n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in scope["headers"])
        return cls(scope, dict(pairs))

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def address(self) -> str:
        return str((self.scope.get("client") or ("",))[0])

    @property
    def bearer(self) -> str:
        """The token in the Authorization header; empty if there is none."""
        kind, _, secret = self.headers.get("authorization", "").partition(" ")
        return secret.strip() if kind.lower() == "bearer" else ""

    @property
    def cookie(self) -> str:
        """The secret of the page's session; empty if there is none."""
        try:
            found = SimpleCookie(self.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return found.value if found else ""

    @property
    def reads(self) -> bool:
        """Whether the scope `read` is enough."""
        return self.method in SAFE or bool(READING.fullmatch(self.path))

    @property
    def has_body(self) -> bool:
        length = self.headers.get("content-length", "0")
        return "transfer-encoding" in self.headers or length.strip() not in ("", "0")


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service = app, service
        self._config = service.config
        rate = self._config.limits.requests
        self._rates = limits.Rates(rate, limits.BURST * rate)
        self._logins = limits.Rates(LOGINS, limits.BURST)
        self._replies = Replies(app, service.store.access)

    async def __call__(self, scope: Scope, receive: limits.Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        asked, incoming = Asked.of(scope), limits.Incoming(receive)
        answer = _Answer(send, asked.path)
        try:
            await self._pass(asked, incoming, answer)
        except limits.Gone:
            return None
        except RecyclerError as error:
            await self._refuse(asked, incoming, answer, error)
        except DatabaseError as error:
            found = passing(error)
            if found is None:
                raise
            await self._refuse(asked, incoming, answer, found)
        except Exception:
            if not answer.status:
                await problems.fault()(scope, incoming, answer)
            raise  # for the log
        finally:
            await self._audit(asked, answer.status)
        return None

    async def _refuse(
        self, asked: Asked, incoming: limits.Incoming, answer: "_Answer", error: RecyclerError
    ) -> None:
        """Answer with a problem; the connection ends if the rest of the body does not."""
        if answer.status:  # an answer has begun: it can only be cut off
            raise error
        if asked.has_body and not isinstance(error, limits.TooSlow):
            await incoming.drain(DRAINED * self._config.limits.body, DRAIN_SECONDS)
        answer.last = asked.has_body and not incoming.complete
        await problems.of_error(error)(asked.scope, incoming, answer)

    async def _pass(self, asked: Asked, receive: limits.Receive, answer: "_Answer") -> None:
        """Refuse a request, or let the application answer it."""
        self._require_host(asked)
        self._require_rate(asked)
        caller, by_token = await self._caller(asked)
        if caller is None:
            return await self._without(asked, receive, answer)
        asked.scope["caller"] = caller
        self._require_origin(asked, by_token)
        self._require_scope(asked, caller)
        if caller.token:
            answer.still = lambda: self._still(asked)
        if asked.method in ("GET", "HEAD"):
            return await self._app(asked.scope, receive, answer)
        body = await self._body(asked, receive)
        return await self._replies(asked.scope, body, receive, answer, caller, asked.headers)

    def _require_host(self, asked: Asked) -> None:
        host = asked.headers.get("host", "")
        if not is_known_host(self._config, host):
            raise Misdirected(
                f"the Host header is {host[:100]!r}, which is no name of this service.",
                hint="list it under `names` in the service's settings.",
            )
        length = len(asked.scope.get("raw_path", b"")) + len(asked.scope.get("query_string", b""))
        if length > TARGET:
            raise TooLong(f"the path has {length} bytes.", hint=f"at most {TARGET} are taken.")

    def _require_rate(self, asked: Asked) -> None:
        login = asked.path == SESSION and asked.method == "POST"
        wait = self._rates.wait(asked.address) or (
            self._logins.wait(asked.address) if login else 0.0
        )
        if wait:
            raise TooMany(
                "this client sends too many requests.",
                hint=f"wait {wait:.1f} s; `limits.requests` in the service's settings is the rate.",
            )

    async def _caller(self, asked: Asked) -> tuple[Caller | None, bool]:
        """Who sends a request, and whether by a token in its header; None if nobody is known."""
        if secret := asked.bearer:
            token = await self._known(secret)
            if token is None:
                raise _no_token("the token is unknown, expired or revoked")
            return _as_caller(token), True
        if secret := asked.cookie:
            token = await self._known(secret)
            if token is not None:
                return _as_caller(token), False
        if not self._config.needs_tokens:
            return Caller(), False
        if PUBLIC.fullmatch(asked.path):
            return Caller("nobody", frozenset()), False
        return None, False

    async def _still(self, asked: Asked) -> bool:
        """Whether the token or session of a request is valid now."""
        return await self._known(asked.bearer or asked.cookie) is not None

    async def _known(self, secret: str) -> Token | None:
        return await run_in_threadpool(self._service.store.access.check, secret)

    async def _without(self, asked: Asked, receive: limits.Receive, answer: "_Answer") -> None:
        """Send a person to the login, a program an error."""
        page = asked.method == "GET" and not asked.path.startswith(f"{API}/")
        if not page:
            raise _no_token("the request has no token")
        query = asked.scope.get("query_string", b"").decode("latin-1")
        wanted = quote(asked.path + (f"?{query}" if query else ""), safe="")
        shown: Response = RedirectResponse(f"{LOGIN}?next={wanted}", 303)
        await shown(asked.scope, receive, answer)

    def _require_origin(self, asked: Asked, by_token: bool) -> None:
        """Refuse what a page of another site makes a browser send (CSRF)."""
        if by_token:
            return
        raw, api = asked.scope["headers"], asked.path.startswith(f"{API}/")
        if is_foreign(raw) and (api or asked.method not in SAFE):
            raise Forbidden(
                "a page of another site sent this request.",
                hint="open the service itself, or send a token in the Authorization header.",
            )
        if asked.method not in SAFE and not is_ours(raw):
            raise Forbidden(
                f"{asked.method} without a token needs the header {OWN_HEADER.title()}.",
                hint=f"send `{OWN_HEADER.title()}: 1`; no page of another site can do that.",
            )

    def _require_scope(self, asked: Asked, caller: Caller) -> None:
        if PUBLIC.fullmatch(asked.path):
            return
        needed = "read" if asked.reads else "write"
        if needed not in caller.scopes:
            raise Forbidden(
                f"the token {caller.name!r} has no scope {needed!r}, which {asked.method} "
                f"{asked.path} needs.",
                hint=f"make one with it: `recycler token create NAME --scope {needed}`.",
            )

    async def _body(self, asked: Asked, receive: limits.Receive) -> bytes:
        """The checked body of a request."""
        most, seconds = self._config.limits.body, self._config.limits.seconds
        length = asked.headers.get("content-length", "")
        limits.require_size(int(length) if length.isdecimal() else 0, most)
        if asked.has_body:
            kind = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Unsupported(
                    f"the body is {kind[:80] or 'of no named type'}, expected application/json.",
                    hint="send JSON with `Content-Type: application/json`; YAML is not taken.",
                )
        body = await limits.read_body(receive, most, seconds)
        if body:
            await run_in_threadpool(limits.require_json, body)
        return body

    async def _audit(self, asked: Asked, status: int) -> None:
        """Note who changed what; reads, and requests of nobody but logins, are not noted."""
        caller = asked.scope.get("caller")
        if asked.reads or caller is None:
            return
        action = f"{asked.method} {asked.path}"
        await run_in_threadpool(
            self._service.store.access.note, caller.name, asked.address, action, status
        )


class _Answer:
    """Passes an answer on, with the headers that each has."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._path = send, path
        self.status = 0
        self.last = False  # whether the connection ends with this answer
        self.still: Callable[[], Awaitable[bool]] | None = None  # whether the caller may go on
        self._looked = time.monotonic()

    async def __call__(self, message: limits.Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message.get("headers", ())}
            own = {**HEADERS, "content-security-policy": policy(self._path)}
            if self._path.startswith(f"{API}/"):
                own["cache-control"] = "no-store"
            if self.last:
                own["connection"] = "close"
            more = [(n.encode(), v.encode()) for n, v in own.items() if n.encode() not in given]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        elif self.still and time.monotonic() - self._looked > LOOK:  # a stream
            self._looked = time.monotonic()
            if not await self.still():
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                raise limits.Gone
        await self._send(message)


def _as_caller(token: Token) -> Caller:
    return Caller(token.name, frozenset(token.scopes), token.parent or token.id)


def _no_token(why: str) -> Unauthorized:
    return Unauthorized(
        f"{why}.",
        hint="send `Authorization: Bearer TOKEN`; `recycler token create` makes one, and people log "
        "in at /login.",
    )
