"""Runs jobs in Ray actors: each holds model, tasks and memory-mapped pool for its life.

The job of a dead actor is tried again in a new one a bounded number of times (Ray's own retries
are used up while an actor restarts); a job past its time limit is given up and its actor replaced.
May import: the nouns, environment, evaluate.results, ray.
"""

import logging
import os
import socket
import sys
import sysconfig
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from recycler.environment import DEFAULTS, prepare
from recycler.errors import NotFound, RecyclerError
from recycler.execute.faults import failure_of
from recycler.nouns.evaluation import Evaluation, Failure
from recycler.nouns.trial import Job
from recycler.protocols import Scorer, ScorerFactory

RETRIES = 2  # times a job is tried again after its worker died
STORE_BYTES = 100_000_000  # object store: only weights vectors and scores travel


class Worker:
    """The actor: makes its scorer with the first job and keeps it."""

    def __init__(self, factory: ScorerFactory) -> None:
        prepare()
        self._factory = factory
        self._scorer: Scorer | None = None

    def run(self, job: Job) -> Evaluation | Failure | RecyclerError:
        """Scores or failure of one job; an error of the set-up itself comes back as an error."""
        if self._scorer is None:
            try:
                self._scorer = self._factory()
            except RecyclerError as error:
                return error
        try:
            return self._scorer(job)
        except Exception as error:  # one candidate's fault must not end the study
            return failure_of(error, traceback.format_exc(limit=-3))


@dataclass(slots=True)
class _Flight:
    job: Job
    actor: Any
    since: float
    tries: int


class RayWorkers:
    """`workers` actors on a local or an existing cluster (see `protocols.Executor`)."""

    def __init__(
        self,
        factory: ScorerFactory,
        workers: int = 2,
        *,
        address: str = "",
        gpus: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        """Connect to Ray, or start it on this machine, and make the actors.

        Args:
            factory: makes each actor's scorer.
            workers: number of actors.
            address: of an existing cluster; empty starts one here, gone when this process ends.
            gpus: accelerators of each actor.
            timeout: time limit of one job [s]; None is none.

        Raises:
            NotFound: no cluster at that address.
        """
        self._factory, self._gpus, self._timeout = factory, gpus, timeout
        self._started = not ray.is_initialized()
        if self._started:
            _connect(address, workers)
        self._idle = [self._actor() for _ in range(workers)]
        self._flights: dict[Any, _Flight] = {}

    @property
    def free(self) -> int:
        return len(self._idle)

    def submit(self, job: Job) -> None:
        self._fly(job, self._idle.pop())

    def wait(self) -> list[tuple[Job, Evaluation | Failure]]:
        """Block until a job is done or over its time limit; give all that are."""
        while True:
            done, _ = ray.wait(
                list(self._flights), num_returns=1, timeout=self._timeout and 1.0, fetch_local=True
            )
            results = [result for reference in done for result in self._land(reference)]
            results += [self._give_up(reference) for reference in self._overdue()]
            if results:
                return results

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for actor in [*self._idle, *(flight.actor for flight in self._flights.values())]:
            ray.kill(actor)
        self._idle, self._flights = [], {}
        if self._started:
            ray.shutdown()

    def _actor(self) -> Any:
        return (
            ray.remote(Worker)
            .options(
                num_cpus=1,
                num_gpus=self._gpus,
                runtime_env={"env_vars": {**DEFAULTS, **_given(), "PYTHONPATH": _import_path()}},
            )
            .remote(self._factory)
        )

    def _fly(self, job: Job, actor: Any, tries: int = 1) -> None:
        self._flights[actor.run.remote(job)] = _Flight(job, actor, time.monotonic(), tries)

    def _land(self, reference: Any) -> list[tuple[Job, Evaluation | Failure]]:
        """The job's result; none yet where its worker died and it is tried again."""
        flight = self._flights.pop(reference)
        try:
            result = ray.get(reference)
        except RayActorError as error:
            ray.kill(flight.actor)  # it may be out of reach and still at work
            if flight.tries <= RETRIES:
                self._fly(flight.job, self._actor(), flight.tries + 1)
                return []
            self._idle.append(self._actor())
            message = f"the worker died {flight.tries} times on this job."
            return [(flight.job, Failure("worker-died", message, str(error)[:2000]))]
        except (RayTaskError, RayError) as error:
            self._idle.append(flight.actor)
            message = str(error).splitlines()[-1]
            return [(flight.job, Failure("exception", message, str(error)[:2000]))]
        self._idle.append(flight.actor)
        if isinstance(result, RecyclerError):
            raise result
        return [(flight.job, result)]

    def _overdue(self) -> list[Any]:
        if self._timeout is None:
            return []
        limit = time.monotonic() - self._timeout
        return [ref for ref, flight in self._flights.items() if flight.since < limit]

    def _give_up(self, reference: Any) -> tuple[Job, Evaluation | Failure]:
        flight = self._flights.pop(reference)
        ray.kill(flight.actor)
        self._idle.append(self._actor())
        return flight.job, Failure("timeout", f"no scores after {self._timeout:g} s.")


def _given() -> dict[str, str]:
    """Variables of DEFAULTS that the user set otherwise."""
    return {name: os.environ[name] for name in DEFAULTS if name in os.environ}


def _import_path() -> str:
    """Folders that this process imports from, beyond the interpreter's own: workers need them too.

    Ray hands on the folder of the script and the current one only.
    """
    own = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))
    folders = [str(Path(entry).absolute()) for entry in sys.path if Path(entry).is_dir()]
    return os.pathsep.join(dict.fromkeys(f for f in folders if not f.startswith(own)))


def _connect(address: str, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _require_listening(address)
        options["address"] = address
    else:
        options |= {
            "num_cpus": max(workers, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": os.environ.get("RECYCLER_RAY_DIR")
            or f"{tempfile.gettempdir()}/recycler-ray",
        }
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address or "this machine", error) from error


def _require_listening(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # a word such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> NotFound:
    return NotFound(
        f"no Ray cluster can be reached at {address!r}: {error}.",
        hint="start one with `ray start --head`, or leave --ray-address out.",
    )
