"""The loop of a study: ask for a proposal, submit it, wait for a result, write it to the ledger.

The next step is always read from the ledger, so a killed run resumes where it was: running trials
are evaluated again under their number, and scored ones are not. A merge that any study has scored
under the same measure is not evaluated at all.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recycler.errors import InvalidConfig, RecyclerError, StudyFailed, Unavailable
from recycler.front.baselines import steps_of
from recycler.front.stages import AHEAD, Expected, due, exhausted, remaining_gain, searched, spent
from recycler.keeping import Keeping
from recycler.nouns.evaluation import Evaluation, Failure, Fault, Split
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.status import Status, Wanted
from recycler.nouns.trial import WHOLE, Job, Kind, Proposal, State, Trial
from recycler.pace import Pace
from recycler.protocols import Executor, Store
from recycler.race import Race

# How often a trial may be started before it is blamed for killing the process. Large, because a
# process is also killed for other reasons, often before the trial has begun to run.
ATTEMPTS = 20
# Waits before a job is retried after a fault of the environment [s]; after the last the study pauses.
BACKOFF = (1.0, 5.0, 25.0)


class Source(Protocol):
    """The source of proposals; `search.samplers.Proposer` implements it."""

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
    """The progress of a run after an event.

    Attributes:
        phase: search, select or test.
        done: number of trials that have finished this phase.
        total: number of trials in this phase.
        trial: the trial that finished last.
        remaining_gain: expected gain of the next evaluations of the search (see
            `stages.remaining_gain`).
        waiting: the fault of the environment after which a job is being retried; usually empty.
        said: a remark for the user, said once; usually empty.
    """

    phase: str
    done: int
    total: int
    trial: Trial | None = None
    remaining_gain: float | None = None
    waiting: str = ""
    said: str = ""


Listener = Callable[[Progress], object]


class _Halted(Exception):
    """Another process asked to pause or stop, and all jobs in flight are done or left behind."""


def run(
    plan: Plan,
    store: Store,
    source: Source,
    executor: Executor,
    listen: Listener = lambda progress: None,
    phases: Sequence[str] = (Split.SELECT, Split.TEST),
    wanted: Callable[[], Wanted] = lambda: Wanted.RUN,
    tell: Callable[[Mapping[str, Any]], object] = lambda told: None,
    keep_answers: bool | None = None,
) -> Status:
    """Run a study to its end: baselines, search, re-check on select items, report on test items.

    Args:
        plan: the study.
        store: its ledger, with the study's lease held.
        source: where proposals come from.
        executor: where jobs run.
        listen: called after each event.
        phases: splits that are scored after the search.
        wanted: returns what another process asks this run to do; called before each job.
        tell: takes the progress and the pace of the run as JSON data (see `pace.Pace`).
        keep_answers: whether answers to select and test items are kept; None: up to a size.

    Returns:
        complete, or the status that another process asked for: paused or stopped.

    Raises:
        StudyFailed: more than `plan.failed_share` of the trials failed.
        Unavailable: a fault of the environment persisted; the study is paused.
    """
    died, keeping = store.status(plan.name)["status"] != Status.PAUSED, Keeping(keep_answers)
    store.set_status(plan.name, Status.RUNNING)
    pace = Pace(plan, tell)

    def stage() -> _Run:
        return _Run(plan, store, source, executor, listen, wanted, pace, keeping)

    try:
        message = stage().search(count_attempts=died)
        _recheck(stage, phases)
        while stage().awaited:  # tries that came after the search
            stage().search(tries_only=True)
            _recheck(stage, phases)
    except _Halted:
        return _halted(plan, store, wanted())
    except StudyFailed as error:
        _leave(plan, store, Status.FAILED, error.message)
        raise
    except Unavailable as error:
        _leave(plan, store, Status.PAUSED, error.message)
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and wanted() is Wanted.NOW:  # see `runs.run_study`
            return _halted(plan, store, Wanted.NOW)
        what = error.message if isinstance(error, RecyclerError) else str(error)
        why = f"{type(error).__name__}: {what}".strip(": ")
        if isinstance(error, KeyboardInterrupt):
            why = "Interrupted with Ctrl-C"
        _leave(plan, store, Status.STOPPED, why)
        raise
    store.set_status(plan.name, Status.COMPLETE, message)
    return Status.COMPLETE


def run_tries(
    plan: Plan,
    store: Store,
    source: Source,
    executor: Executor,
    listen: Listener = lambda progress: None,
    phases: Sequence[str] = (Split.SELECT, Split.TEST),
    wanted: Callable[[], Wanted] = lambda: Wanted.RUN,
    tell: Callable[[Mapping[str, Any]], object] = lambda told: None,
    keep_answers: bool | None = None,
) -> Status:
    """Score the tries that a study waits for, and nothing else of it; arguments as for `run`.

    In a complete study they are also re-checked on select items and reported on test items.

    Returns:
        The status that the study had before. A complete study is `stopped` if this is interrupted.
    """
    before = store.status(plan.name)
    status, message = Status(before["status"]), before["message"]
    if status is Status.RUNNING:  # of a process that is gone
        status = Status.STOPPED
    store.set_status(plan.name, Status.RUNNING)
    pace, keeping = Pace(plan, tell), Keeping(keep_answers)

    def stage() -> _Run:
        return _Run(plan, store, source, executor, listen, wanted, pace, keeping)

    try:
        stage().search(tries_only=True)
        _recheck(stage, phases if status is Status.COMPLETE else ())
    except BaseException as error:
        if status is Status.COMPLETE:
            status, message = Status.STOPPED, "while a try was scored"
        _leave(plan, store, status, message)
        at_once = isinstance(error, SystemExit) and wanted() is Wanted.NOW
        if at_once or isinstance(error, _Halted):
            return status
        raise
    store.set_status(plan.name, status, message)
    return status


def _recheck(stage: "Callable[[], _Run]", phases: Sequence[str]) -> None:
    for split in phases:
        stage().recheck(split)


def _halted(plan: Plan, store: Store, wanted: Wanted) -> Status:
    """Write that a run ended on request."""
    status = Status.PAUSED if wanted is Wanted.PAUSE else Status.STOPPED
    at_once = ", without waiting for the merges in flight" if wanted is Wanted.NOW else ""
    try:
        _leave(plan, store, status, f"on request{at_once}")
    except SystemExit:  # the signal of a request to stop at once that was seen before it came
        _leave(plan, store, status, f"on request{at_once}")
    return status


def _leave(plan: Plan, store: Store, status: Status, message: str) -> None:
    """Write how a run ended. An error here must not hide the one that ended the run."""
    try:
        store.set_status(plan.name, status, message)
    except RecyclerError:  # the ledger is unreachable, or another process has the study by now
        return


class _Run:
    """One run of a study; keeps the trials in memory in step with the ledger."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        source: Source,
        executor: Executor,
        listen: Listener,
        wanted: Callable[[], Wanted],
        pace: Pace,
        keeping: Keeping,
    ) -> None:
        self.plan, self.store, self.source = plan, store, source
        self.executor, self.listen, self._wants = executor, listen, wanted
        self.trials = {trial.number: trial for trial in store.trials(plan.name)}
        self.reference: Sequence[float] | None = store.status(plan.name)["reference"]
        self.flying, self._pace = 0, pace
        self._race = Race(plan, store, source.predicted)
        self._keeping = keeping
        self._measures = plan.measure_ids
        self._onward: deque[Trial] = deque()  # trials that are due for their next block
        self._due: list[int] = []  # numbers of the trials of this re-check
        self._paid = 0  # how many of these had no scores when it began
        self._refused: list[tuple[Trial, Failure]] = []
        self._faults = _Faults()

    @property
    def ledger(self) -> list[Trial]:
        return list(self.trials.values())

    @property
    def awaited(self) -> list[Proposal]:
        """Tries that may be scored now: merges that users asked for, once the singles are scored."""
        return [] if self.reference is None else list(self.store.asked_for(self.plan.name))

    def search(self, count_attempts: bool = True, tries_only: bool = False) -> str:
        """Evaluate the running trials of a killed run first, then proposals, until there are none.

        Args:
            count_attempts: whether a running trial's new attempt is counted.
            tries_only: leave out whatever is not a try.

        Returns:
            Why the search ended before its budget was spent; empty if it was spent.
        """
        self._fix_reference()
        self._drive(self._search_jobs(count_attempts, tries_only), Split.DEV)
        if not tries_only:
            ended = len(self.trials)  # the total told before was an estimate
            self._pace.told("search", ended, ended, 0, "")
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
        """Evaluate the trials that are due on a split and not scored there yet."""
        wanted = self._wanted(split)
        due = [trial for trial in wanted if split not in trial.evaluations]
        self._due, self._paid = [trial.number for trial in wanted], len(due)
        jobs = (self._job(trial, split) for trial in due)
        self._drive((job for job in jobs if job is not None), split)
        if self._refused:
            trial, failure = self._refused[0]
            raise StudyFailed(
                f"{len(self._refused)} of {len(due)} trials could not be scored on {split} items; "
                f"trial {trial.number}: {failure.message}",
                hint="the other scores are in the ledger; run the study again to retry these.",
            )

    def _search_jobs(self, count_attempts: bool, tries_only: bool) -> Iterator[Job | None]:
        """Yield jobs one by one, and None while the next step depends on scores in flight."""
        wanted = {entry.recipe.id for entry in self.plan.references}
        for trial in [trial for trial in self.ledger if trial.state == State.RUNNING]:
            if tries_only and trial.kind != Kind.TRY:
                continue
            if trial.attempts >= ATTEMPTS:
                self._failed(trial, Failure("process-died", f"the process died {ATTEMPTS} times."))
                continue
            if trial.kind == Kind.REFERENCE and trial.recipe.id not in wanted:
                self._failed(trial, Failure("dropped", "the study file no longer names it."))
                continue
            if count_attempts:
                self.store.retry(self.plan.name, trial.number)
            if job := self._job(trial, Split.DEV):
                yield job
        while True:
            if self._onward:
                if job := self._job(self._onward.popleft(), Split.DEV):
                    yield job
                continue
            proposal = next(iter(self.awaited), None)
            if proposal is None and not tries_only:
                proposal = self.source.next(self.ledger, self.reference)
            if proposal is None:
                if not self.flying and not self._faults.waiting:
                    return
                yield None
                continue
            trial = self.store.start(self.plan.name, proposal)
            self._take(trial)
            if job := self._job(trial, Split.DEV):
                yield job

    def _job(self, trial: Trial, split: str) -> Job | None:
        """The job that scores the rest of a trial; None if the ledger has all of its scores.

        While a trial races, the job is its next block of dev items.
        """
        objectives = self.plan.objectives
        asked = objectives.all if split == Split.TEST else objectives.searched
        names = tuple(objective.name for objective in asked)
        known = self._known(trial, split, names)
        if known >= {*names}:
            measures = {name: self._measures[name] for name in names}
            self._landed(self.store.adopt(self.plan.name, trial.number, split, measures), split)
            return None
        part = self._race.part(trial, self.ledger) if split == Split.DEV else WHOLE
        if part == WHOLE:
            names = tuple(name for name in names if name not in known)
        answers = self._keeping.asks(split)
        return Job(trial.number, trial.recipe, split, names, part, answers)

    def _known(self, trial: Trial, split: str, names: Sequence[str]) -> frozenset[str]:
        """Objectives whose scores on a split are already in the ledger, from any study."""
        measures = {name: self._measures[name] for name in names if name in self._measures}
        if not measures:
            return frozenset()
        return self.store.known(trial.recipe.id, split, measures)

    def _drive(self, jobs: Iterator[Job | None], phase: str) -> None:
        """Keep the executor busy until all jobs are submitted and done."""
        self._tell(phase, None)
        ended = False
        while True:
            asked = self._wants()
            if asked is Wanted.NOW:
                raise _Halted
            halting = asked is not Wanted.RUN or self._faults.lasting is not None
            while self.executor.free > 0 and not halting:
                job = self._faults.due()
                if job is None and not ended:
                    try:
                        job = next(jobs)
                    except StopIteration:
                        ended = True
                if job is None:  # waits for scores in flight, or no job is left
                    break
                self.executor.submit(job)
                self.flying += 1
                self._pace.submitted(self.flying)
            if self.flying:
                for job, result in self.executor.wait():
                    self.flying -= 1
                    self._pace.landed(job, result)
                    self._land(job, result, phase)
            elif self._faults.lasting is not None:
                raise self._faults.lasting
            elif halting:
                raise _Halted
            elif self._faults.waiting:
                time.sleep(0.1)
            elif ended:
                return

    def _land(self, job: Job, result: Evaluation | Failure, phase: str) -> None:
        """Write the result of a job, or schedule a retry."""
        trial = self.trials[job.trial]
        if isinstance(result, Evaluation):
            state = State.COMPLETE
            if job.split == Split.DEV and job.part != WHOLE:
                result, state = self._race.judge(job, result, self.ledger, self.reference)
            result, said = self._keeping.weigh(job, result, self._paid, self._measures)
            if said:
                self._tell(phase, None, said=said)
            known = self._known(trial, job.split, self._others(job, result))
            landed = self.store.record(
                self.plan.name, trial.number, result, state, self._measures, known
            )
            if state == State.RUNNING:
                self._onward.append(landed)
            self._landed(landed, phase)
        elif result.fault == Fault.SETUP:
            raise InvalidConfig(
                result.message,
                hint=result.hint
                if trial.kind == Kind.REFERENCE
                else "no candidate can be scored until this is fixed.",
            )
        elif result.fault == Fault.ENVIRONMENT:
            self._faults.add(job, result, self.plan.name)
            self._tell(phase, trial, result.message)
        elif job.split == Split.DEV:
            self._failed(trial, result)
            self._tell(phase, self.trials[trial.number])
        else:  # reported once the other results are in
            self._refused.append((trial, result))
            self._tell(phase, trial)

    def _others(self, job: Job, result: Evaluation) -> list[str]:
        """Objectives of a job's split that the job leaves out because their scores are known."""
        objectives = self.plan.objectives
        asked = objectives.all if job.split == Split.TEST else objectives.searched
        return [o.name for o in asked if o.name not in result.scores]

    def _landed(self, trial: Trial, phase: str) -> None:
        self._take(trial)
        self._fix_reference()
        self._tell(phase, trial)

    def _failed(self, trial: Trial, failure: Failure) -> None:
        self._take(self.store.fail(self.plan.name, trial.number, failure))
        self._fix_reference()
        extra = (Kind.REFERENCE, Kind.TRY)
        ended = [t for t in self.ledger if t.state != State.RUNNING and t.kind not in extra]
        share = sum(t.state == State.FAILED for t in ended) / max(1, len(ended))
        if len(ended) >= 4 and share > self.plan.failed_share:
            raise StudyFailed(
                f"{share:.0%} of {len(ended)} trials failed, more than the allowed "
                f"{self.plan.failed_share:.0%}; the last: {failure.message}",
                hint=f"`recycler show {self.plan.name} {trial.number}` shows its details.",
            )

    def _take(self, trial: Trial) -> None:
        self.trials[trial.number] = trial

    def _fix_reference(self) -> None:
        if self.reference is None:
            corner = self.source.reference(self.ledger)
            if corner is not None:
                self.reference = [float(x) for x in corner]
                steps = [float(x) for x in steps_of(self.plan, self.ledger)]
                self.store.set_reference(self.plan.name, self.reference, steps)

    def _tell(self, phase: str, trial: Trial | None, waiting: str = "", said: str = "") -> None:
        if phase == Split.DEV:
            ended, total = searched(self.plan, self.ledger)
            left = remaining_gain(self.ledger, self.plan.objectives, self.reference)
            progress = Progress("search", ended, total, trial, left, waiting, said)
        else:
            done = sum(phase in self.trials[number].evaluations for number in self._due)
            progress = Progress(phase, done, len(self._due), trial, None, waiting, said)
        self._pace.told(progress.phase, progress.done, progress.total, self.flying, waiting)
        self.listen(progress)

    def _wanted(self, split: str) -> list[Trial]:
        """Finalists on select items, the elected on test items, the baselines on both."""
        if self.reference is None:
            return []
        expected = self.source.expected(self.ledger, self.reference) if split == "select" else None
        return due(self.plan, self.ledger, split, np.array(self.reference), expected)


class _Faults:
    """Jobs that met a fault of the environment; they are retried with growing waits."""

    def __init__(self) -> None:
        self.lasting: Unavailable | None = None  # the fault that persisted
        self._tries: dict[tuple[int, str], int] = {}
        self._waiting: list[tuple[float, Job]] = []

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, job: Job, failure: Failure, study: str) -> None:
        """Take a job back. After its last retry the study has to pause."""
        key = (job.trial, job.split)
        tries = self._tries.get(key, 0)
        if tries >= len(BACKOFF):
            self.lasting = Unavailable(
                f"trial {job.trial} met a fault of the machine {tries + 1} times in a row: "
                f"{failure.message}",
                hint=f"fix it and run study {study!r} again: it resumes where it was, and no budget "
                "was spent on this.",
            )
            return
        self._tries[key] = tries + 1
        self._waiting.append((time.monotonic() + BACKOFF[tries], job))

    def due(self) -> Job | None:
        """A job whose wait is over; None if there is none."""
        for entry in self._waiting:
            if entry[0] <= time.monotonic():
                self._waiting.remove(entry)
                return entry[1]
        return None
