"""Routes of access: log in and out with a token, and the audit log."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from recycler.service.guard import COOKIE, Asked
from recycler.service.problems import Unauthorized
from recycler.service.state import By, Caller, Here
from recycler.store.access import SESSION_SECONDS

router = APIRouter(tags=["access"])


class Login(BaseModel):
    """A token to log in with."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    token: str = Field(min_length=1, max_length=200, examples=["rcy_…"])


@router.post("/session")
async def log_in(
    service: Here, request: Request, response: Response, login: Login
) -> dict[str, Any]:
    """Log in with a token: the answer sets the cookie of a session of 12 hours."""
    access = service.store.access
    token = await run_in_threadpool(access.check, login.token)
    if token is None or token.parent:
        raise Unauthorized(
            "the token is unknown, expired or revoked.",
            hint="`recycler token create NAME` on the server makes one.",
        )
    request.scope["caller"] = Caller(token.name, frozenset(token.scopes), token.id)
    secret, session = await run_in_threadpool(access.open_session, token)
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return {"name": token.name, "scopes": list(token.scopes), "expires": session.expires}


@router.get("/session")
def show_session(service: Here, by: By) -> dict[str, Any]:
    """Say who the caller is and what it may do."""
    return {
        "name": by.name,
        "scopes": sorted(by.scopes),
        "token": by.token,
        "needs_token": service.config.needs_tokens,
    }


@router.delete("/session", status_code=204)
def log_out(service: Here, request: Request) -> Response:
    """Log out: the session ends, and the answer deletes its cookie."""
    if secret := Asked.of(dict(request.scope)).cookie:
        service.store.access.close_session(secret)
    gone = Response(status_code=204)
    gone.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return gone


@router.get("/audit")
def audit(
    service: Here,
    by: By,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> dict[str, Any]:
    """List who changed what, the newest first; with the scope `read` alone, only the caller's own."""
    who = None if "write" in by.scopes else by.name
    found = service.store.access.noted(who, limit, before)
    return {"audit": found, "next": found[-1]["id"] if len(found) == limit else None}
