"""Requests to a service: the token, repetitions, and errors as those of recycler."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx2

from recycler import __version__, errors
from recycler.client.token import TOKEN, checked_url, find_token
from recycler.errors import InvalidConfig, RecyclerError, Unavailable

API = "/api/v1"
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each repetition
LONGEST = 30.0  # most seconds that are waited because a server asks for it
BUSY = (429, 503)
CODES = {
    found.code: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, RecyclerError)
}


class Transport:
    """The connection to one service; may be used by several threads."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        """Opens no connection yet. Raises InvalidConfig if the URL or the token is malformed.

        Args:
            url: address of the service.
            token: token to send; None: see `token.find_token`; empty: none.
            timeout: longest time without an answer [s].
        """
        self.url = checked_url(url)
        found = find_token() if token is None else token
        headers = {
            "User-Agent": f"recycler/{__version__}",
            "Accept": "application/json",
            "X-Recycler": "1",
        }
        if found:
            headers["Authorization"] = f"Bearer {found}"
        self._client = httpx2.Client(
            base_url=f"{self.url}{API}",
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=10.0),
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON answer to GET."""
        return self.request("GET", path, params=params).json()

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        """The JSON answer to POST; a repetition has the same idempotency key."""
        return self.request("POST", path, params=params, json=body).json()

    def delete(self, path: str) -> Any:
        """The JSON answer to DELETE."""
        return self.request("DELETE", path).json()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a request, repeated while the server is busy; a problem is raised as an error.

        Raises:
            Unavailable: the server can't be reached, or stays busy.
            RecyclerError: of the class that the problem names.
        """
        given = dict(headers or {})
        if method == "POST":
            given["Idempotency-Key"] = uuid.uuid4().hex
        send: dict[str, Any] = {"params": _plain(params or {}), "headers": given}
        if json is not None:
            send["json"] = json
        for wait in (*WAITS, None):
            with self._reaching():
                answer = self._client.request(method, path, **send)
            if answer.status_code not in BUSY or wait is None:
                break
            time.sleep(max(wait, _asked(answer)))
        if answer.status_code >= 300 and answer.status_code != 304:
            raise problem(answer)
        return answer

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Iterator[httpx2.Response]:
        """The answer to GET while it arrives; a problem is raised as an error."""
        send, given = _plain(params), dict(headers or {})
        reply = self._client.stream("GET", path, params=send, headers=given)
        with self._reaching(), reply as answer:
            if answer.status_code >= 300:
                answer.read()
                raise problem(answer)
            yield answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"the server {self.url} can't be reached: {_reason(error)}.",
                hint="check its address, and whether `recycler serve` runs there.",
            ) from error


def part(text: str) -> str:
    """A text as one part of a path.

    Raises:
        InvalidConfig: it is empty, or a step that would lead to another path.
    """
    if text in ("", ".", ".."):
        raise InvalidConfig(f"{text!r} is not a name.", hint="give the name of a study or pool.")
    return quote(text, safe="")


def problem(answer: httpx2.Response) -> RecyclerError:
    """The error that an answer states: of the same class, with the same message and hint."""
    try:
        table = json.loads(answer.content)
        code, detail, hint = table["code"], str(table["detail"]), str(table.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return RecyclerError(
            f"{answer.url.host} answered {answer.status_code} {answer.reason_phrase}, and no "
            "problem document.",
            hint="check that the address is that of `recycler serve`.",
        )
    if code == "unauthorized":
        hint = f"put a token into {TOKEN}, or into ~/.config/recycler/token (mode 0600)."
    return error_of({"error": detail, "hint": hint, "code": code})


def error_of(table: Mapping[str, Any]) -> RecyclerError:
    """The error that `RecyclerError.to_json` wrote; an unknown code is kept."""
    code = str(table.get("code", "error"))
    made = CODES.get(code, RecyclerError)(str(table["error"]), hint=str(table.get("hint", "")))
    if code not in CODES:
        made.__dict__["code"] = code
    return made


def _asked(answer: httpx2.Response) -> float:
    """Seconds that the server asks to wait."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), LONGEST) if text.isdigit() else 0.0


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without those that are None, and with true and false as words."""
    words = {True: "true", False: "false"}
    return {k: words[v] if isinstance(v, bool) else v for k, v in params.items() if v is not None}


def _reason(error: httpx2.HTTPError) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "it does not answer"
    return str(error) or type(error).__name__
