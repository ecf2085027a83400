"""Routes that say whether the service works."""

from typing import Any

import psutil
from fastapi import APIRouter

from recycler import __version__
from recycler.errors import Unavailable
from recycler.service.state import Here

router = APIRouter(tags=["service"])


@router.get("/health")
def health() -> dict[str, Any]:
    """Say that the process answers."""
    memory = psutil.Process().memory_info().rss / 2**20
    return {"status": "ok", "version": __version__, "memory_mib": round(memory, 1)}


@router.get("/ready")
def ready(service: Here) -> dict[str, Any]:
    """Say whether the ledger answers and the queue is served; 503 if not."""
    counts = service.store.operations.counts()
    if service.supervisor.trouble:
        raise Unavailable(
            f"the queue can't be served: {service.supervisor.trouble}.",
            hint="check the ledger and the disk; the service goes on by itself.",
        )
    return {"status": "ready", "operations": counts}
