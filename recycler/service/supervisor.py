"""Starts the processes of operations, within limits, and picks up what dead ones left.

All state is in the ledger: a new supervisor goes on where the last one was, and processes that its
predecessor started go on meanwhile.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recycler.errors import RecyclerError
from recycler.nouns.operation import Operation, OperationState
from recycler.service.config import SETTINGS, ServiceConfig
from recycler.service.kinds import HEAVY, LIGHT, accelerators
from recycler.store.operations import ATTEMPTS
from recycler.store.sql import SqlStore

EVERY = 0.5  # seconds between two looks at the queue
TAIL = 2000  # bytes of a log that an error quotes


class Supervisor:
    """Starts processes for the queue of one ledger.

    Args:
        store: the ledger.
        config: settings of the service; `config.store` is the ledger's URL.
    """

    def __init__(self, store: SqlStore, config: ServiceConfig) -> None:
        self._store, self._config = store, config
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: dict[int, int] = {}  # operation -> how its last process ended
        self._unclaimed: Counter[int] = Counter()  # operation -> processes that did not begin it
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        self.trouble = ""  # why the last look at the queue failed; empty if it did not

    def start(self) -> None:
        """Begin to look at the queue, in a thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def close(self) -> None:
        """Start no more processes. Those that run go on without the service."""
        self._over.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def log_of(self, id: int) -> Path:
        """The file with what the processes of an operation printed."""
        return self._config.log_folder / f"operation-{id}.log"

    def _keep(self) -> None:
        while not self._over.is_set():
            try:
                self.look()
                self.trouble = ""
            except (RecyclerError, OSError) as error:
                self.trouble = str(error)
            except Exception as error:  # the database is away; the next look may find it
                self.trouble = f"{type(error).__name__}: {error}"
            self._wake.wait(EVERY)
            self._wake.clear()

    def look(self) -> None:
        """Reap what has ended, put back what died, and start what has its turn."""
        operations = self._store.operations
        self._reap()
        operations.bury(self._why)
        running = operations.running()
        begun = {found.id for found in running} | self._children.keys()
        heavy = [found for found in running if found.kind in HEAVY]
        for kinds, most in (
            (HEAVY, self._config.limits.studies),
            (LIGHT, self._config.limits.operations),
        ):
            self._start_some(kinds, most, running, begun, heavy)

    def _reap(self) -> None:
        """Note how processes ended; one that ends before it begins its operation counts too."""
        for id, child in [*self._children.items()]:
            if child.poll() is None:
                continue
            del self._children[id]
            self._ended[id] = child.returncode
            if self._store.operations.get(id).state == OperationState.QUEUED and child.returncode:
                self._unclaimed[id] += 1
            if self._unclaimed[id] >= ATTEMPTS:
                self._store.operations.give_up(id, self._why(id))

    def _why(self, id: int) -> str:
        """How the last process of an operation ended, with the end of what it printed."""
        code, log = self._ended.get(id), self.log_of(id)
        how = "" if code is None else f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by signal {-code} ({signal.Signals(-code).name})"
        text = log.read_bytes()[-TAIL:].decode("utf-8", "replace") if log.exists() else ""
        last = [line.strip() for line in text.splitlines() if line.strip()][-3:]
        return " ".join([f"The last one ended {how}." if how else "", *last]).strip()

    def _start_some(
        self,
        kinds: Sequence[str],
        most: int,
        running: Sequence[Operation],
        begun: set[int],
        heavy: list[Operation],
    ) -> None:
        """Start the first waiting operations of some kinds; nobody overtakes in the same priority."""
        busy = {found.id for found in running if found.kind in kinds}
        waiting = self._store.operations.waiting(kinds, limit=most + len(begun) + 1)
        busy |= {found.id for found in waiting if found.id in begun}
        used = sum(accelerators(found.arguments) for found in heavy)
        for found in waiting:
            if found.id in begun:
                continue
            needed, there = accelerators(found.arguments), self._config.limits.accelerators
            if len(busy) >= most or (there is not None and needed and used + needed > there):
                return
            self._spawn(found.id)
            busy.add(found.id)
            begun.add(found.id)
            used += needed

    def _spawn(self, id: int) -> None:
        """Start the process of an operation; it outlives the service."""
        log = self.log_of(id)
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = {SETTINGS: self._config.model_dump_json()}
        with log.open("ab") as output:
            self._children[id] = subprocess.Popen(
                [sys.executable, "-m", "recycler.service.process", str(id)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **settings},
                start_new_session=True,
            )
