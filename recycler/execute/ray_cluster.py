"""A connection to Ray: to a cluster started here, one at an address, or the one the user started."""

import fcntl
import logging
import math
import os
import secrets
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
)

from recycler.errors import Conflict, InvalidConfig, NotFound

STORE_BYTES = 100_000_000  # object store: only weight vectors and scores pass through it
_PREFIX = "recycler-ray-"
_LONGEST = 38  # length of Ray's folder name: the path of a UNIX socket below it may have 107 bytes
_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


class Cluster:
    """Connects when it is made; `close` undoes exactly that."""

    def __init__(self, address: str, workers: int) -> None:
        """Use this process's connection, else connect to the address, else start Ray here.

        Args:
            address: of an existing cluster, such as `10.0.0.1:6379`. If empty, a cluster is
                started on this machine in a folder and with a token of its own, so that two
                studies on one machine do not meet. Nothing of it remains afterwards.
            workers: minimum number of processors of a cluster started here.

        Raises:
            NotFound: there is no cluster at that address.
            Conflict: this process is connected to another one.
        """
        self._folder: Path | None = None
        self._lock: int | None = None
        self._before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
        self._connected = not ray.is_initialized()
        if not self._connected:
            _require_same(address)
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address:
                _require_listening(address)
                ray.init(address=address, **options)
            else:
                ray.init(**options, **self._local(workers))
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            self.close()
            raise _unreachable(address or "this machine", error) from error

    def places(self, gpus: float) -> int:
        """How many workers with one CPU and these GPUs fit on the nodes, if all nodes are empty."""
        found = 0
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            have = node["Resources"] if node["Alive"] else {}
            fit = have.get("CPU", 0.0)
            if gpus:
                each = math.floor(1 / gpus + 1e-9) if gpus <= 1 else 1 / gpus
                fit = min(fit, have.get("GPU", 0.0) * each)
            found += math.floor(fit + 1e-9)
        return found

    def require_place(self, workers: int, gpus: float) -> int:
        """How many of the workers fit: all of them, or fewer with a warning.

        Raises:
            InvalidConfig: no node has room for a single worker.
        """
        places = self.places(gpus)
        asked = f"each of the {workers} workers asks for 1 CPU" + (
            f" and {gpus:g} GPU" if gpus else ""
        )
        if places == 0:
            raise InvalidConfig(
                f"{asked}; no node has that: {self.resources()}.",
                hint="lower `execution.gpus`, or add a node with these resources.",
            )
        if places < workers:
            logging.getLogger("recycler").warning(
                "%s; %d fit, and the study runs with those (%s).", asked, places, self.resources()
            )
        return min(places, workers)

    def resources(self) -> str:
        """Total and free resources of the cluster, as text."""
        whole = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        parts = [
            f"{free.get(k, 0.0):g} of {whole.get(k, 0.0):g} {k}s free" for k in ("CPU", "GPU")
        ]
        return f"the cluster has {' and '.join(parts)}"

    def close(self) -> None:
        """Disconnect, stop what was started here and remove its folder."""
        if self._connected:
            ray.shutdown(wait_for_processes=True)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
            for name, value in self._before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            _forget_token()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _local(self, workers: int) -> dict[str, Any]:
        """Options for a cluster on this machine.

        The token is only in this process's environment: Ray would write one into the home folder,
        readable for everyone. `local`, because Ray would otherwise join any cluster that runs
        here.
        """
        named = os.environ.get("RECYCLER_RAY_DIR") or tempfile.gettempdir()
        parent = Path(named if len(named) + len(_PREFIX) + 8 <= _LONGEST else "/tmp")
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if not any(os.environ.get(n) for n in (_MODE, _TOKEN, "RAY_AUTH_TOKEN_PATH")):
            os.environ[_TOKEN] = secrets.token_hex(32)
            AuthenticationTokenLoader.instance().reset_cache()
        return {
            "address": "local",
            "num_cpus": max(workers, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": str(self._folder),
        }


def _forget_token() -> None:
    """Clear Ray's cached token and mode; this process's next connection may need others."""
    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


def _sweep(parent: Path) -> None:
    """Remove folders of killed runs: nobody holds their lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or already gone
            handle = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _require_same(address: str) -> None:
    """Raise Conflict if this process is connected to another address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or address.startswith("ray://"):
        return
    have = ray.get_runtime_context().gcs_address
    with suppress(OSError):
        host = socket.gethostbyname(host)
    if f"{host}:{port}" != have:
        raise Conflict(
            f"this process is connected to the Ray cluster at {have}, and the study asks for the "
            f"one at {address}.",
            hint="call `ray.shutdown()` first, or leave the address out to use that connection.",
        )


def _require_listening(address: str) -> None:
    """Refuse an address where nothing listens; Ray would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # a word such as "auto"
    socket.create_connection((host, int(port)), timeout=5.0).close()


def _unreachable(address: str, error: Exception) -> NotFound:
    return NotFound(
        f"no Ray cluster can be reached at {address!r}: {error}.",
        hint="start one with `ray start --head`, or leave --ray-address out.",
    )
