"""A study of a plain function that is stopped after every single event, for tests and bench."""

from collections import deque
from pathlib import Path

import numpy as np

from recycler.evaluate.results import evaluation_of
from recycler.loop import run
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import State
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

ITEMS = 40


def plan(sampler: str, evaluations: int, n: int = 5, **settings) -> Plan:
    objectives = Objectives((Objective("a", "value", "max"), Objective("b", "value", "min")))
    return Plan(
        name="stopped",
        ingredients=tuple((f"c{i}", f"w:{i}") for i in range(n)),
        objectives=objectives,
        sampler=sampler,
        evaluations=evaluations,
        seed=3,
        **settings,
    )


def score(job, made: Plan):
    """Items whose truths are smooth in the weights; the noise is a function of the item alone."""
    w = np.array(job.recipe.vector(made.names))
    noise = np.random.default_rng(0).normal(0, 0.3, (2, ITEMS))
    hills = np.array([np.exp(-3 * ((w - c) ** 2).sum()) for c in np.eye(len(w))[:2]])
    start, stop = (round(share * ITEMS) for share in job.part)
    rows = (np.array([hills[0], -hills[1]])[:, None] + noise)[:, start:stop]
    ids = tuple(range(start, stop))
    found = {name: Outcomes(ids, tuple(r.tolist())) for name, r in zip("ab", rows, strict=True)}
    return evaluation_of(job, found, "", {})


class Several:
    """Up to `width` jobs in flight; the oldest comes back first."""

    def __init__(self, made: Plan, width: int) -> None:
        self._plan, self._width = made, width
        self._jobs: deque = deque()

    @property
    def free(self) -> int:
        return self._width - len(self._jobs)

    def submit(self, job) -> None:
        self._jobs.append(job)

    def wait(self):
        job = self._jobs.popleft()
        return [(job, score(job, self._plan))]

    def close(self) -> None:
        self._jobs.clear()


class Stopped(BaseException):
    """Stands for the kill: nothing of the program may catch it."""


class StoppingStore(SqlStore):
    """A ledger whose process is stopped right after its first event."""

    def start(self, *args):
        super().start(*args)
        raise Stopped

    def record(self, *args):
        super().record(*args)
        raise Stopped

    def set_reference(self, *args):
        super().set_reference(*args)
        raise Stopped


def undisturbed(made: Plan, file: Path) -> list[dict]:
    store = SqlStore(f"sqlite:///{file}")
    store.create_study(made)
    run(made, store, Proposer(made), Several(made, 1), phases=())
    found = ledger(store)
    store.close()
    return found


def stopped_after_every_event(made: Plan, file: Path, width: int = 1) -> tuple[list[dict], int]:
    """The final ledger, and how often it was stopped; after each stop nothing may have changed."""
    url, stops, before = f"sqlite:///{file}", 0, None
    first = SqlStore(url)
    first.create_study(made)
    first.close()
    while True:
        store = StoppingStore(url)
        if before is not None:
            assert ledger(store) == before, "what was committed is there again"
        try:
            run(made, store, Proposer(made), Several(made, width), phases=())
        except Stopped:
            stops += 1
            before = ledger(store)
            continue
        else:
            return ledger(store), stops
        finally:
            store.close()


def ledger(store: SqlStore) -> list[dict]:
    """Everything of every trial but how often it was begun."""
    return [
        {
            "number": t.number,
            "name": t.name,
            "id": t.recipe.id,
            "state": t.state,
            "started": t.started,
            "finished": t.finished,
            "notes": dict(t.notes),
            "scores": {s: dict(e.scores) for s, e in t.evaluations.items()},
        }
        for t in store.trials("stopped")
    ]


def complete(found: list[dict]) -> int:
    return sum(trial["state"] == State.COMPLETE for trial in found)
