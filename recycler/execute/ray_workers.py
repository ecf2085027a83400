"""Runs jobs in Ray actors; each keeps the model, the tasks and the open pool for its lifetime.

An actor is kept only after a candidate's exception. After any other failure its process may be
broken and its open files may have been replaced, so the actor is replaced and the job is retried
in another one a bounded number of times.
"""

import os
import sys
import sysconfig
import time
import traceback
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import ray
from pydantic import Field, field_validator
from ray.exceptions import (
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from recycler.beneath import ROOTS
from recycler.environment import DEFAULTS, prepare
from recycler.errors import InvalidConfig, RecyclerError
from recycler.execute.faults import at_start, failure_of
from recycler.execute.ray_cluster import Cluster
from recycler.nouns.evaluation import Evaluation, Failure, Fault
from recycler.nouns.trial import Job
from recycler.protocols import Scorer, ScorerFactory
from recycler.settings import Settings

RETRIES = (
    2  # how often a job, or the start of a worker, is retried after a fault of the environment
)
TICK = 0.5  # interval between checks of time limits [s]

Result = tuple[Job, Evaluation | Failure]


class RaySettings(Settings):
    """Settings of this executor under `execution:` in a study file.

    Attributes:
        workers: number of actors.
        ray_address: of an existing cluster; if empty, one is started here and ends with this
            process.
        gpus: accelerators of each actor.
        timeout: time limit of one job, from when a worker starts it [s]; None is no limit.
        start_timeout: how long a job may wait for the first worker to get a place and make its
            scorer [s]; None is for ever.
    """

    workers: int = Field(2, ge=1, le=1024)
    ray_address: str = ""
    gpus: float = Field(0.0, ge=0)
    timeout: float | None = Field(None, gt=0)
    start_timeout: float | None = Field(600.0, gt=0)

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("expected a share of one accelerator, or a whole number")
        return gpus


class Worker:
    """The actor: makes its scorer once and keeps it."""

    def __init__(self, factory: ScorerFactory) -> None:
        prepare()
        self._factory = factory
        self._scorer: Scorer | None = None

    def start(self) -> tuple[Failure, RecyclerError | None] | None:
        """Make the scorer. Returns None, or the failure."""
        try:
            self._scorer = self._factory()
        except Exception as error:
            own = error if isinstance(error, RecyclerError) else None
            return failure_of(error, traceback.format_exc(limit=-3)), own
        return None

    def run(self, job: Job) -> Evaluation | Failure:
        """Scores or failure of one job."""
        assert self._scorer is not None, "jobs go to workers that have started"
        try:
            return self._scorer(job)
        except Exception as error:  # a candidate's fault must not end the study
            return failure_of(error, traceback.format_exc(limit=-3))


@dataclass(slots=True)
class _Task:
    """A job, how often it was started and ran out of time, and since when it has been waiting."""

    job: Job
    tries: int = 0
    overruns: int = 0
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Flight:
    task: _Task
    actor: Any
    since: float


class RayWorkers:
    """Actors on a local or an existing cluster (see `protocols.Executor`)."""

    Settings: ClassVar[type[RaySettings]] = RaySettings

    def __init__(self, factory: ScorerFactory, settings: RaySettings | None = None) -> None:
        """Connect to Ray, or start it on this machine, and request the actors.

        Args:
            factory: makes each actor's scorer.
            settings: number of workers, address, limits.

        Raises:
            NotFound: there is no cluster at that address.
            InvalidConfig: no node has room for a single worker.
        """
        self._factory, self._settings = factory, settings or RaySettings()
        self._cluster = Cluster(self._settings.ray_address, self._settings.workers)
        self._starting: dict[Any, Any] = {}  # reference -> actor
        self._idle: list[Any] = []
        self._flights: dict[Any, _Flight] = {}
        self._queue: deque[_Task] = deque()
        self._done: list[Result] = []  # results not returned by `wait` yet
        self._proven = False  # whether the factory has made a scorer
        self._strikes = 0  # failed starts of workers since the last success
        self._why = Failure("worker-died", "no worker could be started.", fault=Fault.ENVIRONMENT)
        self._wrong: RecyclerError | None = None
        try:
            self._workers = self._cluster.require_place(
                self._settings.workers, self._settings.gpus
            )
            self._refill()
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """Number of idle workers; 1 if no worker is ready and no job waits for the first one."""
        self._collect(timeout=0.0)
        self._dispatch()
        under_way = self._flights or self._queue or self._done
        return len(self._idle) or int(not under_way)

    def submit(self, job: Job) -> None:
        self._queue.append(_Task(job))
        self._refill()
        self._dispatch()

    def wait(self) -> list[Result]:
        """Block until a job is done or given up.

        Raises:
            RecyclerError: a worker can't be made from these settings.
        """
        while True:
            self._collect(0.0 if self._done else TICK)
            if self._wrong:
                raise self._wrong
            self._done += self._overdue() + self._stranded()
            self._refill()
            self._dispatch()
            if self._done:
                results, self._done = self._done, []
                return results

    def close(self) -> None:
        """Stop the actors, and the cluster if it was started here."""
        if ray.is_initialized():
            busy = [flight.actor for flight in self._flights.values()]
            for actor in [*self._starting.values(), *self._idle, *busy]:
                ray.kill(actor)
        self._starting, self._idle, self._flights = {}, [], {}
        self._queue.clear()
        self._cluster.close()

    def _refill(self) -> None:
        """Start missing workers, unless too many starts have failed."""
        missing = self._workers - len(self._starting) - len(self._idle) - len(self._flights)
        for _ in range(missing if self._strikes <= RETRIES else 0):
            actor = _actor(self._factory, self._settings.gpus)
            self._starting[actor.start.remote()] = actor

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            task, actor = self._queue.popleft(), self._idle.pop(0)
            task.tries += 1
            self._flights[actor.run.remote(task.job)] = _Flight(task, actor, time.monotonic())

    def _collect(self, timeout: float) -> None:
        """Collect results and ready workers, waiting at most `timeout` [s]."""
        references = [*self._flights, *self._starting]
        if not references:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
        if ready:  # and all others that are ready
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0.0)
        for reference in ready:
            if reference in self._starting:
                self._started(reference)
            else:
                self._done += self._land(reference)

    def _started(self, reference: Any) -> None:
        """Take a worker into service, or handle its failed start."""
        actor = self._starting.pop(reference)
        try:
            told = ray.get(reference)
        except RayError as error:
            told = _start_failure(error), None
        if told is None:
            self._proven, self._strikes = True, 0
            self._idle.append(actor)
            return
        ray.kill(actor)
        failure, own = at_start(told[0], self._proven), told[1]
        if failure.fault is Fault.SETUP:
            self._wrong = own or InvalidConfig(
                f"a worker can't be set up: {failure.message}",
                hint=failure.details[-1500:] or "the same settings fail on every worker.",
            )
        self._strikes += 1
        self._why = failure

    def _land(self, reference: Any) -> list[Result]:
        """The job's result; None if the job is retried."""
        flight = self._flights.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:  # outside the job, such as scores that can't be serialised
            cause = error.cause if isinstance(error.cause, Exception) else error
            result = failure_of(cause, str(error)[:2000])
        except RayError as error:
            result = _lost(error)
        if isinstance(result, Failure) and result.fault is Fault.ENVIRONMENT:
            ray.kill(flight.actor)  # it may be unreachable and still working
            return self._again(flight.task, result)
        self._strikes = 0
        self._idle.append(flight.actor)
        return [(flight.task.job, result)]

    def _again(self, task: _Task, failure: Failure) -> list[Result]:
        if task.tries <= RETRIES:
            task.since = time.monotonic()
            self._queue.appendleft(task)
            return []
        message = f"{failure.message} (tried {task.tries} times)"
        return [(task.job, replace(failure, message=message))]

    def _overdue(self) -> list[Result]:
        """Give up jobs over the time limit; a job is retried elsewhere the first time.

        A machine may hang. If two hang on the same merge while others keep the limit, the merge is
        at fault, for example because it generates text without end.
        """
        results: list[Result] = []
        limit = self._settings.timeout
        for reference, flight in list(self._flights.items()) if limit else []:
            if time.monotonic() - flight.since <= (limit or 0.0):
                continue
            del self._flights[reference]
            ray.kill(flight.actor)
            flight.task.overruns += 1
            if flight.task.overruns < 2:
                flight.task.since = time.monotonic()
                self._queue.appendleft(flight.task)
                continue
            hint = "raise `execution.timeout` if merges take that long."
            message = f"no scores after {limit:g} s, in two workers."
            results.append((flight.task.job, Failure("timeout", message, hint=hint)))
        return results

    def _stranded(self) -> list[Result]:
        """Give up waiting jobs if there is no worker and none can be started."""
        if not self._queue or self._idle or self._flights:
            return []
        limit, waited = self._settings.start_timeout, time.monotonic() - self._queue[0].since
        if self._strikes > RETRIES:
            why = self._why
            self._strikes = 0  # the next job tries again
        elif limit and waited > limit:
            why = Failure(
                "no-place",
                f"no worker was ready after {limit:g} s; each asks for 1 CPU and "
                f"{self._settings.gpus:g} GPU, {self._cluster.resources()}.",
                fault=Fault.ENVIRONMENT,
                hint="wait until the cluster has room, or raise `execution.start_timeout`.",
            )
        else:
            return []
        given_up: list[Result] = [(task.job, why) for task in self._queue]
        self._queue.clear()
        return given_up


def _actor(factory: ScorerFactory, gpus: float) -> Any:
    variables = {**DEFAULTS, **_given(), "PYTHONPATH": _import_path()}
    options = {"num_cpus": 1, "num_gpus": gpus, "runtime_env": {"env_vars": variables}}
    return ray.remote(Worker).options(**options).remote(factory)


def _start_failure(error: RayError) -> Failure:
    """Why an actor did not start, from Ray's error."""
    text = str(error)
    own = isinstance(error, RayTaskError) or getattr(error, "_actor_init_failed", False)
    if own or isinstance(error, RuntimeEnvSetupError):
        return Failure("setup", _last_line(text), text[:4000], Fault.SETUP)
    return _lost(error)


def _lost(error: RayError) -> Failure:
    """The environment's failure for an error that recycler's own code did not raise."""
    text = str(error)
    starved = isinstance(error, OutOfMemoryError) or "running low on memory" in text
    if starved:
        kind, why = "out-of-memory", "its node ran low on memory and Ray killed it"
    elif isinstance(error, RayActorError):
        kind, why = "worker-died", _last_line(text)
    else:
        kind, why = "worker-died", f"{type(error).__name__}: {_last_line(text)}"
    return Failure(kind, f"the worker died: {why}", text[:2000], Fault.ENVIRONMENT)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason is known"


def _given() -> dict[str, str]:
    """Variables of DEFAULTS that the user set to another value."""
    return {name: os.environ[name] for name in (*DEFAULTS, ROOTS) if name in os.environ}


def _import_path() -> str:
    """Folders that this process imports from, besides the interpreter's own; workers need them too.

    Ray only passes on the script's folder and the current one.
    """
    own = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))
    folders = [str(Path(entry).absolute()) for entry in sys.path if Path(entry).is_dir()]
    return os.pathsep.join(dict.fromkeys(f for f in folders if not f.startswith(own)))
