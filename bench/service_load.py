"""Load on the service: 200 event streams and 50 requests a second over a ledger of 5,000 trials.

    python bench/service_load.py [--trials 5000] [--streams 200] [--rate 50] [--seconds 60]

Starts `recycler serve` on a free port of this machine, over a ledger made by bench/large_study.py.
Meanwhile a process holds the study and ends a trial every two seconds, so that the streams have
something to tell. Prints p50, p95 and the longest time of each route, the events received, and the
memory of the service at the start and at the end. Exit code 1 if p95 is above 200 ms, a request
failed, or memory grew by more than a tenth in the second half.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from large_study import large
from machine import machine

from recycler.nouns.status import Status, Wanted

ROUTES = (
    "/api/v1/studies",
    "/api/v1/studies/{s}",
    "/api/v1/studies/{s}/trials?limit=50",
    "/api/v1/studies/{s}/trials?limit=50&sort=-number",
    "/api/v1/studies/{s}/trials/17",
    "/api/v1/studies/{s}/front",
    "/api/v1/operations",
    "/api/v1/health",
)


class Wire:
    """One HTTP/1.1 connection that is kept open; as little work as possible for the client."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Send one request and read its answer."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept: */*\r\n\r\n"
        self.writer.write(head.encode())
        return await self._answer()

    async def _answer(self) -> tuple[int, bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(lines[0].split()[1])
        heads = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        if "content-length" in heads:
            return status, await self.reader.readexactly(int(heads["content-length"]))
        parts = []
        while size := int((await self.reader.readline()).strip(), 16):
            parts.append(await self.reader.readexactly(size + 2))
        await self.reader.readexactly(2)
        return status, b"".join(parts)


async def listen(port: int, path: str, until: float, counts: list[int]) -> None:
    """Follow one event stream, counting its events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(head.encode())
    seen = 0
    try:
        while (left := until - time.monotonic()) > 0:
            line = await asyncio.wait_for(reader.readline(), left)
            if not line:
                break
            seen += line.startswith(b"event:")
    except TimeoutError:
        pass
    counts.append(seen)
    writer.close()


async def ask(
    port: int, rate: float, until: float, study: str, times: dict[str, list[float]]
) -> int:
    """Send requests at a fixed rate, whatever the answers take; returns how many failed."""
    idle: list[Wire] = []
    failed, tasks, number = 0, set(), 0

    async def one(route: str) -> None:
        nonlocal failed
        wire, begun = idle.pop() if idle else Wire(port), time.perf_counter()
        status, _ = await wire.get(route.replace("{s}", study))
        times.setdefault(route, []).append(time.perf_counter() - begun)
        failed += status != 200
        idle.append(wire)

    begun = time.monotonic()
    while time.monotonic() < until:
        task = asyncio.create_task(one(ROUTES[number % len(ROUTES)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
    await asyncio.gather(*tasks)
    return failed


def serve(url: str, folder: Path) -> tuple[subprocess.Popen, int]:
    """Start the service on a free port."""
    command = [sys.executable, "-m", "recycler", "--store", url, "serve", "--port", "0"]
    settings = folder / "service.yaml"
    settings.write_text("limits: {requests: 100000}\n", encoding="utf-8")
    process = subprocess.Popen(
        [*command, "--config", str(settings)], stderr=subprocess.PIPE, text=True, cwd=folder
    )
    line = process.stderr.readline()
    return process, int(re.search(r"http://\S+:(\d+)", line)[1])


def writer(url: str, study: str) -> subprocess.Popen:
    """A process that holds the study and ends a trial every two seconds."""
    code = f"from service_load import write; write({url!r}, {study!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)


def write(url: str, study: str) -> None:
    """Hold a study and add one trial every two seconds, until the process is ended."""
    from large_study import one_more

    from recycler.store.sql import SqlStore

    store = SqlStore(url)
    with store.hold(study) as lease:
        store.set_status(study, Status.RUNNING)
        while lease.wanted is Wanted.RUN:
            one_more(store)
            time.sleep(2.0)


async def load(port: int, process: psutil.Process, given: argparse.Namespace, study: str) -> dict:
    """Put the load on, and measure."""
    until = time.monotonic() + given.seconds
    times: dict[str, list[float]] = {}
    counts: list[int] = []
    memory: list[float] = []

    async def watch() -> None:
        while time.monotonic() < until:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1.0)

    path = f"/api/v1/studies/{study}/events"
    streams = [listen(port, path, until, counts) for _ in range(given.streams)]
    failed, *_ = await asyncio.gather(
        ask(port, given.rate, until, study, times), watch(), *streams
    )
    return {"times": times, "events": counts, "memory": memory, "failed": failed}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url, study = large(folder, given.trials, rechecked=False), "large"
        process, port = serve(url, folder)
        hand = writer(url, study)
        try:
            asyncio.run(warm(port, study))
            found = asyncio.run(load(port, psutil.Process(process.pid), given, study))
        finally:
            hand.kill()
            process.terminate()
            process.wait()
    return report(found, given)


async def warm(port: int, study: str) -> None:
    """Ask every route once: the first reading of a ledger is measured elsewhere."""
    wire = Wire(port)
    for route in ROUTES:
        status, body = await wire.get(route.replace("{s}", study))
        if status != 200:
            raise SystemExit(f"{route}: {status} {body[:300]!r}")


def report(found: dict, given: argparse.Namespace) -> int:
    """Print the table; exit code 1 if a bar is missed."""
    print(
        f"{machine()}; {given.trials} trials, {given.streams} streams, {given.rate:g} requests/s"
    )

    def at(values: list[float], share: float) -> float:
        return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))]

    every = [t for values in found["times"].values() for t in values]
    print(f"{'route':52} {'n':>5} {'p50 ms':>8} {'p95 ms':>8} {'max ms':>8}")
    for route, values in [*found["times"].items(), ("all", every)]:
        print(
            f"{route:52} {len(values):5} {at(values, 0.5):8.1f} {at(values, 0.95):8.1f} "
            f"{1000 * max(values):8.1f}"
        )
    events, memory = found["events"], found["memory"]
    half = memory[len(memory) // 2]
    print(f"events per stream: {min(events)} to {max(events)}; failed requests: {found['failed']}")
    print(
        f"memory: {memory[0]:.0f} MiB at the start, {half:.0f} half way, {memory[-1]:.0f} at the end"
    )
    missed = at(every, 0.95) > 200 or found["failed"] or memory[-1] > 1.1 * half
    print(json.dumps({"p95_ms": at(every, 0.95), "missed": bool(missed)}))
    return int(bool(missed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
