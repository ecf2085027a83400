"""Watching a study from outside: one snapshot of its run, read from the ledger bit by bit.

A watcher reads only what changed since its last look, and no item outcomes. Letters: m objectives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from recycler.front import pareto
from recycler.front.results import Results
from recycler.front.stages import remaining_gain, searched, spent
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.status import Status
from recycler.nouns.trial import SCORED, State, Trial
from recycler.pace import seconds_left
from recycler.protocols import Store

LATEST = 6  # ended trials in a snapshot
FAILURES = 3  # failures in a snapshot
SHRUNK = 300  # most scored trials for which the pick is by expected gains; it takes their cube


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A study's run at one moment.

    Attributes:
        study: its name.
        status: new, running, paused, stopped, failed or complete.
        message: why it ended.
        alive: whether a process runs it.
        holder: that process.
        phase: search, select or test: the present or last one.
        done: trials that have finished this phase.
        total: trials in this phase.
        eta: expected seconds until the study is complete; None if unknown or not running.
        busy: jobs in flight.
        rate: items scored per second, over the last results; None if unknown.
        waiting: the fault of the environment that jobs wait for; usually empty.
        spent: evaluations of the budget used.
        budget: evaluations of the search.
        counts: state -> number of trials.
        remaining_gain: see `stages.remaining_gain`.
        hypervolume: dev hypervolume after each scored merge; empty before the singles are scored.
        latest: the trials in flight, then those that ended last, newest first: `{"trial", "name",
            "kind", "state", "scores": objective -> dev mean}`.
        failures: the last failed trials, newest first: `{"trial", "name", "kind", "message",
            "hint"}`.
        pick: the trial to take by what is known: `{"trial", "name", "kept", "basis": split,
            "expected": whether by expected gains or by scores, "scores"}`; None before any.
        event: number of the study's last event.
    """

    study: str
    status: str
    message: str
    alive: bool
    holder: str
    phase: str
    done: int
    total: int
    eta: float | None
    busy: int
    rate: float | None
    waiting: str
    spent: int
    budget: int
    counts: Mapping[str, int]
    remaining_gain: float | None
    hypervolume: tuple[float, ...]
    latest: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]
    pick: Mapping[str, Any] | None
    event: int

    @property
    def is_over(self) -> bool:
        """Whether no process runs the study, so that nothing will change by itself."""
        return not self.alive

    def to_json(self) -> dict[str, Any]:
        """The snapshot as JSON data, which shares its lists."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Watcher:
    """Looks at a study again and again; each look reads what changed since the last."""

    def __init__(self, store: Store, study: str) -> None:
        """Raises NotFound if the ledger has no study of that name."""
        self._store, self._study = store, study
        self._begin(store.status(study))

    def _begin(self, status: Mapping[str, Any]) -> None:
        self._created, self._event = status["created"], -1
        self.plan: Plan = self._store.plan(self._study)
        self._trials: dict[int, Trial] = {}
        self._trace = _Trace(self.plan)
        self._pick: Mapping[str, Any] | None = None
        self._left: float | None = None
        self._seen: tuple[Any, ...] = ()  # what the last pick was made from

    @property
    def size(self) -> int:
        """Number of trials, as of the last look."""
        return len(self._trials)

    @property
    def trials(self) -> list[Trial]:
        """All trials by number, as of the last look."""
        return [self._trials[number] for number in sorted(self._trials)]

    def look(self) -> Snapshot:
        """Read what is new and return the snapshot."""
        status = self._store.status(self._study)
        if status["created"] != self._created or status["event"] < self._event:
            self._begin(status)  # the study was started anew
        if status["event"] > self._event:
            changed = self._store.trials(self._study, since=self._event)
            self._trials |= {trial.number: trial for trial in changed}
            self._event = status["event"]
        trials = self.trials
        seen = (self._event, status["status"])
        if seen != self._seen:
            self._seen, self._pick = seen, _pick(self.plan, status, trials)
            self._left = remaining_gain(trials, self.plan.objectives, status["reference"])
        told = status["progress"] or {}
        phase = told.get("phase", "search")
        ended, planned = searched(self.plan, trials)
        if phase != "search":
            ended, planned = told["done"], told["total"]
        elif status["status"] == Status.COMPLETE:
            planned = ended  # a scouting ends with the singles
        alive = status["alive"]
        return Snapshot(
            study=self._study,
            status=status["status"],
            message=status["message"],
            alive=alive,
            holder=status["holder"] if alive else "",
            phase=phase,
            done=ended,
            total=planned,
            eta=seconds_left(self.plan, {**told, "total": planned}, ended) if alive else None,
            busy=told.get("busy", 0) if alive else 0,
            rate=told.get("rate"),
            waiting=told.get("waiting", "") if alive else "",
            spent=spent(trials),
            budget=self.plan.evaluations if self.plan.n > 1 else 0,
            counts={str(state): status[str(state)] for state in State},
            remaining_gain=self._left,
            hypervolume=tuple(self._trace.after(trials, status["reference"])),
            latest=tuple(_latest(trials)),
            failures=tuple(_failures(trials)),
            pick=self._pick,
            event=status["event"],
        )


class _Trace:
    """The hypervolume after each scored merge, kept as the front grows."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counted: set[int] = set()
        self._front: Array = np.empty((0, plan.objectives.m))
        self._volumes: list[float] = []

    def after(self, trials: list[Trial], reference: list[float] | None) -> list[float]:
        """The volumes after all complete merges, in the order in which they ended."""
        if reference is None:
            return []
        merges = [t for t in trials if t.state == State.COMPLETE and t.is_merge]
        new = [t for t in merges if t.number not in self._counted]
        for trial in sorted(new, key=lambda trial: trial.finished or 0):
            self._counted.add(trial.number)
            row = self._plan.objectives.gains([trial.means("dev")])
            if not (self._front >= row).all(axis=1).any():
                left = self._front[~(self._front <= row).all(axis=1)]
                self._front = np.concatenate([left, row])
                self._volumes.append(pareto.hypervolume(self._front, np.array(reference)))
            else:
                self._volumes.append(self._volumes[-1])
        return self._volumes


class _Sketch(Results):
    """Results without probabilities, which need every item's outcome."""

    def _chances(self, split: str, members: Sequence[Trial]) -> Mapping[int, float | None]:
        return dict.fromkeys((trial.number for trial in self.trials), math.nan)

    def expected(self, split: str) -> Mapping[int, Array]:
        few = sum(trial.state in SCORED for trial in self.trials) <= SHRUNK
        return super().expected(split) if few else {}


def _pick(plan: Plan, status: Mapping[str, Any], trials: list[Trial]) -> dict[str, Any] | None:
    """The decision by what is known now, as `Snapshot.pick`."""
    if status["reference"] is None:
        return None

    def nothing(number: int, split: str) -> Mapping[str, Outcomes]:
        return {}

    results = _Sketch(
        Reading(
            event=status["event"],
            status=status,
            plan=plan,
            trials=tuple(trials),
            looked_at=0,
            outcomes=nothing,
            answers=lambda number, split, objective: None,
        )
    )
    if results.choice is None:
        return None
    pick, basis = results.choice.pick, results.basis
    return {
        "trial": pick.number,
        "name": pick.name,
        "kept": results.choice.kept,
        "basis": basis,
        "expected": bool(results.expected(basis)),
        "scores": dict(pick.means(basis)),
    }


def _latest(trials: list[Trial]) -> list[dict[str, Any]]:
    flying = [trial for trial in trials if trial.state == State.RUNNING]
    ended = [trial for trial in trials if trial.state != State.RUNNING]
    ended.sort(key=lambda trial: trial.finished or 0, reverse=True)
    return [
        {
            "trial": trial.number,
            "name": trial.name,
            "kind": str(trial.kind),
            "state": str(trial.state),
            "scores": dict(trial.means("dev")) if trial.state in SCORED else {},
        }
        for trial in (*flying, *ended[:LATEST])
    ]


def _failures(trials: list[Trial]) -> list[dict[str, Any]]:
    failed = [trial for trial in trials if trial.failure]
    failed.sort(key=lambda trial: trial.finished or 0, reverse=True)
    return [
        {
            "trial": trial.number,
            "name": trial.name,
            "kind": trial.failure.kind,
            "message": trial.failure.message,
            "hint": trial.failure.hint,
        }
        for trial in failed[:FAILURES]
        if trial.failure
    ]
