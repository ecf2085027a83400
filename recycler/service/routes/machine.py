"""Routes that tell about the machine and the service, for people and for Prometheus."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from recycler.service.state import Here, Service

router = APIRouter(tags=["service"])
STARTED = time.time()


@router.get("/machine")
def machine(service: Here) -> dict[str, Any]:
    """Tell what the machine has: cores, memory, disks, accelerators, and what the service takes."""
    memory, disk = psutil.virtual_memory(), _disk(Path(service.config.exports))
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "memory": {"total": memory.total, "free": memory.available},
        "disk": {"path": service.config.exports, "total": disk.total, "free": disk.free},
        "accelerators": accelerators(),
        "ray_address": service.config.ray_address,
        "limits": service.config.limits.model_dump(),
        "operations": service.store.operations.counts(),
        "service": {
            "memory": psutil.Process().memory_info().rss,
            "uptime": time.time() - STARTED,
            "trouble": service.supervisor.trouble,
        },
    }


def accelerators() -> list[str]:
    """Models of the GPUs that the driver lists; needs neither torch nor a tool."""
    found = []
    for about in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = about.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
    return found


def _disk(path: Path) -> Any:
    """Space of the disk that a folder is on, or would be on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path)


@router.get("/metrics", response_class=Response)
def metrics(service: Here) -> Response:
    """Return the metrics of the service, for Prometheus."""
    return Response(text(service), media_type="text/plain; version=0.0.4; charset=utf-8")


def text(service: Service) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    operations = Gauge("recycler_operations", "Operations by state", ["state"], registry=registry)
    for state, count in service.store.operations.counts().items():
        operations.labels(state).set(count)
    studies = Gauge("recycler_studies", "Studies by status", ["status"], registry=registry)
    trials = Gauge("recycler_trials", "Trials by state", ["state"], registry=registry)
    for row in service.store.studies():
        studies.labels(row["status"]).inc()
        for state in ("running", "complete", "pruned", "failed"):
            trials.labels(state).inc(row[state])
    memory = Gauge("recycler_service_memory_bytes", "Memory of the service", registry=registry)
    memory.set(psutil.Process().memory_info().rss)
    return generate_latest(registry)
