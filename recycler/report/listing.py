"""The studies of a ledger in one table: how far each is, and whether a process runs it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from recycler.nouns.status import Status
from recycler.nouns.trial import State
from recycler.pace import seconds_left
from recycler.protocols import Store
from recycler.report.text import console, trial


def studies_json(store: Store) -> list[dict[str, Any]]:
    """The status of every study with `eta`: seconds until it is complete, None if unknown."""
    return [{**row, "eta": _eta(store, row)} for row in store.studies()]


def studies(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each study."""
    table = Table(
        "study", "status", "progress", "ETA", "scored", "pruned", "failed", "run by", "message"
    )
    for row in rows:
        cells = (
            row["name"],
            row["status"],
            progress(row),
            duration(row["eta"]),
            str(row["complete"]),
            str(row["pruned"]),
            str(row["failed"]),
            row["holder"] if row["alive"] else "",
            row["message"],
        )
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table if rows else "no studies yet")


def progress(row: Mapping[str, Any]) -> str:
    """Phase and trials done of a study's status, such as `search 12/56`; empty before a run."""
    told = row["progress"]
    if not told:
        return ""
    return f"{told['phase']} {done(row)}/{told['total']}"


def done(row: Mapping[str, Any]) -> int:
    """Trials done in the present phase; those of the search are counted in the ledger."""
    told = row["progress"]
    if told["phase"] != "search":
        return int(told["done"])
    ended = sum(row[state] for state in State if state != State.RUNNING)
    return int(min(max(ended, told["done"]), told["total"]))


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that fit, such as `3 h 20 min`; empty for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def stopped(row: Mapping[str, Any]) -> str:
    """Why and since when a study does not run, from its status."""
    name, why = row["name"], f" ({row['message']})" if row["message"] else ""
    if not row["heartbeat"]:
        return f"study {name!r} does not run: it never did. `recycler run FILE` starts it."
    moment = datetime.fromtimestamp(row["heartbeat"], UTC).astimezone()
    ago = duration(max(0.0, datetime.now(UTC).timestamp() - row["heartbeat"]))
    return (
        f"study {name!r} does not run: {row['status']} since {moment:%Y-%m-%d %H:%M:%S}, {ago} ago"
        f"{why}."
    )


def tried(table: Mapping[str, Any]) -> None:
    """Print what became of a merge that a user asked for (see `Study.try_merge`)."""
    out, name = console(), table["study"]
    if table["known"]:
        out.print(
            f"study {name!r} already has this merge, as trial {table['trial']}.", markup=False
        )
    if table["trial"] is not None:
        trial(table)
        return
    when = "the next run scores it"
    if table["holder"]:
        when = f"{table['holder']} runs the study and takes it up next"
    elif not table["ready"]:
        when = "it is scored once the singles are; `recycler run FILE` goes on"
    out.print(f"queued as {table['name']!r}: {when}.", markup=False)


def _eta(store: Store, row: Mapping[str, Any]) -> float | None:
    """Seconds until a study is complete: left for a living run, needed for one that halted."""
    if not row["progress"] or row["status"] == Status.COMPLETE:
        return None
    return seconds_left(store.plan(row["name"]), row["progress"], done(row))
