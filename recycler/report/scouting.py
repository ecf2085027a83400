"""Scouting on a terminal and as JSON."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recycler.front.scouting import Scouting, Task
from recycler.front.tradeoffs import FEWEST, REAL, Tradeoff
from recycler.report.text import console

SHOWN = 8  # trade-offs that are printed; --json has all
_NAME = 24  # longest name of a checkpoint


def scouting(found: Scouting, out: Console | None = None) -> None:
    """Print scores, correlations, trade-offs, weak tasks, checkpoints and the proposal."""
    out = out or console()
    for table in _scores(found, out.width):
        out.print(table)
    out.print(
        "* best of its column; ± is one standard error. Spread is the standard deviation of the "
        "checkpoints,\nerror what it would be if all were equally good. These scores are kept: "
        "`recycler run` does not pay for them again.",
        markup=False,
    )
    for name, why in found.failed.items():
        out.print(f"NOT SCORED: {name}: {why}", style="bold red", markup=False)
    _print_correlations(found, out)
    for line in [*_tradeoffs(found), *remarks(found)]:
        out.print(line, markup=False)
    out.print(proposal(found), style="bold", markup=False)


def _table(title: str) -> Table:
    return Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _scores(found: Scouting, width: int) -> Iterator[Table]:
    """One table of scores, or several side by side in blocks that fit the terminal."""
    cells = [_column(found, j) for j in range(len(found.tasks))]
    names = [_short(name) for name in found.names]
    left = width - max(map(len, [*names, "checkpoint"])) - 2
    for block in _blocks([max(map(len, column)) + 2 for column in cells], left):
        table = _table(f"{found.study}: single checkpoints on dev items")
        table.add_column("checkpoint", no_wrap=True)
        for j in block:
            table.add_column(Text(cells[j][0]), justify="right", no_wrap=True)
        table.add_row("", *(Text(found.tasks[j].role, style="dim") for j in block))
        for i, name in enumerate(names, start=1):
            table.add_row(Text(name), *(_best(cells[j][i]) for j in block))
        table.add_section()
        for row, label in ((-2, "spread"), (-1, "error")):
            table.add_row(label, *(Text(cells[j][row]) for j in block))
        yield table


def _column(found: Scouting, j: int) -> list[str]:
    """Head, scores, spread and error of one task."""
    task, digits = found.tasks[j], 3
    arrow = "↑" if task.objective.direction == "max" else "↓"
    body = [
        f"{'*' if i == found.best[j] else ''}{score:.{digits}f}"
        + ("" if task.errorless else f" ± {error:.{digits}f}")
        for i, (score, error) in enumerate(
            zip(found.scores[:, j], found.errors[:, j], strict=True)
        )
    ]
    return [f"{task.name} {arrow}", *body, *(f"{x:.{digits}f}" for x in _resolution(task))]


def _resolution(task: Task) -> tuple[float, float]:
    return task.resolution.spread, task.resolution.error


def _best(cell: str) -> Text:
    return Text(cell, style="bold" if cell.startswith("*") else "")


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _blocks(widths: Sequence[int], left: int) -> Iterator[range]:
    """Consecutive columns that fit into `left` characters; at least one at a time."""
    start = 0
    while start < len(widths):
        fitting = max(1, sum(used <= left for used in accumulate(widths[start:])))
        yield range(start, min(start + fitting, len(widths)))
        start += fitting


def _print_correlations(found: Scouting, out: Console) -> None:
    """Print the matrix with its intervals, or why there is none."""
    n, tasks = len(found.compared), found.tasks
    if found.left_out:
        out.print(
            f"Left out of the correlations: {', '.join(found.left_out)}; every other checkpoint is "
            "better at every task.",
            markup=False,
        )
    if n < FEWEST:
        out.print(f"{n} checkpoints are too few to correlate tasks; it takes {FEWEST}.")
        return
    if len(tasks) < 2:
        out.print("One task has nothing to trade; list more under `candidates:`.", markup=False)
        return
    names = max(len(task.name) for task in tasks)
    for block in _blocks([max(len(t.name), 14) + 2 for t in tasks], out.width - names - 2):
        table = _table(
            f"rank correlations of the tasks over {n} checkpoints (Spearman), 95 % intervals"
        )
        table.add_column("", no_wrap=True)
        for j in block:
            table.add_column(Text(tasks[j].name), justify="right", no_wrap=True)
        for i, task in enumerate(tasks):
            table.add_row(Text(task.name), *(_correlation(found, i, j) for j in block))
        out.print(table)


def _correlation(found: Scouting, i: int, j: int) -> Text:
    value = found.correlations[i, j]
    if i == j:
        return Text("1", style="dim")
    if not math.isfinite(value):
        return Text("no spread", style="dim")
    low, high = found.low[i, j], found.high[i, j]
    if not math.isfinite(low):
        return Text(f"{value:+.2f}\nerror unknown")
    style = "bold red" if high < 0 else ""
    return Text(f"{value:+.2f}\n{low:+.2f} … {high:+.2f}", style=style)


def _tradeoffs(found: Scouting) -> Iterator[str]:
    """Lines for the trade-offs, strongest first."""
    shown = [t for t in found.tradeoffs if t.probability >= 0.5][:SHOWN]
    if len(found.compared) < FEWEST or len(found.tasks) < 2:
        return
    useful = sum(task.useful for task in found.tasks)
    if useful < 2:
        yield (
            f"No trade-off: {useful} of {len(found.tasks)} tasks can guide a search; it takes two. "
            "The others are named below, with the reason."
        )
        return
    if not shown:
        yield "No trade-off: no two useful tasks rank these checkpoints in opposite orders."
        return
    yield f"Trade-offs, strongest first (real from a probability of {REAL:.0%} on):"
    for t in shown:
        yield f"  {tradeoff(t)}{'' if t.real else '   not certain'}"


def tradeoff(found: Tradeoff) -> str:
    """`code / prose: correlation -0.70 (-0.90 … -0.40), a trade-off with probability 0.99`."""
    middle = "middle correlation" if len(found.tasks) == 3 else "correlation"
    return (
        f"{' / '.join(found.tasks)}: {middle} {found.correlation:+.2f} ({found.low:+.2f} … "
        f"{found.high:+.2f}), a trade-off with probability {found.probability:.2f}"
    )


def remarks(found: Scouting) -> list[str]:
    """Sentences on tasks that say little here and on checkpoints that add little."""
    lines: list[str] = []
    for task, scores in zip(found.tasks, found.scores.T, strict=True):
        lines += _weak(task, unanswered=task.objective.direction == "max" and not scores.any())
    lines += [f"Equal bytes: {', '.join(names)}; keep one of them." for names in found.twins]
    same = {frozenset(names) for names in found.twins}
    for one, other, apart in found.duplicates:
        if not any({one, other} <= names for names in same):
            how = (
                "answer every item alike"
                if apart == 0
                else (f"differ {1 / apart:.0f} times less than a typical pair of checkpoints")
            )
            lines.append(f"Near-duplicates: {one} and {other} {how}.")
    others = len(found.names) - 1
    for name, by in found.dominated.items():
        if name not in found.left_out:
            who = "every other checkpoint" if len(by) == others else ", ".join(by)
            lines.append(f"Dominated: {name}, by {who} (at every task, probability ≥ {REAL:.0%}).")
    return lines


def _weak(task: Task, unanswered: bool) -> Iterator[str]:
    """Why a task says little about these checkpoints."""
    r = task.resolution
    if task.saturated:
        yield f"{task.name}: saturated; at least half of the checkpoints are near the best possible."
    if task.at_chance:
        yield f"{task.name}: at chance; no checkpoint is better than guessing ({task.chance:.3g})."
    if unanswered:
        yield (
            f"{task.name}: every checkpoint scores 0; the task may not read their answers. Look at "
            "one with `recycler sample STUDY single:NAME -p PROMPT`. Usual reasons: a leading "
            "space, stop strings, the chat template, a missing filter."
        )
    elif r.spread == 0:
        yield f"{task.name}: no spread; all checkpoints have the same score."
    elif task.errorless:
        yield (
            f"{task.name}: error unknown; the evaluator gives plain numbers, so nothing is certain "
            "about it. Return a value for each item."
        )
    elif not r.tells:
        said = f"{task.name}: can't tell these checkpoints apart: spread {r.spread:.2g}, error "
        said += f"{r.error:.2g}, {task.items} items"
        if task.needed is not None:
            said += f"; if this spread is real, about {task.needed} items would show it"
            if task.available is not None and task.available < task.needed:
                said += f" (the task has {task.available})"
        yield said + "."


def proposal(found: Scouting) -> str:
    """The proposal in one sentence."""
    best = found.proposal
    if best is None:
        return (
            "Proposal: none; no trade-off is certain. More dev items, other tasks under "
            "`candidates:` or more checkpoints may show one."
        )
    return f"Proposal: search {', '.join(best.tasks)}; hold out the rest."


def to_json(found: Scouting) -> dict[str, Any]:
    """Return the scouting as `recycler scout --json` prints it."""
    proposal = found.proposal
    return {
        "study": found.study,
        "checkpoints": list(found.names),
        "failed": dict(found.failed),
        "tasks": [_task_json(found, j) for j in range(len(found.tasks))],
        "correlations": {
            "over": [found.names[i] for i in found.compared],
            "left_out": found.left_out,
            "values": _numbers(found.correlations.tolist()),
            "low": _numbers(found.low.tolist()),
            "high": _numbers(found.high.tolist()),
        },
        "tradeoffs": [_tradeoff_json(t) for t in found.tradeoffs],
        "near_duplicates": [
            {"checkpoints": [one, other], "distance": apart}
            for one, other, apart in found.duplicates
        ],
        "equal_bytes": [list(names) for names in found.twins],
        "dominated": found.dominated,
        "proposal": list(proposal.tasks) if proposal else None,
    }


def _task_json(found: Scouting, j: int) -> dict[str, Any]:
    task, r = found.tasks[j], found.tasks[j].resolution
    rows = zip(found.names, found.scores[:, j], found.errors[:, j], strict=True)
    return {
        "name": task.name,
        "role": task.role,
        "direction": task.objective.direction,
        "unit": task.objective.unit,
        "scores": {name: {"mean": float(s), "stderr": float(e)} for name, s, e in rows},
        "best": found.names[found.best[j]],
        "spread": r.spread,
        "error": r.error,
        "tells_apart": task.tells,
        "items": task.items,
        "items_needed": task.needed,
        "items_available": task.available,
        "chance": task.chance,
        "at_chance": task.at_chance,
        "saturated": task.saturated,
    }


def _tradeoff_json(found: Tradeoff) -> dict[str, Any]:
    return {
        "tasks": list(found.tasks),
        "correlation": found.correlation,
        "low": found.low,
        "high": found.high,
        "probability": found.probability,
        "real": found.real,
    }


def _numbers(rows: Any) -> list[list[float | None]]:
    """Nested lists with None for NaN, which JSON lacks."""
    return [[x if math.isfinite(x) else None for x in row] for row in rows]
