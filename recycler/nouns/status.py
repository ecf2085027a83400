"""The status of a study, the process that runs it, and what is requested of that process."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Status of a study.

    Attributes:
        NEW: submitted, never run.
        RUNNING: a live process holds its lease.
        PAUSED: halted by a fault of the environment or on request; a new run continues it.
        STOPPED: its process was stopped or died; a new run continues it.
        FAILED: too many candidates failed.
        COMPLETE: search, re-check and test are done.
    """

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    COMPLETE = "complete"


class Wanted(StrEnum):
    """Request to the process that runs a study; it finishes its running jobs first, except for NOW.

    Attributes:
        RUN: go on.
        PAUSE: finish the jobs in flight, then pause.
        STOP: finish the jobs in flight, then stop.
        NOW: stop at once; the jobs in flight are evaluated again when the study is resumed.
    """

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a study's lease.

    Attributes:
        pid: process id.
        host: host name.
        machine: identity of the kernel and process namespace in which `pid` is valid.
        started: start time of the process [s since 1970]; tells reused pids apart.
    """

    pid: int
    host: str
    machine: str
    started: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def from_json(cls, table: Mapping[str, object]) -> "Holder":
        return cls(**table)  # type: ignore[arg-type]
