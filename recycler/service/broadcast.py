"""Changes of studies and operations, told to any number of event streams by one poller.

The ledger is looked at once an interval however many clients listen, and not at all if none does.
A client that does not read is dropped; it comes back with the number of the last event it saw.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool

from recycler.errors import RecyclerError
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial
from recycler.service.live import Live, trial_row
from recycler.service.problems import TooMany
from recycler.store.sql import SqlStore

EVERY = 1.0  # seconds between two looks
QUIET = 15.0  # seconds without an event after which a comment is sent
BACKLOG = 100  # events that a client may be behind
Message = tuple[str, str, str]  # event, id, data


class Stream:
    """What one client still has to be sent."""

    def __init__(self, study: str) -> None:
        self.study = study  # empty: all studies and operations
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue(BACKLOG)

    def put(self, message: Message | None) -> bool:
        """Add a message; false if the client is too far behind."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True


class Broadcast:
    """The streams of a service.

    Args:
        store: the ledger.
        live: its studies.
        most: most streams at once.
    """

    def __init__(self, store: SqlStore, live: Live, most: int) -> None:
        self._store, self._live, self._most = store, live, most
        self._streams: set[Stream] = set()
        self._poller: asyncio.Task[None] | None = None
        self._seen: dict[str, Any] = {}  # study -> what was last told of it
        self._told: dict[int, Any] = {}  # operation -> the same

    @property
    def open(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    async def follow(self, study: str = "", last: int | None = None) -> AsyncIterator[str]:
        """The text of an event stream; endless, unless the study is over.

        Args:
            study: a study, or empty for all studies and operations.
            last: the event of the study that the client saw last; trials that changed since are
                sent first.

        Raises:
            TooMany: too many streams are open.
        """
        if len(self._streams) >= self._most:
            raise TooMany(
                f"{self._most} event streams are open, and no more are accepted.",
                hint="close some pages, or try again later.",
            )
        stream = Stream(study)
        first = await run_in_threadpool(self._first, study, last)
        self._streams.add(stream)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        return self._text(stream, first)

    async def _text(self, stream: Stream, first: list[Message]) -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n\n"
            for message in first:
                yield _wire(message)
            while True:
                try:
                    found = await asyncio.wait_for(stream.queue.get(), QUIET)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if found is None:
                    return
                yield _wire(found)
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """End all streams."""
        for stream in self._streams:
            stream.put(None)
        if self._poller is not None:
            self._poller.cancel()

    async def _poll(self) -> None:
        while self._streams:
            await asyncio.sleep(EVERY)
            with suppress(RecyclerError):
                for study, message in await run_in_threadpool(self._changes):
                    self._tell(study, message)
        self._seen.clear()
        self._told.clear()

    def _tell(self, study: str | None, message: Message) -> None:
        """Queue a message for the streams that it is for; None: those of all studies only."""
        for stream in [*self._streams]:
            wanted = stream.study == study if stream.study else message[0] != "trial"
            if wanted and not stream.put(message):
                self._streams.discard(stream)
                with suppress(asyncio.QueueEmpty):
                    while True:
                        stream.queue.get_nowait()
                stream.put(None)

    def _first(self, study: str, last: int | None) -> list[Message]:
        if not study:
            names = [row["name"] for row in self._store.studies()]
            return [self._study(name, "study") for name in names]
        followed = self._live.study(study)
        snapshot = followed.snapshot()
        changed = [] if last is None else self._store.trials(study, since=last)
        plan = followed.trials()[0]
        return [
            *(_trial(plan, trial, snapshot.event) for trial in changed),
            self._study(study, "snapshot"),
        ]

    def _study(self, name: str, event: str) -> Message:
        snapshot = self._live.study(name).snapshot()
        return (event, str(snapshot.event), json.dumps(snapshot.to_json()))

    def _changes(self) -> list[tuple[str | None, Message]]:
        """What changed since the last look, as (study, message)."""
        followed = {stream.study for stream in self._streams}
        found: list[tuple[str | None, Message]] = []
        for row in self._store.studies():
            name = row["name"]
            if name not in followed and "" not in followed:
                continue
            state = (row["created"], row["event"], row["status"], row["alive"], row["progress"])
            before = self._seen.get(name)
            if before == state:
                continue
            self._seen[name] = state
            if before is not None and name in followed and row["event"] > before[1]:
                plan = self._live.study(name).trials()[0]
                changed = self._store.trials(name, since=before[1])
                found += [(name, _trial(plan, trial, row["event"])) for trial in changed]
            if before is not None:
                found.append((name, self._study(name, "snapshot")))
        if "" in followed:
            found += [(None, message) for message in self._operations()]
        return found

    def _operations(self) -> list[Message]:
        found = []
        for operation in self._store.operations.listed(limit=50):
            table = operation.to_json()
            state = (table["state"], table["progress"], table["attempts"], table["cancel"])
            if self._told.get(operation.id, state if self._told else None) != state:
                shown = {k: v for k, v in table.items() if k not in ("arguments", "result")}
                found.append(("operation", str(operation.id), json.dumps(shown)))
            self._told[operation.id] = state
        return found


def _trial(plan: Plan, trial: Trial, event: int) -> Message:
    return ("trial", str(event), json.dumps(trial_row(plan, trial)))


def _wire(message: Message) -> str:
    event, id, data = message
    return f"event: {event}\nid: {id}\ndata: {data}\n\n"
