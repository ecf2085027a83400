"""The protocols of the extension points: merge method, sampler, evaluator, executor and store.

Each has a contract test suite in tests/contracts that runs against any implementation.
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
from recycler.nouns.recipe import Recipe
from recycler.nouns.space import Space
from recycler.nouns.status import Wanted
from recycler.nouns.trial import WHOLE, Job, Proposal, State, Trial

if TYPE_CHECKING:
    import optuna
    import torch


class MergeMethod(Protocol):
    """A pure function of tensors: equal inputs give equal bytes on every device.

    * Weights (1, 0, …) return the first input unchanged, bit for bit.
    * Inputs are in the order of the recipe's ingredients, without zero weights.
    * Sums are computed in float32 or better; the caller rounds once.
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
    """What a sampler may know of a study.

    Attributes:
        space: the search space; the parameters of a trial are a point of it, mostly n weights.
        objectives: objectives of the study. Values are gains, so all m directions are `maximize`.
        reference: (m,) fixed worst corner, as gains.
        scales: (m,) step of each objective in averages.
        seed: seed of the study.
        settings: checked settings of the sampler. `max_nonzero` bounds the number of checkpoints in a
            merge, except baselines; `search.samplers.Proposer` enforces it for every sampler.
        evaluations: current budget.
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
        """(d,) names of the parameters: those of the checkpoints if only weights are searched."""
        return self.space.coordinates

    @property
    def d(self) -> int:
        return self.space.d


# A sampler is an `optuna.samplers.BaseSampler` whose relative parameters are a point's coordinates.
# A new one is made for each proposal: (problem, seed of this proposal) -> sampler. It may read only
# the study it is given (finished trials with values = gains and user attribute `stderr`; running
# trials) and its own notes (system attributes), so that a resumed study makes the same proposals.
# A sampler with settings besides `max_nonzero` declares them as `Settings`, a subclass of
# `search.simplex.SamplerSettings`; unknown settings are refused.
SamplerFactory = Callable[[Problem, int], "optuna.samplers.BaseSampler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an evaluator is constructed from, besides its own settings.

    Attributes:
        objectives: objectives to score: all of the study except properties of the merge (`merge.…`).
        items: sizes of the splits, and `seed`, as in a study file.
        tokenizer: folder of the tokenizer.
        root: folder for relative paths in the settings.
        device: torch device of the resident model.
    """

    objectives: tuple[Objective, ...]
    items: Mapping[str, Any]
    tokenizer: str
    root: str = ""
    device: str = "cpu"


class Evaluator(Protocol):
    """Scores a merge; constructed as `Class(context, settings)`.

    * `Settings` is a pydantic model. A study file's `evaluator:` section without `kind` is checked
      against it at submission.
    * `takes` is the type of the first argument of `evaluate`: the resident `model`, or the `folder`
      of a merge.
    * `measures()` returns, for each objective of the context, everything besides the merge that
      decides its scores, as JSON data by name (content of tasks and data, items, versions …). Scores
      are compared and reused only if all of it is equal.
    * No state is kept between weights: A, then B, then A again gives the outcomes of A again.
    * The items of a split and their order are the same in every call and every process.
    * `part` is a (start, stop) range of that order, as shares. The outcomes of consecutive parts,
      joined, are those of the whole.
    * Outcomes may come with `answers` for people to read (see `nouns.answers`); they change no score.
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
    """Merges the recipe of a job and evaluates it. Each worker has one."""

    def __call__(self, job: Job) -> Evaluation: ...


# Makes a scorer inside a worker; must be picklable.
ScorerFactory = Callable[[], Scorer]


class Executor(Protocol):
    """Runs jobs; each submitted job is returned once, as an evaluation or a failure.

    Constructed as `Class(factory, settings)`.

    * `Settings` is a pydantic model. A study file's `execution:` section without `executor` and
      `device` is checked against it; `workers` is always given.
    * An exception, a dead worker or a hang gives a Failure with its `fault` (see `execute.faults`);
      other jobs go on. A job that failed by the environment's fault is first retried on another
      worker or node, if there is one.
    * `free` is the number of jobs that may be submitted now: the workers that are ready and idle, or
      1 if no job is running.
    * If no worker can be made with these settings, `wait` raises an error.
    """

    Settings: ClassVar[type[Any]]

    @property
    def free(self) -> int: ...

    def submit(self, job: Job) -> None: ...

    def wait(self) -> Sequence[tuple[Job, Evaluation | Failure]]:
        """Block until at least one submitted job is done; return all that are."""
        ...

    def close(self) -> None: ...


class HeldLease(Protocol):
    """The lease on a study that is running.

    * `wanted` is the request of another process.
    * `on_now` sets what is called, from another thread, once the run is asked to stop at once.
    * `tell` sets the progress that `Store.status` shows to other processes (JSON data).
    """

    @property
    def wanted(self) -> Wanted: ...

    def on_now(self, call: Callable[[], object] | None) -> None: ...

    def tell(self, progress: Mapping[str, Any]) -> None: ...


class Store(Protocol):
    """The ledger: studies, trials and scores. Every call is one transaction.

    * One process at a time runs a study, inside `hold`. Writes of other processes raise Conflict.
    * Scores of an objective with a measure are shared between studies, by `known` and `adopt`.
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

    def set_reference(
        self, study: str, reference: Sequence[float], steps: Sequence[float] = ()
    ) -> None: ...

    def delete_study(self, study: str) -> None: ...

    def trials(self, study: str, since: int = -1) -> Sequence[Trial]: ...

    def start(self, study: str, proposal: Proposal) -> Trial: ...

    def ask_for(self, study: str, recipe: Recipe) -> Proposal:
        """Ask whoever runs the study, now or later, to score a merge; needs no lease."""
        ...

    def asked_for(self, study: str) -> Sequence[Proposal]:
        """The merges asked for that the study has no trial of yet, oldest first."""
        ...

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

    def keep_answers(
        self, recipe_id: str, evaluation: Evaluation, measures: Mapping[str, str]
    ) -> None: ...

    def fail(self, study: str, number: int, failure: Failure) -> Trial: ...

    def outcomes(self, study: str, number: int, split: str) -> Mapping[str, Outcomes]: ...

    def read(self, study: str) -> Reading:
        """Read a study with its trials and item outcomes in one transaction."""
        ...

    def looked_at(self, split: str, measures: Collection[str]) -> int: ...

    def hold(self, study: str) -> AbstractContextManager[HeldLease]: ...

    def want(self, study: str, wanted: Wanted) -> bool: ...

    def close(self) -> None: ...
