"""A watched study on a terminal: one snapshot, renewed in place while the study runs."""

import sys
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from recycler.front.stages import AHEAD
from recycler.nouns.plan import Plan
from recycler.report.listing import duration
from recycler.report.numbers import headed
from recycler.report.text import console
from recycler.watching import Snapshot, Watcher

_BLOCKS = "▁▂▃▄▅▆▇█"
_POINTS = 60  # characters of the sparkline
_COLOURS = {"running": "green", "complete": "green", "failed": "red"}


def follow(watcher: Watcher, interval: float, once: bool = False) -> Snapshot:
    """Show a study until no process runs it; one snapshot with `once` or without a terminal.

    Ctrl-C ends the watching; the run goes on.

    Args:
        watcher: of the study.
        interval: seconds between two looks.
        once: show one snapshot.

    Returns:
        The last snapshot.
    """
    out, snapshot = console(), watcher.look()
    if once or not out.is_terminal or snapshot.is_over:
        out.print(shown(snapshot, watcher.plan, out))
        return snapshot
    try:
        with Live(shown(snapshot, watcher.plan, out), console=out, auto_refresh=False) as live:
            while not snapshot.is_over:
                time.sleep(interval)
                snapshot = watcher.look()
                live.update(shown(snapshot, watcher.plan, out), refresh=True)
    except KeyboardInterrupt:
        sys.stderr.write(f"no longer watching; study {snapshot.study!r} goes on\n")
    return snapshot


def shown(snapshot: Snapshot, plan: Plan, out: Console) -> RenderableType:
    """One snapshot as text."""
    parts: list[RenderableType] = [_head(snapshot)]
    if out.is_terminal and snapshot.alive:
        parts.append(ProgressBar(max(1, snapshot.total), snapshot.done, width=_POINTS))
    parts.append(Text(_work(snapshot)))
    if snapshot.waiting:
        parts.append(Text(f"waiting to try again: {snapshot.waiting}", style="yellow"))
    if snapshot.hypervolume:
        line = (
            f"hypervolume  {sparkline(snapshot.hypervolume)}  {snapshot.hypervolume[-1]:.4g} (dev)"
        )
        parts.append(Text(line))
    if snapshot.latest:
        parts.append(_table(snapshot, plan))
    for failure in snapshot.failures:
        who = f"trial {failure['trial']} ({failure['name']})"
        said = f"{who} failed: {failure['kind']}: {failure['message']}"
        parts.append(Text(said, style="red"))
    if snapshot.pick:
        parts.append(Text(_pick(snapshot)))
    return Group(*parts)


def sparkline(values: tuple[float, ...], width: int = _POINTS) -> str:
    """Values as bars of eighths, from the least to the largest; long ones are thinned out evenly."""
    if len(values) > width:
        values = tuple(values[round(i * (len(values) - 1) / (width - 1))] for i in range(width))
    low, high = min(values), max(values)
    span = high - low
    return "".join(_BLOCKS[round(7 * (v - low) / span) if span > 0 else 0] for v in values)


def _head(s: Snapshot) -> Text:
    text = Text(s.study, style="bold")
    text.append(f"  {s.status}", style=_COLOURS.get(s.status, "yellow"))
    if s.message:
        text.append(f" ({s.message})", style="not bold")
    text.append(f"  {s.phase} {s.done}/{s.total}", style="not bold")
    if s.eta is not None:
        text.append(f"  ETA {duration(s.eta)}", style="not bold")
    if s.holder:
        text.append(f"  {s.holder}", style="not bold dim")
    return text


def _work(s: Snapshot) -> str:
    """Jobs in flight, rate, budget and expected gain in one line."""
    words = [f"{s.busy} in flight"] if s.alive else ["nothing in flight"]
    if s.alive and s.rate is not None:
        words.append(f"{s.rate:,.0f} items/s")
    words.append(f"budget {s.spent} of {s.budget}")
    words += [f"{s.counts[state]} {state}" for state in ("pruned", "failed") if s.counts[state]]
    if s.remaining_gain is not None:
        words.append(f"next {AHEAD} evaluations: {s.remaining_gain:+.1%} hypervolume expected")
    return ", ".join(words)


def _table(s: Snapshot, plan: Plan) -> Table:
    """The latest trials with their dev scores."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("merge", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for objective in plan.objectives.searched:
        table.add_column(Text(headed(objective)), justify="right")
    for row in s.latest:
        scores = [row["scores"].get(o.name) for o in plan.objectives.searched]
        cells = (str(row["trial"]), row["name"], row["state"])
        values = ("" if score is None else f"{score:.4f}" for score in scores)
        table.add_row(*(Text(cell) for cell in (*cells, *values)))
    return table


def _pick(s: Snapshot) -> str:
    pick = s.pick or {}
    scores = ", ".join(f"{name} {value:.4f}" for name, value in pick["scores"].items())
    what = "keep" if pick["kept"] else "take"
    why = "no merge is expected to be better, " if pick["kept"] else ""
    by = "expected average" if pick["expected"] else "average of the scores"
    return (
        f"pick so far: {what} trial {pick['trial']} ({pick['name']}): {scores} "
        f"({why}by {by} on {pick['basis']} items)"
    )
