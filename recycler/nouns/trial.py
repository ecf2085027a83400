"""A trial: one merge in the ledger, from its proposal to its scores or its failure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from recycler.nouns.evaluation import Evaluation, Failure
from recycler.nouns.recipe import Recipe

WHOLE = (0.0, 1.0)


class Kind(StrEnum):
    """How a trial came about."""

    SINGLE = "single"
    UNIFORM = "uniform"
    MERGE_BEST = "merge-best"
    GREEDY = "greedy"
    SEARCH = "search"


BASELINES = (Kind.SINGLE, Kind.UNIFORM, Kind.MERGE_BEST)  # on top of the budget of evaluations


class State(StrEnum):
    """Where a trial is.

    A pruned trial was stopped early by racing: its dev scores are estimates from some of the items.
    """

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


SCORED = (State.COMPLETE, State.PRUNED)  # states of trials that have dev scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One merge of a study.

    Attributes:
        number: 0, 1, … in the order of proposals.
        kind: how it came about.
        name: for people: `single:code-a`, `uniform`, `greedy 3`, `search 17`.
        recipe: what decides the bytes.
        state: running, complete (scored on all dev items), pruned (on some) or failed.
        started: position of the proposal in the study's sequence of events.
        finished: position of the end in that sequence; None while running.
        attempts: how often its evaluation was begun.
        digest: hash over the merged bytes, once scored.
        evaluations: split -> evaluation, without item outcomes.
        failure: why it failed.
        notes: what the sampler wants to read again; plain JSON.
    """

    number: int
    kind: Kind
    name: str
    recipe: Recipe
    state: State = State.RUNNING
    started: int = 0
    finished: int | None = None
    attempts: int = 1
    digest: str = ""
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    failure: Failure | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether it is a reference on top of the budget."""
        return self.kind in BASELINES

    @property
    def copied(self) -> bool:
        """Whether its scores are those of an earlier study, so that it cost nothing."""
        return "copy" in self.notes

    def means(self, split: str) -> dict[str, float]:
        """Objective -> raw mean on a split; empty where it was not evaluated."""
        evaluation = self.evaluations.get(split)
        return (
            {name: score.mean for name, score in evaluation.scores.items()} if evaluation else {}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A merge to evaluate next, before the ledger has numbered it."""

    kind: Kind
    name: str
    recipe: Recipe
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work for an executor: score one recipe on one split's items.

    Attributes:
        trial: number of the trial it belongs to.
        recipe: the merge.
        split: dev, select or test.
        objectives: names of the objectives to score.
        part: shares of the split's items from where to where, in their seeded order.
    """

    trial: int
    recipe: Recipe
    split: str
    objectives: tuple[str, ...]
    part: tuple[float, float] = WHOLE
