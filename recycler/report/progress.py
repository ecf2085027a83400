"""Progress of long work on standard error: a bar with ETA on a terminal, else a line now and then."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from recycler.front.stages import AHEAD
from recycler.loop import Progress as Step

_NAMES = {
    "search": "searching",
    "select": "re-checking the finalists",
    "test": "reporting on test",
}
_EVERY = 5.0  # seconds between lines without a terminal


class ProgressBar:
    """Shows the progress of a run and of fingerprinting; a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        """With `quiet`, prints nothing."""
        self._console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._moved: dict[str, tuple[float, int]] = {}  # for bytes: when they began, how many
        self._ended: set[str] = set()
        self._said = 0.0
        self._lines = not self._console.is_terminal and not quiet

    def __enter__(self) -> "ProgressBar":
        if not self._lines:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._lines:
            self._bar.stop()

    def step(self, progress: Step) -> None:
        """One event of a run."""
        if progress.said:
            self._console.print(progress.said, markup=False, highlight=False, soft_wrap=True)
        note = ""
        if progress.trial is not None:
            failure = progress.trial.failure
            note = f"{progress.trial.name}" + (f" failed: {failure.kind}" if failure else "")
        if progress.remaining_gain is not None:
            note += f"; next {AHEAD} evaluations: {progress.remaining_gain:+.1%} expected"
        self._show(_NAMES[progress.phase], progress.done, progress.total, note)

    def timing(self, done: int, total: int) -> None:
        """Another measurement of a bill is done."""
        self._show("timing", done, total, "")

    def answered(self, name: str, done: int, total: int) -> None:
        """One more of all answers to prompts was made."""
        self._show("answering", done, total, name)

    def bytes_read(self, name: str, count: int, total: int) -> None:
        """Fingerprinting has read more bytes of a checkpoint."""
        self.bytes_moved(f"fingerprint {name}", count, total)

    def bytes_moved(self, key: str, count: int, total: int) -> None:
        """More of `total` bytes were read or written."""
        known = key in self._moved
        begun, before = self._moved.get(key, (time.monotonic(), 0))
        self._moved[key] = begun, before + count
        if total > 50_000_000 and known:  # small ones end before anyone could read the bar
            seconds = max(time.monotonic() - begun, 1e-3)
            rate = (before + count) / seconds / (1 << 20)
            self._show(key, before + count >> 20, total >> 20, f"MiB, {rate:,.0f} MiB/s")

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        if not self._lines:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(name, total=total, note="")
            self._bar.update(self._tasks[name], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        begun, at_start = self._started.setdefault(name, (now, done))
        if name in self._ended or (now - self._said < _EVERY and done != total):
            return
        self._said = now
        if note.startswith("MiB") and done == total:  # the last bytes arrive in several pieces
            self._ended.add(name)
        rate = (done - at_start) / (now - begun) if now > begun else 0.0
        eta = f", ETA {(total - done) / rate:.0f} s" if rate > 0 and done < total else ""
        sys.stderr.write(f"{name}: {done}/{total}{eta}{f' ({note})' if note else ''}\n")
        sys.stderr.flush()
