"""Ask, submit, wait, tell: the only scheduling there is.

What to do next is read off the ledger each time, so a run that was killed goes on where it was:
proposals without scores are evaluated again under their number, nothing scored is scored twice.
May import: the nouns, protocols, front, racing.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from recycler.errors import InvalidConfig, NotFound, StudyFailed
from recycler.front.front import floor_gains, front_rows, meeting
from recycler.front.racing import estimate, expected_improvement
from recycler.front.stages import AHEAD, Expected, due, exhausted, remaining_gain, spent
from recycler.nouns.evaluation import Evaluation, Failure, Outcomes, Score
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import WHOLE, Job, Proposal, State, Trial
from recycler.protocols import Executor, Store

# Times a trial is begun before it counts as what kills the process. Large, because a process is
# also killed for reasons that are not the trial's, and often before the trial has begun to run.
ATTEMPTS = 20


class Source(Protocol):
    """Where proposals come from; `search.samplers.Proposer` is ours."""

    def next(
        self, trials: Sequence[Trial], reference: Sequence[float] | None
    ) -> Proposal | None: ...

    def reference(self, trials: Sequence[Trial]) -> Array | None: ...

    def references(self, trials: Sequence[Trial]) -> Sequence[Trial]: ...

    def expected(self, trials: Sequence[Trial], reference: Sequence[float]) -> Expected: ...

    def predicted(
        self, trials: Sequence[Trial], reference: Sequence[float], recipe: Recipe
    ) -> tuple[Array, Array] | None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after an event.

    Attributes:
        phase: search, select or test.
        done: trials that are through it.
        total: of so many.
        trial: the one that has just landed.
        remaining_gain: what the next evaluations of the search are expected to add (see
            `stages.remaining_gain`).
    """

    phase: str
    done: int
    total: int
    trial: Trial | None = None
    remaining_gain: float | None = None


Listener = Callable[[Progress], object]


def run(
    plan: Plan,
    store: Store,
    source: Source,
    executor: Executor,
    listen: Listener = lambda progress: None,
    phases: Sequence[str] = ("select", "test"),
) -> None:
    """Bring a study to its end: references, search, re-check on select items, report on test.

    Raises:
        StudyFailed: more than `plan.failed_share` of the trials failed.
    """
    store.set_status(plan.name, "running")
    try:
        message = _Run(plan, store, source, executor, listen).search()
        for split in phases:
            _Run(plan, store, source, executor, listen).recheck(split)
    except StudyFailed as error:
        store.set_status(plan.name, "failed", error.message)
        raise
    except BaseException as error:
        store.set_status(plan.name, "stopped", f"{type(error).__name__}: {error}".strip(": "))
        raise
    store.set_status(plan.name, "complete", message)


class _Run:
    """One pass over a phase; keeps the ledger's trials in memory and in step."""

    def __init__(
        self, plan: Plan, store: Store, source: Source, executor: Executor, listen: Listener
    ) -> None:
        self.plan, self.store, self.source = plan, store, source
        self.executor, self.listen = executor, listen
        self.trials = {trial.number: trial for trial in store.trials(plan.name)}
        self.reference: Sequence[float] | None = store.status(plan.name)["reference"]
        self.flying = 0
        self._race = _Race(plan, store, source)
        self._onward: deque[Trial] = deque()  # trials whose next block is due
        self._due: list[int] = []  # numbers of the trials of this re-check
        self._refused: list[tuple[Trial, Failure]] = []

    @property
    def ledger(self) -> list[Trial]:
        return [self.trials[number] for number in sorted(self.trials)]

    def search(self) -> str:
        """Evaluate orphans of a killed run first, then proposals, until there are none.

        Returns:
            Why it ended before the budget was spent; empty where it did not.
        """
        self._fix_reference()
        self._drive(self._search_jobs(), "search")
        made = spent(self.ledger)
        expected = exhausted(self.plan, self.ledger, self.reference)
        if expected is None or made >= self.plan.evaluations:
            return ""
        return (
            f"the search ended after {made} of {self.plan.evaluations} evaluations: the next "
            f"{AHEAD} are expected to add {expected:.2%} of hypervolume, less than stop_gain "
            f"{self.plan.stop_gain:.2%}"
        )

    def recheck(self, split: str) -> None:
        """Evaluate on a split whoever is due there and has not been."""
        wanted = self._wanted(split)
        searched, all_of_them = self.plan.objectives.searched, self.plan.objectives.all
        objectives = searched if split == "select" else all_of_them
        names = tuple(objective.name for objective in objectives)
        due = [trial for trial in wanted if split not in trial.evaluations]
        self._due = [trial.number for trial in due]
        self._drive(iter([Job(t.number, t.recipe, split, names) for t in due]), split)
        if self._refused:
            trial, failure = self._refused[0]
            raise StudyFailed(
                f"{len(self._refused)} of {len(due)} trials could not be scored on {split} items; "
                f"trial {trial.number}: {failure.message}",
                hint="the others are in the ledger; run the study again to try these once more.",
            )

    def _search_jobs(self) -> Iterator[Job | None]:
        """Jobs one after the other; None where scores are awaited."""
        for trial in [trial for trial in self.ledger if trial.state == State.RUNNING]:
            if trial.attempts >= ATTEMPTS:
                self._failed(trial, Failure("process-died", f"the process died {ATTEMPTS} times."))
                continue
            self.store.retry(self.plan.name, trial.number)
            if not self._copy(trial):
                yield self._dev_job(trial)
        while True:
            if self._onward:
                yield self._dev_job(self._onward.popleft())
                continue
            proposal = self.source.next(self.ledger, self.reference)
            if proposal is None:
                if not self.flying:
                    return
                yield None
                continue
            trial = self.store.start(self.plan.name, proposal)
            self.trials[trial.number] = trial
            if not self._copy(trial):
                yield self._dev_job(trial)

    def _copy(self, trial: Trial) -> bool:
        """Take a warm start's scores over from the earlier study; False where it has them no more."""
        if not trial.copied:
            return False
        study, number = trial.notes["copy"]
        try:
            alike = self.plan.scores_alike(self.store.plan(study))
            source = self.store.trials(study)[number] if alike else trial
        except (NotFound, IndexError):
            return False
        if source.state != State.COMPLETE or source.recipe.id != trial.recipe.id:
            return False
        scores = source.evaluations["dev"].scores
        names = [objective.name for objective in self.plan.objectives.searched]
        outcomes = self.store.outcomes(study, number, "dev")
        found = Evaluation(
            split="dev",
            scores={name: scores[name] for name in names},
            outcomes={name: outcomes[name] for name in names if name in outcomes},
            digest=source.digest,
        )
        self.store.record(self.plan.name, trial.number, found)
        self._refresh()
        self._tell("search", self.trials[trial.number])
        return True

    def _dev_job(self, trial: Trial) -> Job:
        """A trial's dev items, or the next block of them where candidates race."""
        names = tuple(objective.name for objective in self.plan.objectives.searched)
        part = self._race.part(trial, self.ledger)
        return Job(trial.number, trial.recipe, "dev", names, part)

    def _drive(self, jobs: Iterator[Job | None], phase: str) -> None:
        """Keep the executor busy until the jobs are used up and all have come back."""
        self._tell(phase, None)
        exhausted = False
        while True:
            while self.executor.free > 0 and not exhausted:
                try:
                    job = next(jobs)
                except StopIteration:
                    exhausted = True
                    break
                if job is None:  # scores are awaited
                    break
                self.executor.submit(job)
                self.flying += 1
            if not self.flying:
                if exhausted:
                    return
                continue
            for job, result in self.executor.wait():
                self.flying -= 1
                self._land(job, result)
                self._tell(phase, self.trials[job.trial])

    def _land(self, job: Job, result: Evaluation | Failure) -> None:
        trial = self.trials[job.trial]
        if isinstance(result, Failure):
            if job.split == "dev":
                self._failed(trial, result)
            else:  # told when the others are done
                self._refused.append((trial, result))
            return
        state = State.COMPLETE
        if job.split == "dev" and job.part != WHOLE:
            result, state = self._race.judge(job, result, self.ledger, self.reference)
        self.store.record(self.plan.name, trial.number, result, state)
        self._refresh()
        if state == State.RUNNING:
            self._onward.append(self.trials[trial.number])
        self._fix_reference()

    def _failed(self, trial: Trial, failure: Failure) -> None:
        self.store.fail(self.plan.name, trial.number, failure)
        self._refresh()
        self._fix_reference()
        ended = [t for t in self.ledger if t.state != State.RUNNING]
        share = sum(t.state == State.FAILED for t in ended) / len(ended)
        if len(ended) >= 4 and share > self.plan.failed_share:
            raise StudyFailed(
                f"{share:.0%} of {len(ended)} trials failed, more than the allowed "
                f"{self.plan.failed_share:.0%}; the last: {failure.message}",
                hint=f"`recycler show {self.plan.name} {trial.number}` shows its details.",
            )

    def _refresh(self) -> None:
        self.trials = {trial.number: trial for trial in self.store.trials(self.plan.name)}

    def _fix_reference(self) -> None:
        if self.reference is None:
            corner = self.source.reference(self.ledger)
            if corner is not None:
                self.reference = [float(x) for x in corner]
                self.store.set_reference(self.plan.name, self.reference)

    def _tell(self, phase: str, trial: Trial | None) -> None:
        ended = [t for t in self.ledger if t.state != State.RUNNING]
        if phase == "search":
            references = sum(t.is_baseline for t in ended)
            budget = self.plan.evaluations if self.plan.n > 1 else 0
            n, m = self.plan.n, self.plan.objectives.m
            expected = max(references, n + (n > 1) + (n > 2 and m > 1))
            copies = sum(bool(entry["copy"]) for entry in self.plan.warm)
            left = remaining_gain(self.ledger, self.plan.objectives, self.reference)
            self.listen(Progress(phase, len(ended), expected + budget + copies, trial, left))
        else:
            done = sum(phase in self.trials[number].evaluations for number in self._due)
            self.listen(Progress(phase, done, len(self._due), trial))

    def _wanted(self, split: str) -> list[Trial]:
        """Finalists on select items, the elected on test items, and the references on both."""
        if self.reference is None:
            return []
        expected = self.source.expected(self.ledger, self.reference) if split == "select" else None
        return due(self.plan, self.ledger, split, np.array(self.reference), expected)


class _Race:
    """Which block of dev items a candidate is scored on next, and whether it goes on after it."""

    def __init__(self, plan: Plan, store: Store, source: Source) -> None:
        self._plan, self._store, self._source = plan, store, source
        self._seen: dict[int, Evaluation] = {}  # of trials in flight: the blocks so far, as one
        self._whole: dict[int, Mapping[str, Outcomes | Score]] = {}  # of rivals: all dev items
        # an objective that is measured on items; none where nothing can race
        searched = plan.objectives.searched
        self._measured = next((o.name for o in searched if not o.of_merge), "")

    def part(self, trial: Trial, ledger: Sequence[Trial]) -> tuple[float, float]:
        """Shares of the dev items to score next; all where the trial does not race."""
        if not self._plan.racing or trial.kind != "search" or not self._measured:
            return WHOLE
        if trial.number not in self._seen and "dev" in trial.evaluations:  # of a killed run
            known = self._store.outcomes(self._plan.name, trial.number, "dev")
            self._seen[trial.number] = replace(trial.evaluations["dev"], outcomes=known)
        name = self._measured
        scored = next(t for t in ledger if t.state == State.COMPLETE).evaluations["dev"].scores
        counts = [scored[o.name].items for o in self._plan.objectives.searched if not o.of_merge]
        fewest = min((items for items in counts if items), default=sys.maxsize)
        # of few items a small share is none
        blocks = [0.0, *(b for b in self._plan.racing["blocks"] if round(b * fewest) > 0)]
        if trial.number not in self._seen:
            return blocks[0], blocks[1]
        done = self._seen[trial.number].scores[name].items / scored[name].items
        next_block = min(range(1, len(blocks) - 1), key=lambda i: abs(blocks[i] - done))
        return blocks[next_block], blocks[next_block + 1]

    def judge(
        self,
        job: Job,
        block: Evaluation,
        ledger: Sequence[Trial],
        reference: Sequence[float] | None,
    ) -> tuple[Evaluation, State]:
        """All that a candidate has been scored on with its newest block, and its state.

        The scores of a stopped one are estimates for all dev items, with their larger errors.
        """
        before = self._seen.pop(job.trial, None)
        found = before.joined(block) if before else block
        if job.part[1] >= 1.0:
            return found, State.COMPLETE
        objectives = self._plan.objectives
        measured = {o.name for o in objectives.searched if not o.of_merge}
        if set(found.outcomes) != measured or reference is None:
            raise InvalidConfig(
                "the evaluator returned no item values, which racing needs.",
                hint="return a list of values an objective, or take `racing: false` in a study of "
                "another name.",
            )
        floors = floor_gains(ledger, objectives, "dev")
        rivals = front_rows(
            [t for t in ledger if t.state == State.COMPLETE], objectives, "dev", floors
        )
        for trial in rivals:
            if trial.number not in self._whole:
                known = self._store.outcomes(self._plan.name, trial.number, "dev")
                self._whole[trial.number] = {**trial.evaluations["dev"].scores, **known}
        seen: dict[str, Outcomes | Score] = {**found.scores, **found.outcomes}
        others = [self._whole[trial.number] for trial in rivals]
        improvement = expected_improvement(
            seen,
            others,
            objectives,
            np.array(reference),
            seed=job.trial,
            floors=floors if meeting(rivals, objectives, "dev", floors).any() else None,
            prior=self._source.predicted(ledger, reference, job.recipe),
        )
        if not improvement.suffices(self._plan.racing):
            return replace(found, scores=estimate(seen, others, objectives)), State.PRUNED
        self._seen[job.trial] = found
        return found, State.RUNNING
