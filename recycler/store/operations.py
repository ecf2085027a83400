"""The queue of operations: what users asked the service for, and the processes that work on it.

As with a study, the process that works on an operation puts its token into the WHERE clause of each
write. A process that is gone, or that was not heard of for a minute, has lost it.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import sqlalchemy as sa

from recycler.errors import Conflict, NotFound, RecyclerError, Unavailable
from recycler.nouns.operation import OPEN, Operation, OperationState
from recycler.nouns.recipe import canonical
from recycler.store import lease
from recycler.store import rows as t
from recycler.store.engine import Engine

ATTEMPTS = 3  # processes that may die on one operation before it counts as failed
c = t.operations.c


class Operations:
    """Operations of a ledger. Several services and processes may use it at the same time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(
        self,
        kind: str,
        subject: str,
        arguments: Mapping[str, Any],
        *,
        owner: str = "",
        priority: int = 0,
        most: int = 0,
    ) -> Operation:
        """Put an operation into the queue.

        Args:
            kind: what to do.
            subject: the study or pool that it concerns.
            arguments: arguments of that kind.
            owner: who asks.
            priority: larger goes first.
            most: most operations that may wait; 0: any number.

        Raises:
            Unavailable: the queue is full.
        """
        row = {
            "kind": kind,
            "subject": subject,
            "arguments": canonical(arguments),
            "state": OperationState.QUEUED,
            "priority": priority,
            "owner": owner,
            "created": t.now(),
            "attempts": 0,
            "progress": "{}",
            "token": "",
            "holder": "",
            "heartbeat": 0.0,
            "cancel": False,
        }

        def work(db: sa.Connection, again: bool) -> int:
            if again:
                same = sa.select(c.id).where(c.created == row["created"], c.kind == kind)
                known = db.execute(same.where(c.arguments == row["arguments"])).scalar()
                if known is not None:
                    return int(known)
            waiting = sa.select(sa.func.count()).where(c.state == OperationState.QUEUED)
            count = db.execute(waiting).scalar_one() if most else 0
            if most and count >= most:
                raise Unavailable(
                    f"the queue is full: {count} operations wait, at most {most} may.",
                    hint="wait until some have ended, or cancel some.",
                )
            made = db.execute(t.operations.insert().values(row).returning(c.id)).scalar_one()
            return int(made)

        return self.get(self._engine.write(work))

    def get(self, id: int) -> Operation:
        """One operation. Raises NotFound if there is none with that number."""
        with self._engine.reading() as db:
            row = db.execute(t.operations.select().where(c.id == id)).mappings().first()
            if row is None:
                raise _unknown(id)
            return _operation(row, self._engine.clock(db))

    def listed(
        self,
        states: Sequence[str] = (),
        *,
        kinds: Sequence[str] = (),
        subject: str = "",
        limit: int = 100,
        before: int | None = None,
    ) -> list[Operation]:
        """Operations, the newest first.

        Args:
            states: only those in these states; empty: in any.
            kinds: only of these kinds; empty: of any.
            subject: only those of one study or pool.
            limit: at most so many.
            before: only those with a smaller number.
        """
        query = t.operations.select().order_by(c.id.desc()).limit(limit)
        query = query.where(c.state.in_([*states])) if states else query
        query = query.where(c.kind.in_([*kinds])) if kinds else query
        query = query.where(c.subject == subject) if subject else query
        query = query if before is None else query.where(c.id < before)
        with self._engine.reading() as db:
            moment = self._engine.clock(db)
            return [_operation(row, moment) for row in db.execute(query).mappings()]

    def newest(self, limit: int) -> list[Operation]:
        """The newest operations, without their arguments and results, which may be large."""
        left = {"arguments": sa.literal("{}"), "result": sa.null()}
        columns = [left[x.name].label(x.name) if x.name in left else x for x in t.operations.c]
        query = sa.select(*columns).order_by(c.id.desc()).limit(limit)
        with self._engine.reading() as db:
            moment = self._engine.clock(db)
            return [_operation(row, moment) for row in db.execute(query).mappings()]

    def waiting(self, kinds: Sequence[str], limit: int = 20) -> list[Operation]:
        """Queued operations of some kinds, in the order in which they are to be started."""
        query = t.operations.select().where(c.state == OperationState.QUEUED, c.kind.in_([*kinds]))
        with self._engine.reading() as db:
            rows = db.execute(query.order_by(c.priority.desc(), c.id).limit(limit)).mappings()
            return [_operation(row, 0.0) for row in rows]

    def running(self) -> list[Operation]:
        """Operations that a process has begun and not ended; it may be dead (`alive`)."""
        return self.listed([OperationState.RUNNING], limit=10_000)

    def counts(self) -> dict[str, int]:
        """State -> number of operations."""
        query = sa.select(c.state, sa.func.count()).group_by(c.state)
        with self._engine.reading() as db:
            found = {str(state): int(count) for state, count in db.execute(query)}
        return {str(state): found.get(str(state), 0) for state in OperationState}

    def cancel(self, id: int) -> Operation:
        """Cancel an operation: at once if it waits, else its process is asked to end.

        Raises:
            NotFound: there is none with that number.
            Conflict: it has ended.
        """

        def work(db: sa.Connection, again: bool) -> None:
            row = db.execute(t.operations.select().where(c.id == id)).mappings().first()
            if row is None:
                raise _unknown(id)
            if row["state"] not in OPEN:
                if again and row["state"] == OperationState.CANCELLED:
                    return
                raise Conflict(
                    f"operation {id} is {row['state']}.", hint="only open ones can be cancelled."
                )
            ended = {"state": OperationState.CANCELLED, "ended": t.now()}
            waits = row["state"] == OperationState.QUEUED
            changes = {"cancel": True, **(ended if waits else {})}
            db.execute(t.operations.update().where(c.id == id).values(**changes))

        self._engine.write(work)
        return self.get(id)

    def bury(self, why: Callable[[int], str] = lambda id: "") -> list[Operation]:
        """Put operations whose process died back into the queue.

        After ATTEMPTS processes one counts as failed; one that was asked to end is cancelled.

        Args:
            why: what is known of the end of an operation's last process, in words.

        Returns:
            The operations that were changed, as they were.
        """
        dead = [found for found in self.running() if not found.alive]
        for found in dead:
            self._engine.write(partial(self._bury, found, why(found.id)))
        return dead

    def _bury(self, found: Operation, why: str, db: sa.Connection, again: bool) -> None:
        still = t.operations.update().where(
            c.id == found.id,
            c.state == OperationState.RUNNING,
            c.attempts == found.attempts,
        )
        if found.cancel:
            db.execute(still.values(state=OperationState.CANCELLED, ended=t.now(), token=""))
        elif found.attempts < ATTEMPTS:
            db.execute(still.values(state=OperationState.QUEUED, token=""))
        else:
            failed = {"state": OperationState.FAILED, "error": _deaths(found.id, why)}
            db.execute(still.values(**failed, ended=t.now(), token=""))

    def give_up(self, id: int, why: str) -> None:
        """End an operation that waits, because its processes end before they begin it."""
        waits = t.operations.update().where(c.id == id, c.state == OperationState.QUEUED)
        failed = {"state": OperationState.FAILED, "error": _deaths(id, why), "ended": t.now()}
        self._engine.write(lambda db, again: db.execute(waits.values(**failed)) and None)

    @contextmanager
    def hold(self, id: int) -> Iterator["Held"]:
        """Work on an operation for the duration of the block.

        Raises:
            Conflict: it is not queued: another process works on it, or it has ended.
        """
        token = uuid.uuid4().hex
        with lease.own(token):
            self._engine.write(lambda db, again: self._take(db, id, token, again))
            held = Held(self._engine, id, token)
            try:
                yield held
            finally:
                held.close()

    def _take(self, db: sa.Connection, id: int, token: str, again: bool) -> None:
        holder = json.dumps(asdict(lease.this_process()))
        taken = t.operations.update().where(c.id == id, c.state == OperationState.QUEUED)
        begun = {"state": OperationState.RUNNING, "attempts": c.attempts + 1, "token": token}
        moment = {"started": t.now(), "heartbeat": self._engine.clock(db), "holder": holder}
        if db.execute(taken.values(**begun, **moment)).rowcount == 1:
            return
        row = db.execute(sa.select(c.state, c.token).where(c.id == id)).first()
        if row is None:
            raise _unknown(id)
        if not (again and row.token == token):
            raise Conflict(
                f"operation {id} is {row.state}, so no other process can begin it.",
                hint="ask for it again if it has to be done twice.",
            )


class Held:
    """An operation that this process works on."""

    def __init__(self, engine: Engine, id: int, token: str) -> None:
        self.id = id
        self._engine, self._token = engine, token
        self._told = "{}"
        self._on_cancel: Callable[[], object] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"operation {id}", daemon=True)
        self._thread.start()

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Set the progress that the next heartbeat writes."""
        self._told = json.dumps(progress)

    def on_cancel(self, call: Callable[[], object] | None) -> None:
        """Set what is called, once and from another thread, when the operation is cancelled."""
        self._on_cancel = call

    def end(
        self,
        state: OperationState,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        """End the operation, or put it back into the queue.

        Returns:
            False if the operation is no longer this process's; nothing is written then.
        """
        values = {
            "state": state,
            "progress": self._told,
            "result": None if result is None else canonical(result),
            "error": None if error is None else canonical(error),
            "ended": None if state == OperationState.QUEUED else t.now(),
        }
        mine = t.operations.update().where(c.id == self.id, c.token == self._token)

        def work(db: sa.Connection, again: bool) -> bool:
            return db.execute(mine.values(**values)).rowcount == 1

        return self._engine.write(work)

    def close(self) -> None:
        """Stop the heartbeat, and free the operation."""
        self._over.set()
        self._thread.join()
        mine = t.operations.update().where(c.id == self.id, c.token == self._token)
        try:
            with self._engine.writing() as db:
                db.execute(mine.values(token=""))
        except sa.exc.DBAPIError:
            return  # unreachable; others see that this process is gone

    def _watch(self) -> None:
        """Beat, and look in between whether the operation is cancelled."""
        while not self._over.wait(lease.LOOK):
            mine = t.operations.update().where(c.id == self.id, c.token == self._token)
            try:
                with self._engine.writing() as db:
                    beat = mine.values(heartbeat=self._engine.clock(db), progress=self._told)
                    asked = db.execute(beat.returning(c.cancel)).scalar()
            except sa.exc.DBAPIError:
                continue  # unreachable for now
            if asked in (True, None) and self._on_cancel:  # None: another process has it now
                call, self._on_cancel = self._on_cancel, None
                call()


def _operation(row: Mapping[Any, Any], moment: float) -> Operation:
    texts = ("arguments", "progress", "result", "error")
    plain = {name: row[name] and json.loads(row[name]) for name in texts}
    running = row["state"] == OperationState.RUNNING
    same = ("id", "kind", "subject", "priority", "owner", "created", "started", "ended")
    return Operation(
        **{name: row[name] for name in same},
        **plain,
        state=OperationState(row["state"]),
        attempts=row["attempts"],
        alive=running and lease.is_alive(row, moment),
        cancel=row["cancel"],
    )


def _unknown(id: int) -> NotFound:
    return NotFound(f"there is no operation {id}.", hint="GET /api/v1/operations lists them.")


def _deaths(id: int, why: str) -> str:
    """The error of an operation whose processes died, as JSON."""
    error = RecyclerError(
        f"the processes of operation {id} died {ATTEMPTS} times. {why or 'They left no message.'}",
        hint=f"read its log: GET /api/v1/operations/{id}/log. SIGKILL is often the kernel's answer "
        "to too little memory.",
    )
    return canonical(error.to_json())
