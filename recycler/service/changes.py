"""What changed in a ledger since the last look, as texts of events for streams.

Trials come without a number, then the snapshot with the number of the study's event: a client that
breaks off in between resumes before them.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from recycler.errors import NotFound
from recycler.service.about import brief
from recycler.service.live import Live, thinned, trial_row
from recycler.store.sql import SqlStore

ALL = ""  # the stream of all studies and operations
MOST = 200  # studies and operations told when such a stream begins
Mark = tuple[Any, ...]


class Changes:
    """Compares a ledger with what was told; call its methods one at a time.

    Args:
        store: the ledger.
        live: its studies.
    """

    def __init__(self, store: SqlStore, live: Live) -> None:
        self._store, self._live = store, live
        self._seen: dict[str, Mark] = {}  # study -> what was last told of it
        self._told: dict[int, Mark] | None = None  # operation -> the same
        self.gone: set[str] = set()  # studies that the last look found deleted

    def forget(self) -> None:
        """Forget what was told: nobody listens."""
        self._seen, self._told = {}, None

    def first(self, study: str, last: int | None) -> str:
        """What a new stream begins with; later looks go on from here.

        Args:
            study: a study, or ALL.
            last: the event that the client saw last: trials that changed since come first.

        Raises:
            NotFound: there is no such study.
        """
        if study == ALL:
            marks = self._store.marks()
            self._seen = {**marks, **self._seen}
            if self._told is None:
                self._operations()
            newest = sorted(marks, key=lambda name: marks[name][0], reverse=True)[:MOST]
            alive = [name for name, mark in marks.items() if mark[4] and name not in newest]
            return "".join(self._snapshot(name, "study") for name in (*alive, *newest))
        self._live.study(study)  # raises NotFound
        mark = self._store.marks([study]).get(study)
        if mark is None:
            raise NotFound(f"there is no study {study!r} any more.", hint="it was deleted.")
        self._seen.setdefault(study, mark)
        text = self._since(study, last, mark)
        return text if mark[4] else text + ended(study, mark[2], mark[3])

    def look(self, followed: Collection[str]) -> dict[str, str]:
        """Stream -> what to tell it. Studies that nobody follows are not read.

        Args:
            followed: the studies that streams follow, and ALL if one follows everything.
        """
        whole = ALL in followed
        marks = self._store.marks(() if whole else sorted(followed))
        told: dict[str, str] = {}
        for name, mark in marks.items():
            before = self._seen.get(name)
            self._seen[name] = mark
            if before == mark:
                continue
            if name in followed and before is not None:
                anew = before[0] != mark[0] or mark[1] < before[1]
                told[name] = self._since(name, -1 if anew else before[1], mark)
                if before[4] and not mark[4]:
                    told[name] += ended(name, mark[2], mark[3])
            if whole:
                told[ALL] = told.get(ALL, "") + self._snapshot(name, "snapshot", number=False)
        self.gone = {n for n in self._seen if n not in marks and (whole or n in followed)}
        for name in self.gone:
            del self._seen[name]
            told[name] = ended(name, "deleted", "")
            told[ALL] = told.get(ALL, "") + told[name]
        if whole:
            told[ALL] = told.get(ALL, "") + self._operations()
        return {stream: text for stream, text in told.items() if text}

    def _since(self, name: str, last: int | None, mark: Mark) -> str:
        """Trials that changed after an event, then the snapshot."""
        snapshot = self._snapshot(name, "snapshot")  # before the trials: they are no older
        if last is None:
            return snapshot
        since = last if last <= mark[1] else -1  # of an earlier study of this name
        plan = self._live.study(name).trials()[0]
        rows = [trial_row(plan, trial) for trial in self._store.trials(name, since=since)]
        return "".join(event("trial", row) for row in rows) + snapshot

    def _snapshot(self, name: str, kind: str, number: bool = True) -> str:
        snapshot = self._live.snapshot(name)
        table = {**thinned(snapshot.to_json()), "created": self._seen[name][0]}
        return event(kind, table, snapshot.event if number else None)

    def _operations(self) -> str:
        """The operations that changed."""
        before, self._told, text = self._told, {}, ""
        for operation in self._store.operations.newest(MOST):
            table = brief(operation)
            mark = (table["state"], table["progress"], table["attempts"], table["cancel"])
            self._told[operation.id] = mark
            if before is not None and before.get(operation.id) != mark:
                text += event("operation", table)
        return text


def event(kind: str, data: Mapping[str, Any], number: int | None = None) -> str:
    """The text of one event."""
    id = "" if number is None else f"id: {number}\n"
    return f"event: {kind}\n{id}data: {json.dumps(data)}\n\n"


def ended(study: str, status: str, message: str) -> str:
    """The event that says that no process runs a study any more."""
    return event("end", {"study": study, "status": status, "message": message})
