"""Routes of events: what changes, as it changes (server-sent events)."""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from recycler.service.broadcast import Broadcast
from recycler.service.problems import responses

router = APIRouter(tags=["events"], responses=responses(404))
Last = Annotated[str, Header(alias="Last-Event-ID", max_length=20, pattern=r"^\d*$")]
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/events", response_class=StreamingResponse)
async def all_events(request: Request) -> StreamingResponse:
    """Follow all studies and operations.

    Events: `study` with how far a study is, at the start, for the living and the 200 newest; then
    `snapshot` when one has changed, `operation` (without arguments and result), `end` when no process
    runs a study any more. Changes while a client was away are not told: ask for the lists again.
    """
    streams: Broadcast = request.app.state.broadcast
    return StreamingResponse(await streams.follow(), headers=HEADERS, media_type=EVENTS)


@router.get("/studies/{study}/events", response_class=StreamingResponse)
async def events(request: Request, study: str, last: Last = "") -> StreamingResponse:
    """Follow one study.

    Events: `trial` for each trial that changed, as lists of trials show it; `snapshot` with how far
    the study is, its hypervolume thinned to 200 values; `end` with `{"study", "status", "message"}`
    when no process runs it any more. The stream goes on after `end`, because a study can be resumed.
    The id is the number of the study's event: with Last-Event-ID, trials that changed since come
    first. A comment is sent every 15 seconds.
    """
    streams: Broadcast = request.app.state.broadcast
    stream = await streams.follow(study, int(last) if last else None)
    return StreamingResponse(stream, headers=HEADERS, media_type=EVENTS)


EVENTS = "text/event-stream"
