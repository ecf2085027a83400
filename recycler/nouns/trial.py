"""Trials: a merge in the ledger, from proposal through jobs to scores or failure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from recycler.nouns.evaluation import Evaluation, Failure
from recycler.nouns.recipe import Recipe

WHOLE = (0.0, 1.0)


class Kind(StrEnum):
    """Origin of a trial."""

    SINGLE = "single"
    UNIFORM = "uniform"
    MERGE_BEST = "merge-best"
    GREEDY = "greedy"
    SEARCH = "search"
    TRY = "try"  # a merge that a user asked for
    REFERENCE = (
        "reference"  # a model to beat that is no merge of the pool, or a recipe of one's own
    )


# not counted in the budget
BASELINES = (Kind.SINGLE, Kind.UNIFORM, Kind.MERGE_BEST, Kind.REFERENCE)
EXTRAS = (*BASELINES, Kind.TRY)


class State(StrEnum):
    """State of a trial.

    A pruned trial was stopped early by racing: its dev scores are estimates from part of the items.
    """

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


SCORED = (State.COMPLETE, State.PRUNED)  # states with dev scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One merge of a study.

    Attributes:
        number: 0, 1, … in the order of proposals.
        kind: origin of the trial.
        name: name for messages, such as `single:code-a`, `uniform`, `greedy 3`, `search 17`.
        recipe: the merge.
        state: running, complete (scored on all dev items), pruned (on part of them) or failed.
        started: number of the event at which it was proposed.
        finished: number of the event at which it ended; None while running.
        attempts: number of times its evaluation was started.
        digest: hash of the merged bytes, once scored.
        evaluations: split -> evaluation, without item outcomes.
        failure: why it failed.
        notes: JSON data that the sampler stores for later proposals.
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
        """Whether it is a baseline or a reference."""
        return self.kind in BASELINES

    @property
    def is_merge(self) -> bool:
        """Whether it is a merge of the pool; only merges can be members of a front."""
        return not self.recipe.is_model

    @property
    def is_extra(self) -> bool:
        """Whether it comes on top of the budget: a baseline or a try."""
        return self.kind in EXTRAS

    @property
    def copied(self) -> bool:
        """Whether its scores come from an earlier study and cost nothing."""
        return "copy" in self.notes

    def means(self, split: str) -> Mapping[str, float]:
        """Objective -> raw mean on a split; empty if not evaluated there."""
        evaluation = self.evaluations.get(split)
        return evaluation.means if evaluation else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A merge to evaluate next, before it has a trial number."""

    kind: Kind
    name: str
    recipe: Recipe
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A unit of work for an executor: score one recipe on items of one split.

    Attributes:
        trial: number of the trial.
        recipe: the merge.
        split: dev, select or test.
        objectives: names of the objectives to score.
        part: (start, stop) as shares of the split's items, in their seeded order.
        answers: whether the result holds answers beside the outcomes, if the evaluator has them.
    """

    trial: int
    recipe: Recipe
    split: str
    objectives: tuple[str, ...]
    part: tuple[float, float] = WHOLE
    answers: bool = False
