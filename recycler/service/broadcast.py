"""Changes of studies and operations, told to any number of event streams by one poller.

The ledger is looked at once an interval however many clients listen, and not at all if none does.
A client that does not read is dropped; it comes back with the number of the last event it saw.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from starlette.concurrency import run_in_threadpool

from recycler.service.changes import ALL, Changes
from recycler.service.live import Live
from recycler.service.problems import TooMany
from recycler.store.sql import SqlStore

EVERY = 1.0  # seconds between two looks
QUIET = 15.0  # seconds without an event after which a comment is sent
BACKLOG = 30  # looks that a client may be behind; their texts are shared by all clients

log = logging.getLogger(__name__)


class Stream:
    """What one client still has to be sent."""

    def __init__(self, study: str) -> None:
        self.study = study
        self.queue: asyncio.Queue[str | None] = asyncio.Queue(BACKLOG)

    def put(self, text: str | None) -> bool:
        """Add a text, or None for the end; false if the client is too far behind."""
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """Forget what was not sent, and end the stream."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Broadcast:
    """The streams of a service.

    Args:
        store: the ledger.
        live: its studies.
        most: most streams at once.
    """

    def __init__(self, store: SqlStore, live: Live, most: int) -> None:
        self._live, self._most = live, most
        self._changes = Changes(store, live)
        self._streams: set[Stream] = set()
        self._poller: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # what begins a stream, and what follows, are of one order
        self._over = False
        self.looks = 0  # looks at the ledger so far
        self.trouble = ""  # why the last look failed; empty if it did not

    @property
    def open(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    async def follow(self, study: str = ALL, last: int | None = None) -> AsyncIterator[str]:
        """The text of an event stream; it ends with the service, or when its study is deleted.

        Args:
            study: a study, or ALL: all studies and operations.
            last: the event of the study that the client saw last; trials that changed since are
                sent first.

        Raises:
            NotFound: there is no such study.
            TooMany: too many streams are open.
        """
        if len(self._streams) >= self._most or self._over:
            raise TooMany(
                f"{self._most} event streams are open, and no more are accepted.",
                hint="close some pages, or try again later.",
            )
        stream = Stream(study)
        self._streams.add(stream)
        try:
            if study != ALL:  # read it before others wait for this stream's turn
                await run_in_threadpool(self._live.snapshot, study)
            async with self._turn:
                first = await run_in_threadpool(self._changes.first, study, last)
                stream.queue = asyncio.Queue(BACKLOG)
                self._streams.add(stream)
        except BaseException:
            self._streams.discard(stream)
            raise
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        return self._text(stream, first)

    async def _text(self, stream: Stream, first: str) -> AsyncIterator[str]:
        try:
            yield f"retry: 2000\n\n{first}"
            while not self._over:
                try:
                    found = await asyncio.wait_for(stream.queue.get(), QUIET)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if found is None:
                    return
                yield found
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """End all streams."""
        self._over = True
        for stream in self._streams:
            stream.end()
        if self._poller is not None:
            self._poller.cancel()

    async def _poll(self) -> None:
        while self._streams:
            await asyncio.sleep(EVERY)
            async with self._turn:
                followed = {stream.study for stream in self._streams}
                try:
                    self._tell(await run_in_threadpool(self._changes.look, followed))
                    self.trouble = ""
                except Exception as error:  # the database is away; a later look may find it
                    if not self.trouble:
                        log.warning("events wait: %s", type(error).__name__)
                    self.trouble = type(error).__name__
                self.looks += 1
        self._changes.forget()

    def _tell(self, told: Mapping[str, str]) -> None:
        for stream in [*self._streams]:
            text = told.get(stream.study)
            if text and not stream.put(text):
                self._streams.discard(stream)
                stream.end()
            elif stream.study in self._changes.gone:
                self._streams.discard(stream)
                stream.put(None)
