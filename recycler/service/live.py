"""Studies as the service shows them: read once for each change, however many clients ask.

Letters: m objectives.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from recycler.environment import release
from recycler.errors import NotFound
from recycler.front.results import Results
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.plan import Plan
from recycler.nouns.status import Status
from recycler.nouns.trial import Trial
from recycler.store.sql import SqlStore
from recycler.store.studies import Version
from recycler.watching import Snapshot, Watcher

READINGS = 4  # studies whose last reading is kept
DOCUMENTS = 64  # computed documents that are kept
TRIALS = 40_000  # trials that are kept, over all studies
SNAPSHOTS = 2000  # snapshots of studies at rest that are kept
POINTS = 200  # values of a hypervolume's trace in lists and events
READING = "reading"  # key of a whole reading
SLOW = 0.2  # what takes longer may lag behind a running study [s]
GRACE, LATEST = 8.0, 20.0  # how far: in times of what it took, and at most [s]
# A list that is appended to when the caller is given something that lags; None: nobody asks.
lagging: ContextVar[list[bool] | None] = ContextVar("lagging", default=None)


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of one version of a study.

    Attributes:
        version: of the study.
        value: what was made.
        seconds: how long that took [s].
        at: when it was ready [s of the monotonic clock].
    """

    version: Version
    value: Any
    seconds: float
    at: float

    def may_lag(self, now: Version) -> bool:
        """Whether it may be given for a later version: the same study, running then and now."""
        same = (self.version[0], self.version[-1]) == (now[0], now[-1])
        runs = self.version[2] == now[2] == Status.RUNNING
        return same and runs and self.seconds > SLOW

    @property
    def is_due(self) -> bool:
        """Whether it is to be made anew."""
        return time.monotonic() - self.at > min(LATEST, GRACE * self.seconds)


class Study:
    """One study, followed from outside; methods may be called from several threads."""

    def __init__(self, store: SqlStore, name: str) -> None:
        """Raises NotFound if the ledger has no study of that name."""
        self._store, self.name = store, name
        self._lock = threading.Lock()
        self._plan = store.version(name)[-1]
        self._watcher = Watcher(store, name)
        self._last: tuple[Any, tuple[Snapshot, Plan, list[Trial]]] | None = None

    @property
    def size(self) -> int:
        """Number of trials as of the last look."""
        return self._watcher.size

    def snapshot(self) -> Snapshot:
        """How far it is; reads only what changed since the last call."""
        with self._lock:
            return self._look()[0]

    def trials(self) -> tuple[Plan, list[Trial]]:
        """Plan, and all trials by number, as they are now; not to be changed."""
        with self._lock:
            _, plan, trials = self._look()
            return plan, trials

    def _look(self) -> tuple[Snapshot, Plan, list[Trial]]:
        version = self._store.version(self.name)
        state = (version, self._store.marks([self.name]).get(self.name))
        if self._last is None or state != self._last[0]:
            if version[-1] != self._plan:  # the study was extended, or its references changed
                self._plan, self._watcher = version[-1], Watcher(self._store, self.name)
            found = self._watcher.look()
            self._last = (state, (found, self._watcher.plan, self._watcher.trials))
        return self._last[1]


class Live:
    """The studies of a ledger, with what was computed from them."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._studies: OrderedDict[str, Study] = OrderedDict()
        self._snapshots: OrderedDict[str, tuple[Version, Snapshot]] = OrderedDict()
        self._made: OrderedDict[tuple[Any, ...], Made] = OrderedDict()
        self._making: dict[tuple[Any, ...], threading.Lock] = {}

    def study(self, name: str) -> Study:
        """A study, followed since it was first asked for; those asked for last are kept."""
        with self._lock:
            known = self._studies.get(name)
        if known is None:
            known = Study(self._store, name)
        with self._lock:
            known = self._studies.setdefault(name, known)
            self._studies.move_to_end(name)
            kept = sum(study.size for study in self._studies.values())
            while kept > TRIALS and len(self._studies) > 1:
                kept -= self._studies.popitem(last=False)[1].size
        return known

    def snapshot(self, name: str) -> Snapshot:
        """How far a study is; one at rest is not read again until it changes."""
        return self._snapshot(name, self.version(name))

    def snapshots(self) -> list[Snapshot]:
        """How far all studies are, oldest first; those at rest cost no query of their own."""
        found = []
        for name, version in self._store.versions().items():
            with suppress(NotFound):  # deleted meanwhile
                found.append(self._snapshot(name, version))
        return found

    def _snapshot(self, name: str, version: Version) -> Snapshot:
        known = self._snapshots.get(name)
        if known is not None and known[0] == version and not known[1].alive:
            return known[1]
        snapshot = self.study(name).snapshot()
        if not snapshot.alive:
            with self._lock:
                self._snapshots[name] = (version, snapshot)
                self._snapshots.move_to_end(name)
                while len(self._snapshots) > SNAPSHOTS:
                    self._snapshots.popitem(last=False)
        return snapshot

    def forget(self, name: str) -> None:
        """Drop what is kept of a study, because it was deleted."""
        with self._lock:
            self._studies.pop(name, None)
            self._snapshots.pop(name, None)
            for place in [place for place in self._made if place[0] == name]:
                del self._made[place]

    def version(self, name: str) -> Version:
        """What changes whenever the study changes. Raises NotFound if there is none."""
        return self._store.version(name)

    def results(self, name: str) -> Results:
        """The study in one reading; the same object until the study changes.

        While a large study runs, the reading may be some seconds old (see `computed`).
        """
        found: Results = self.computed(name, (READING,), lambda: Results.read(self._store, name))
        return found

    def document(
        self,
        name: str,
        key: tuple[Any, ...],
        make: Callable[[Results], Mapping[str, Any] | str | bytes],
    ) -> Any:
        """What `make` computes from a study; computed once for each change of the study and key."""
        return self.computed(name, key, lambda: make(self.results(name)))

    def computed(self, name: str, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What `make` makes of a study, made once for each change of the study.

        While a study runs, a result that took long is renewed only after GRACE times as long, at most
        LATEST s, and by one request: meanwhile all get the last one, which has the number of its
        event. So a large study does not stop the service. Who is given such a result is told by
        `lagging`. Once a study ends, the result is that of its end.
        """
        place = (name, *key)
        version = self.version(name)
        known = self._made.get(place)
        if known is not None and known.version == version:
            return known.value
        lock = self._guard(place)
        lags = known is not None and known.may_lag(version)
        if lags and known is not None and not known.is_due:
            return self._late(known)
        if not lock.acquire(blocking=not lags):
            return self._late(known)
        try:
            known = self._made.get(place)
            if known is not None and known.version == version:
                return known.value
            return self._keep(place, version, make)
        finally:
            lock.release()

    def _keep(self, place: tuple[Any, ...], version: Version, make: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        value, ended = make(), time.monotonic()
        most = READINGS if place[-1] == READING else DOCUMENTS
        with self._lock:
            self._made[place] = Made(version, value, ended - begun, ended)
            self._made.move_to_end(place)
            alike = [other for other in self._made if (other[-1] == READING) == (most == READINGS)]
            for other in alike[: max(0, len(alike) - most)]:
                del self._made[other]
        if ended - begun > SLOW:
            release()
        return value

    def _late(self, known: "Made | None") -> Any:
        told = lagging.get()
        if told is not None:
            told.append(True)
        return known.value if known else None

    def _guard(self, key: tuple[Any, ...]) -> threading.Lock:
        with self._lock:
            if len(self._making) > 10 * DOCUMENTS:
                self._making = {k: lock for k, lock in self._making.items() if lock.locked()}
            return self._making.setdefault(key, threading.Lock())


def thinned(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot for lists and events: at most POINTS values of its hypervolume, evenly spread."""
    trace = snapshot["hypervolume"]
    if len(trace) <= POINTS:
        return {**snapshot}
    last = len(trace) - 1
    kept = [trace[round(place * last / (POINTS - 1))] for place in range(POINTS)]
    return {**snapshot, "hypervolume": kept}


def trial_row(plan: Plan, trial: Trial) -> dict[str, Any]:
    """One trial as lists show it."""
    weights = trial.recipe.vector(plan.names)
    return {
        "number": trial.number,
        "name": trial.name,
        "kind": str(trial.kind),
        "state": str(trial.state),
        "id": trial.recipe.id,
        "weights": {n: w for n, w in zip(plan.names, weights, strict=True) if w},
        "scores": {
            split: {
                name: {"mean": score.mean, "stderr": score.stderr, "items": score.items}
                for name, score in trial.evaluations[split].scores.items()
            }
            for split in SPLITS
            if split in trial.evaluations
        },
        "digest": trial.digest,
        "failure": trial.failure.message if trial.failure else None,
    }
