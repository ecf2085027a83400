"""The lease of a study: which process runs it, whether it lives, and what it is asked to do.

A lease is a random token in the study's row. The process that runs a study puts the token into the
WHERE clause of each write, so a process that lost its lease can't write any more, on either
database and in whatever state its connection is. A holder counts as dead when its process is gone
from this machine, or when its heartbeat is too old; another process may then take the lease.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any

import psutil
import sqlalchemy as sa

from recycler.errors import Conflict, NotFound, RecyclerError
from recycler.nouns.status import Holder, Wanted
from recycler.store import rows as t
from recycler.store.engine import Engine

BEAT = 5.0  # seconds between two heartbeats
LOOK = 1.0  # seconds between two readings of what the run is asked to do
STALE = 60.0  # age at which a heartbeat counts as that of a dead process [s]
_MINE: set[str] = set()  # tokens of leases that this process holds


class Lease:
    """A lease held by this process (see `protocols.Store.hold`)."""

    def __init__(self, engine: Engine, study: str, token: str) -> None:
        self.study, self.token = study, token
        self._engine = engine
        self._wanted = Wanted.RUN
        self._at_once: Callable[[], object] | None = None
        self._told: str | None = None  # progress as JSON, written with the heartbeat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"lease {study}", daemon=True)
        if not engine.in_memory:  # nobody else can open it, and its connection is not shared
            self._thread.start()

    @property
    def wanted(self) -> Wanted:
        """What the run was asked to do at the last look; STOP if the lease was lost."""
        if self._engine.in_memory and not self._over.is_set():
            self._beat()
        return self._wanted

    def on_now(self, call: Callable[[], object] | None) -> None:
        """Set what the lease's thread calls, once, when the run is asked to stop at once."""
        self._at_once = call

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Set the progress that the next heartbeat writes into the study's row."""
        self._told = json.dumps(progress)

    def close(self) -> None:
        """Stop the heartbeat and free the study, unless another process holds it by now."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        _MINE.discard(self.token)
        try:
            with self._engine.writing() as db:
                db.execute(self._renewal(db).values(token="", wanted=Wanted.RUN))
        except sa.exc.DBAPIError:
            return  # the database is unreachable; the next run will see that this process is gone

    def _watch(self) -> None:
        """Beat, and look for requests in between, until the lease is closed."""
        beaten = time.monotonic()
        while not self._over.wait(min(LOOK, BEAT)):
            if time.monotonic() - beaten >= BEAT:
                beaten = time.monotonic()
                self._beat()
            else:
                self._look()
            if self._wanted is Wanted.NOW and self._at_once:
                call, self._at_once = self._at_once, None
                call()

    def _beat(self) -> None:
        """Renew the lease and read what the run is asked to do."""
        try:
            with self._engine.writing() as db:
                found = db.execute(self._renewal(db).returning(t.studies.c.wanted)).scalar()
        except sa.exc.DBAPIError:
            return  # unreachable for now; if that lasts, a write will fail
        self._wanted = Wanted(found) if found else Wanted.STOP

    def _look(self) -> None:
        """Read what the run is asked to do."""
        c = t.studies.c
        asked = sa.select(c.wanted).where(c.name == self.study, c.token == self.token)
        try:
            with self._engine.reading() as db:
                found = db.execute(asked).scalar()
        except sa.exc.DBAPIError:
            return
        self._wanted = Wanted(found) if found else Wanted.STOP

    def _renewal(self, db: sa.Connection) -> sa.Update:
        """The update that renews this lease and writes the progress of the run."""
        c = t.studies.c
        told = {"progress": self._told} if self._told else {}
        mine = t.studies.update().where(c.name == self.study, c.token == self.token)
        return mine.values(heartbeat=self._engine.clock(db), **told)


@contextmanager
def own(token: str) -> Iterator[None]:
    """Count a token as one of this process's for the duration of the block."""
    _MINE.add(token)
    try:
        yield
    finally:
        _MINE.discard(token)


@contextmanager
def hold(engine: Engine, study: str) -> Iterator[Lease]:
    """Hold the lease of a study for the duration of the block.

    Raises:
        Conflict: a living process holds it.
        NotFound: there is no such study.
    """
    token = uuid.uuid4().hex
    _MINE.add(token)
    try:
        engine.write(lambda db, again: _take(engine, db, study, token))
        lease = Lease(engine, study, token)
    except BaseException:
        _MINE.discard(token)
        raise
    try:
        yield lease
    finally:
        lease.close()


def _take(engine: Engine, db: sa.Connection, study: str, token: str) -> None:
    c = t.studies.c
    query = sa.select(c.token, c.holder, c.heartbeat).where(c.name == study).with_for_update()
    row = db.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"there is no study {study!r}.", hint="`recycler studies` lists them.")
    moment = engine.clock(db)
    if row["token"] != token and is_alive(row, moment):
        raise busy(study, row, moment)
    db.execute(
        t.studies.update()
        .where(c.name == study)
        .values(
            token=token,
            holder=json.dumps(asdict(this_process())),
            heartbeat=moment,
            wanted=Wanted.RUN,
        )
    )


def want(engine: Engine, study: str, wanted: Wanted) -> bool:
    """Ask the process that runs a study to pause or stop; false if no living process runs it."""

    def ask(db: sa.Connection, again: bool) -> bool:
        c = t.studies.c
        query = sa.select(c.token, c.holder, c.heartbeat).where(c.name == study)
        row = db.execute(query).mappings().first()
        if row is None:
            raise NotFound(f"there is no study {study!r}.", hint="`recycler studies` lists them.")
        if not is_alive(row, engine.clock(db)):
            return False
        db.execute(t.studies.update().where(c.name == study).values(wanted=wanted))
        return True

    return engine.write(ask)


def is_alive(row: Mapping[Any, Any], moment: float) -> bool:
    """Whether a living process holds the lease in a study's row.

    Args:
        row: token, holder and heartbeat of the study.
        moment: the current time by the ledger's clock [s].
    """
    if not row["token"]:
        return False
    holder, here = holder_of(row), this_process()
    if holder.machine == here.machine:
        if holder.pid == here.pid:
            return row["token"] in _MINE
        if not _runs(holder):
            return False
    return bool(moment - row["heartbeat"] < STALE)


def holder_of(row: Mapping[Any, Any]) -> Holder:
    """The process that took the lease last."""
    return Holder.from_json(json.loads(row["holder"]))


def busy(study: str, row: Mapping[Any, Any], moment: float) -> RecyclerError:
    """The error that names the process that runs a study."""
    quiet = max(0.0, moment - row["heartbeat"])
    return Conflict(
        f"study {study!r} is being run by {holder_of(row)}, last heard of {quiet:.0f} s ago.",
        hint=f"wait or stop it. {STALE:.0f} s after its last heartbeat it counts as dead, and the "
        "study can be run again.",
    )


@cache
def _machine(pid: int) -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def this_process() -> Holder:
    """This process, as the holder of a lease."""
    return _this_process(os.getpid())


@cache
def _this_process(pid: int) -> Holder:
    started = psutil.Process(pid).create_time()
    return Holder(pid, socket.gethostname(), _machine(pid), started)


def _runs(holder: Holder) -> bool:
    """Whether a holder on this machine is still running."""
    try:
        found = psutil.Process(holder.pid)
        alike = abs(found.create_time() - holder.started) < 1.0
        return bool(alike and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
