"""Events of a service (server-sent events), followed over broken connections."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from recycler.client.transport import Transport
from recycler.errors import Unavailable

PATIENCE, PAUSE = 300.0, 1.0  # seconds that a server may be away, and between two attempts


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a service.

    Attributes:
        kind: `snapshot`, `trial`, `study` or `operation`.
        data: what changed, as the routes of that noun show it.
        id: number of the study's event; None where events have no number.
    """

    kind: str
    data: dict[str, Any]
    id: int | None = None


def follow(transport: Transport, path: str, last_id: int | None) -> Iterator[Event]:
    """Events of a stream; a stream that breaks is opened again after its last event.

    Raises:
        Unavailable: the server is away for five minutes.
    """
    last, until = last_id, time.monotonic() + PATIENCE
    while True:
        given = {"Accept": "text/event-stream"}
        if last is not None:
            given["Last-Event-ID"] = str(last)
        try:
            with transport.stream(path, given) as answer:
                for event in read(answer.iter_lines()):
                    last, until = (
                        last if event.id is None else event.id,
                        time.monotonic() + PATIENCE,
                    )
                    yield event
        except Unavailable:
            if time.monotonic() + PAUSE > until:
                raise
        time.sleep(PAUSE)


def read(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a stream's lines; comments and events without data are passed over."""
    kind, data, number = "message", list[str](), None
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id" and value.isdigit():
            number = int(value)
        elif not line:
            if data:
                yield Event(kind, json.loads("\n".join(data)), number)
            kind, data, number = "message", [], None
