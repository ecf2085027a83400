"""Progress of long work: a bar with ETA on a terminal or in a notebook, else a line now and then."""

import sys
import time
from html import escape
from importlib import import_module
from types import TracebackType
from typing import Any

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
from recycler.report.listing import duration

_NAMES = {
    "search": "searching",
    "select": "re-checking the finalists",
    "test": "reporting on test",
}
_EVERY = 5.0  # seconds between lines without a terminal


class _Notebook:
    """A bar in the output of a notebook's cell, changed in place; needs no widgets."""

    def __init__(self) -> None:
        self._tool = import_module("IPython.display")
        self._handles: dict[str, Any] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}

    def show(self, name: str, done: int, total: int, note: str) -> None:
        """Show the state of one phase, at most twice a second."""
        now = time.monotonic()
        begun, first = self._started.setdefault(name, (now, done))
        if done != total and now - self._said.get(name, 0.0) < 0.5:
            return
        self._said[name] = now
        rate = (done - first) / (now - begun) if now > begun else 0.0
        left = f", ETA {duration((total - done) / rate)}" if rate > 0 and done < total else ""
        line = f"{name}: {done}/{total}, {now - begun:.0f} s{left}{f' ({note})' if note else ''}"
        mark = f'<progress value="{done}" max="{max(total, 1)}"></progress> {escape(line)}'
        content = {"text/html": f"<div>{mark}</div>", "text/plain": line}
        if name not in self._handles:
            self._handles[name] = self._tool.display(content, raw=True, display_id=True)
        else:
            self._handles[name].update(content, raw=True)


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
        self._page = _Notebook() if self._console.is_jupyter and not quiet else None
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
        notes = []
        if progress.trial is not None:
            failure = progress.trial.failure
            notes.append(progress.trial.name + (f" failed: {failure.kind}" if failure else ""))
        if progress.remaining_gain is not None:
            notes.append(f"next {AHEAD} evaluations: {progress.remaining_gain:+.1%} expected")
        if progress.total:
            self._show(_NAMES[progress.phase], progress.done, progress.total, "; ".join(notes))

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
        if self._page:
            self._page.show(name, done, total, note)
            return
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
        eta = f", ETA {duration((total - done) / rate)}" if rate > 0 and done < total else ""
        sys.stderr.write(f"{name}: {done}/{total}{eta}{f' ({note})' if note else ''}\n")
        sys.stderr.flush()
