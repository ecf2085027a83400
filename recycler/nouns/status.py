"""Where a study stands, and what is wanted of the process that runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where a study stands.

    Attributes:
        NEW: submitted, never run.
        RUNNING: a live process holds its lease.
        PAUSED: halted by a fault of the environment, or on request; running it again goes on.
        STOPPED: its process was stopped or died; running it again goes on.
        FAILED: too many candidates failed.
        COMPLETE: searched, re-checked and reported.
    """

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    COMPLETE = "complete"


class Wanted(StrEnum):
    """What another process asks of the one that runs a study; jobs in flight are finished first."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a study's lease.

    Attributes:
        pid: process id.
        host: name of its machine.
        machine: identity of its kernel and process namespace: pids can be compared within it only.
        started: when the process started [s since 1970]; pids are used again.
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
