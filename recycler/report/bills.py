"""The bill of a study on a terminal."""

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from recycler.front.bill import Bill
from recycler.report.listing import duration
from recycler.report.text import console


def bill(found: Bill, out: Console | None = None, *, here: bool = True) -> None:
    """Print what is left to pay, stage by stage, then time, disk and memory.

    Args:
        found: the bill.
        out: the terminal.
        here: whether the study is to run on this machine, so that its memory and cores count.
    """
    out = out or console()
    total = sum(stage.seconds[1] for stage in found.stages) or 1.0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for title in ("merges", "known, free", "item evaluations", "time of one worker", "share"):
        table.add_column(title, justify="right")
    for s in found.stages:
        time = _range(*(duration(x) for x in s.seconds))
        share = f"{s.seconds[1] / total:.0%}"
        counts = (_range(*s.merges), f"{s.free:,}", _range(*s.items))
        table.add_row(s.name, *counts, time, share)
    out.print(f"study {found.study}: what is left to pay", markup=False)
    out.print(table)
    r, (least, most) = found.rates, found.seconds
    items = ", ".join(f"{task} {1000 * seconds:.3g} ms" for task, seconds in r.items.items())
    out.print(
        f"Measured on one worker {'here' if here else 'of the server'}: start {r.start:.1f} s, "
        f"single {r.single:.2f} s, merge {r.merge:.2f} s; one item: {items}.",
        markup=False,
    )
    workers = f"{found.workers} worker{'s' if found.workers > 1 else ''}"
    out.print(
        f"{_range(*found.merges)} merges, {_range(*found.items)} item evaluations: "
        f"{_range(duration(least), duration(most))} with {workers}.",
        style="bold",
    )
    available = psutil.virtual_memory().available / 1e9
    free = f"; {available:.1f} GB are free here" if here else ""
    out.print(
        f"Disk: about {found.ledger_bytes / 1e6:,.1f} MB in the ledger. Memory: "
        f"{r.memory / 1e9:.1f} GB for each worker, {found.memory / 1e9:.1f} GB together{free}."
    )
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    if here and cores and found.workers > cores:
        out.print(f"Only {cores} cores are free for {workers}: it will take longer than this.")
    out.print("Nothing was changed: no study was registered.")


def _range(least: object, most: object) -> str:
    low, high = (f"{x:,}" if isinstance(x, int) else str(x) for x in (least, most))
    return high if low == high else f"{low} to {high}"
