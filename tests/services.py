"""A real service: `recycler serve` in a process of its own, and a client that waits for operations."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import yaml

ENDED = ("done", "failed", "cancelled")


class Service:
    """A server process on a free port; it can be killed and started again on another port."""

    def __init__(self, root: Path, store: str, **settings: Any) -> None:
        self.root, self.store = root, store
        self.file = root / "service.yaml"
        given = {
            "port": 0,
            "store": store,
            "checkpoints": [str(root)],
            "exports": str(root / "exports"),
            "limits": {"requests": 10_000.0, **settings.pop("limits", {})},
            **settings,
        }
        self.file.write_text(yaml.safe_dump(given), encoding="utf-8")
        self.said: list[str] = []
        self.start()

    def start(self) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-m", "recycler", "serve", "--config", str(self.file)]
        self.process = subprocess.Popen(
            command,
            cwd=self.root,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        line = self.process.stderr.readline()
        found = re.search(r"http://\S+?:(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.url = f"http://127.0.0.1:{found[1]}"
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.http = httpx2.Client(
            base_url=f"{self.url}/api/v1", headers={"X-Recycler": "test"}, timeout=60
        )

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)

    def kill(self) -> None:
        """End the process without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.http.close()
        self._listener.join()
        self.process.stderr.close()

    def close(self) -> None:
        """End the process, and the operations that it left."""
        if self.process.poll() is None:
            try:
                for operation in self.get("operations")["operations"]:
                    if operation["state"] not in ENDED:
                        self.http.delete(f"operations/{operation['id']}")
            except httpx2.HTTPError:
                pass
            self.process.terminate()
            self.process.wait(30)
        self.http.close()
        self._listener.join()
        self.process.stderr.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a route that has to answer with 200."""
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    def post(self, path: str, status: int = 202, **body: Any) -> Any:
        """Send JSON to a route that has to answer with a status."""
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, (path, answer.text)
        return answer.json()

    def wait(self, operation: dict[str, Any] | int, limit: float = 120) -> dict[str, Any]:
        """The operation once it has ended."""
        id = operation if isinstance(operation, int) else operation["id"]
        until = time.monotonic() + limit
        while time.monotonic() < until:
            found = self.get(f"operations/{id}")
            if found["state"] in ENDED:
                return found
            time.sleep(0.1)
        raise AssertionError(
            f"operation {id} is {found['state']}: {self.get(f'operations/{id}/log')}"
        )

    def done(self, operation: dict[str, Any] | int, limit: float = 120) -> Any:
        """The result of an operation that has to succeed."""
        found = self.wait(operation, limit)
        assert found["state"] == "done", found["error"]
        return found["result"]
