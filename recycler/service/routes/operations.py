"""Routes of operations: the queue, one operation, its log, its end."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from recycler.nouns.operation import OperationState
from recycler.service.problems import responses
from recycler.service.state import By, Here, Id

router = APIRouter(prefix="/operations", tags=["operations"], responses=responses(404, 409))
TAIL = 64_000  # bytes of a log that are returned


@router.get("")
def list_operations(
    service: Here,
    state: Annotated[list[OperationState] | None, Query()] = None,
    kind: Annotated[list[str] | None, Query()] = None,
    subject: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> dict[str, Any]:
    """List operations, the newest first."""
    found = service.store.operations.listed(
        state or (), kinds=kind or (), subject=subject, limit=limit, before=before
    )
    last = found[-1].id if len(found) == limit else None
    return {"operations": [operation.to_json() for operation in found], "next": last}


@router.get("/{id}")
def show(service: Here, id: Id) -> dict[str, Any]:
    """Show one operation: state, progress, result or error."""
    return service.store.operations.get(id).to_json()


@router.delete("/{id}")
def cancel(service: Here, by: By, id: Id) -> dict[str, Any]:
    """Cancel an operation: at once if it waits, else its process ends soon."""
    return service.store.operations.cancel(id).to_json()


@router.get("/{id}/log")
def log(service: Here, id: Id) -> dict[str, Any]:
    """Return the end of what the processes of an operation printed."""
    service.store.operations.get(id)
    file = service.supervisor.log_of(id)
    if not file.exists():
        return {"operation": id, "text": "", "bytes": 0}
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - TAIL))
        text = opened.read(TAIL).decode("utf-8", "replace")
    return {"operation": id, "text": text, "bytes": size}
