"""Operations of a service, and waiting for their end while the server may go and come back."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from recycler.client.transport import error_of
from recycler.errors import Conflict, Unavailable
from recycler.nouns.operation import Operation, OperationState

Found = TypeVar("Found")
OnProgress = Callable[[Operation], object]
SLOWER, SLOWEST = 1.2, 10.0  # growth of the time between two looks, and its limit as a factor


def operation_of(table: Mapping[str, Any]) -> Operation:
    """The operation that a service sent; fields that are unknown here are left out."""
    known = {key: value for key, value in table.items() if key in Operation.__dataclass_fields__}
    return Operation(**{**known, "state": OperationState(table["state"])})


def wait(
    look: Callable[[], Operation], on_progress: OnProgress, every: float, patience: float
) -> Operation:
    """Look at an operation until it is done (see `Client.wait`)."""
    pause = every
    while True:
        found = patient(look, patience)
        on_progress(found)
        if not found.is_open:
            return _ended(found)
        time.sleep(pause)
        pause = min(pause * SLOWER, every * SLOWEST)


def patient(look: Callable[[], Found], patience: float, every: float = 2.0) -> Found:
    """What `look` returns; while the server is away it is asked again.

    Raises:
        Unavailable: the server is away for longer than `patience` seconds.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return look()
        except Unavailable:
            if time.monotonic() + every > until:
                raise
            time.sleep(every)


def _ended(found: Operation) -> Operation:
    if found.state == OperationState.FAILED:
        raise error_of(found.error or {"error": f"operation {found.id} failed."})
    if found.state == OperationState.CANCELLED:
        raise Conflict(
            f"operation {found.id} ({found.kind} {found.subject}) was cancelled.",
            hint="ask for it again.",
        )
    return found
