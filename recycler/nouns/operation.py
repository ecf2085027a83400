"""Operations: long work that a service does for a user, in a process of its own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class OperationState(StrEnum):
    """State of an operation.

    Attributes:
        QUEUED: waits for its turn; after a killed process also for another attempt.
        RUNNING: a process works on it.
        DONE: ended with a result.
        FAILED: ended with an error.
        CANCELLED: ended on request, without a result.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (OperationState.QUEUED, OperationState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation as the ledger has it.

    Attributes:
        id: its number, in the order of arrival.
        kind: what is done, such as `run` or `export` (see `service.work`).
        subject: the study or pool that it concerns.
        arguments: arguments of that kind, as JSON data.
        state: see `OperationState`.
        priority: larger goes first.
        owner: who asked for it.
        created: when it was asked for (ISO 8601, UTC).
        started: when a process began its last attempt; None before.
        ended: when it ended; None while it is open.
        attempts: number of processes that began it.
        progress: what the process told last, such as `{"done", "total", "text"}`.
        result: what it returned, once it is done.
        error: `{"error", "hint", "code"}`, once it has failed.
        alive: whether a living process works on it.
        cancel: whether it is asked to end.
    """

    id: int
    kind: str
    subject: str
    arguments: Mapping[str, Any]
    state: OperationState
    priority: int = 0
    owner: str = ""
    created: str = ""
    started: str | None = None
    ended: str | None = None
    attempts: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    alive: bool = False
    cancel: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it will still change."""
        return self.state in OPEN

    def to_json(self) -> dict[str, Any]:
        """The operation as JSON data."""
        return {**asdict(self), "state": str(self.state)}
