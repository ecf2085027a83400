"""The five sockets: what a merge method, sampler, evaluator, executor and store must do.

Each has a contract suite in tests/contracts that any implementation can be run against.
Letters: n checkpoints, m objectives, d coordinates of a point.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from recycler.nouns.evaluation import Evaluation, Failure, Outcomes, Score
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.space import Space
from recycler.nouns.status import Wanted
from recycler.nouns.trial import WHOLE, Job, Proposal, State, Trial

if TYPE_CHECKING:
    import optuna
    import torch


class MergeMethod(Protocol):
    """A pure function of tensors: the same inputs give the same bytes, on every device.

    * Weights (1, 0, …) return the first input unchanged, bit for bit.
    * Inputs arrive in the order of the recipe's ingredients, zero weights left out.
    * Sums are kept in float32 at least; the caller rounds once.
    """

    needs_base: bool

    def __call__(
        self,
        inputs: "Sequence[torch.Tensor]",
        weights: Sequence[float],
        base: "torch.Tensor | None",
        settings: Mapping[str, Any],
    ) -> "torch.Tensor": ...


@dataclass(frozen=True, slots=True)
class Problem:
    """What a sampler may know: the space, the objectives, the fixed corner and the scales.

    Attributes:
        space: the points; every trial's parameters are one. Mostly the n weights, which sum to 1.
        objectives: the m directions are always `maximize`: values are gains.
        reference: (m,) worst corner, as gains.
        scales: (m,) one step of each objective, for averages.
        seed: the study's seed.
        settings: the sampler's own settings, checked. `max_nonzero` in it bounds how many checkpoints
            a merge mixes, baselines aside; `search.samplers.Proposer` sees to it for every sampler.
        evaluations: the budget as it stands now.
    """

    space: Space
    objectives: Objectives
    reference: Array
    scales: Array
    seed: int
    settings: Mapping[str, Any]
    evaluations: int = 50

    @property
    def names(self) -> tuple[str, ...]:
        """(d,) of the parameters: those of the checkpoints, where only weights are searched."""
        return self.space.coordinates

    @property
    def d(self) -> int:
        return self.space.d


# A sampler is an `optuna.samplers.BaseSampler` whose relative parameters are a point's coordinates.
# A new one is made for each proposal: (problem, seed of this proposal) -> sampler. It may read
# the study it is given (finished trials with values = gains, user attribute `stderr`; running
# trials) and its own notes (system attributes) and nothing else, so that a stopped study
# goes on as if it had not been stopped. What it takes besides `max_nonzero` it declares as
# `Settings`, a model that extends `search.simplex.SamplerSettings`; all else is refused.
SamplerFactory = Callable[[Problem, int], "optuna.samplers.BaseSampler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an evaluator is made with, besides settings of its own.

    Attributes:
        objectives: those it is asked to score: all of the study but `merge.nonzero` and the like.
        items: sizes of the splits and `seed`, as in a study file.
        tokenizer: folder of the tokenizer.
        root: folder that relative paths of the settings are relative to.
        device: torch device of the resident model.
    """

    objectives: tuple[Objective, ...]
    items: Mapping[str, Any]
    tokenizer: str
    root: str = ""
    device: str = "cpu"


class Evaluator(Protocol):
    """Scores a merge; never remembers scores of earlier weights. Made as `Class(context, settings)`.

    * `Settings` is a pydantic model of its own settings; a study file's `evaluator:` section, less
      `kind`, is checked against it when the study is submitted.
    * `takes` says what `evaluate` gets first: the resident `model`, or the `folder` of a merge.
    * `measures()` gives, for each objective of the context, everything that decides what its scores
      are scores of, as JSON data by name (content of tasks and data, items, versions …). Scores are
      compared and reused only where all of it is equal.
    * Weights A, then B, then A again give A's outcomes again.
    * The items of a split are the same in every call, in the same order, in every process.
    * `part` asks for the items from one share of that order to another; the outcomes of all parts,
      one after the other, are those of the whole.
    """

    Settings: ClassVar[type[Any]]
    takes: ClassVar[Literal["model", "folder"]]

    def measures(self) -> Mapping[str, Mapping[str, Any]]: ...

    def evaluate(
        self,
        model: Any,
        objectives: Sequence[Objective],
        split: str,
        part: tuple[float, float] = WHOLE,
    ) -> Mapping[str, Outcomes | Score]: ...


class Scorer(Protocol):
    """Turns a job into scores: materialize the recipe, evaluate it. One lives in each worker."""

    def __call__(self, job: Job) -> Evaluation: ...


# Makes a scorer inside a worker; it must travel to other processes.
ScorerFactory = Callable[[], Scorer]


class Executor(Protocol):
    """Runs jobs somewhere; every submitted job comes back exactly once, as scores or a failure.

    Made as `Class(factory, settings)`.

    * `Settings` is a pydantic model of its own settings; a study file's `execution:` section, less
      `executor` and `device`, is checked against it. `workers` is always among what is given.
    * An exception, a dead worker or a hang is a Failure; the other jobs go on. It says whose fault
      it is (see `execute.faults`); what is the environment's was tried again if there is elsewhere.
    * `free` is how many jobs may be submitted now: as many as workers are ready and idle, but at
      least one where nothing is under way.
    * Settings with which no worker can be made are an error, not a failure: `wait` raises it.
    """

    Settings: ClassVar[type[Any]]

    @property
    def free(self) -> int: ...

    def submit(self, job: Job) -> None: ...

    def wait(self) -> Sequence[tuple[Job, Evaluation | Failure]]:
        """Block until at least one submitted job is done; give all that are."""
        ...

    def close(self) -> None: ...


class HeldLease(Protocol):
    """What a driver holds while it runs a study; `wanted` is what another process asks of it."""

    @property
    def wanted(self) -> Wanted: ...


class Store(Protocol):
    """The ledger. Every call is one transaction: after a kill it has happened or it has not.

    * One process drives a study: it writes inside `hold`. Writes of any other are a Conflict.
    * Scores under a measure are kept for every study; `known` and `adopt` give them again.
    """

    def create_study(self, plan: Plan) -> None: ...

    def plan(self, study: str) -> Plan: ...

    def extend(
        self,
        study: str,
        evaluations: int,
        stop_gain: float | None = None,
        stop_after: int | None = None,
    ) -> None: ...

    def studies(self) -> Sequence[Mapping[str, Any]]: ...

    def status(self, study: str) -> Mapping[str, Any]: ...

    def set_status(self, study: str, status: str, message: str = "") -> None: ...

    def set_reference(self, study: str, reference: Sequence[float]) -> None: ...

    def delete_study(self, study: str) -> None: ...

    def trials(self, study: str, since: int = -1) -> Sequence[Trial]: ...

    def start(self, study: str, proposal: Proposal) -> Trial: ...

    def retry(self, study: str, number: int) -> None: ...

    def known(self, recipe_id: str, split: str, measures: Mapping[str, str]) -> frozenset[str]: ...

    def adopt(self, study: str, number: int, split: str, measures: Mapping[str, str]) -> Trial: ...

    def record(
        self,
        study: str,
        number: int,
        evaluation: Evaluation,
        state: State = State.COMPLETE,
        measures: Mapping[str, str] | None = None,
        known: Collection[str] = (),
    ) -> Trial: ...

    def fail(self, study: str, number: int, failure: Failure) -> Trial: ...

    def outcomes(self, study: str, number: int, split: str) -> Mapping[str, Outcomes]: ...

    def read(self, study: str) -> Reading:
        """A study with its trials and item outcomes, in one read transaction."""
        ...

    def looked_at(self, split: str, measures: Collection[str]) -> int: ...

    def hold(self, study: str) -> AbstractContextManager[HeldLease]: ...

    def want(self, study: str, wanted: Wanted) -> bool: ...

    def close(self) -> None: ...
