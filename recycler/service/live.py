"""Studies as the service shows them: read once for each change, however many clients ask.

Letters: m objectives.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from recycler.front.results import Results
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial
from recycler.store.sql import SqlStore
from recycler.store.studies import Version
from recycler.watching import Snapshot, Watcher

READINGS = 4  # studies whose last reading is kept
DOCUMENTS = 64  # computed documents that are kept
TRIALS = 40_000  # trials that are kept, over all studies
SNAPSHOTS = 2000  # snapshots of studies at rest that are kept
POINTS = 200  # values of a hypervolume's trace in lists and events


class Study:
    """One study, followed from outside; methods may be called from several threads."""

    def __init__(self, store: SqlStore, name: str) -> None:
        """Raises NotFound if the ledger has no study of that name."""
        self._store, self.name = store, name
        self._lock = threading.Lock()
        self._plan = store.version(name)[-1]
        self._watcher = Watcher(store, name)

    @property
    def size(self) -> int:
        """Number of trials as of the last look."""
        return self._watcher.size

    def snapshot(self) -> Snapshot:
        """How far it is; reads only what changed since the last call."""
        with self._lock:
            return self._look()

    def trials(self) -> tuple[Plan, list[Trial]]:
        """Plan, and all trials by number, as they are now."""
        with self._lock:
            self._look()
            return self._watcher.plan, self._watcher.trials

    def _look(self) -> Snapshot:
        plan = self._store.version(self.name)[-1]
        if plan != self._plan:  # the study was extended, or its references changed
            self._plan, self._watcher = plan, Watcher(self._store, self.name)
        return self._watcher.look()


class Live:
    """The studies of a ledger, with what was computed from them."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._studies: OrderedDict[str, Study] = OrderedDict()
        self._snapshots: OrderedDict[str, tuple[Version, Snapshot]] = OrderedDict()
        self._readings: OrderedDict[str, tuple[Version, Results]] = OrderedDict()
        self._documents: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
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
        version = self.version(name)
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
            self._readings.pop(name, None)
            self._snapshots.pop(name, None)

    def version(self, name: str) -> Version:
        """What changes whenever the study changes. Raises NotFound if there is none."""
        return self._store.version(name)

    def results(self, name: str) -> Results:
        """The study as it is now, in one reading; the same object until the study changes."""
        version = self.version(name)
        with self._guard(("reading", name)):
            known = self._readings.get(name)
            if known is None or known[0] != version:
                known = (version, Results.read(self._store, name))
                with self._lock:
                    self._readings[name] = known
                    self._readings.move_to_end(name)
                    while len(self._readings) > READINGS:
                        self._readings.popitem(last=False)
            return known[1]

    def document(
        self,
        name: str,
        key: tuple[Any, ...],
        make: Callable[[Results], Mapping[str, Any] | str | bytes],
    ) -> Any:
        """What `make` computes from a study; computed once for each change of the study and key."""
        return self.computed(name, key, lambda: make(self.results(name)))

    def computed(self, name: str, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The same, for what is made without a reading of the whole study."""
        place = (name, self.version(name), *key)
        with self._guard(("document", name, *key)):
            if place not in self._documents:
                made = make()
                with self._lock:
                    self._documents[place] = made
                    while len(self._documents) > DOCUMENTS:
                        self._documents.popitem(last=False)
            return self._documents[place]

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
