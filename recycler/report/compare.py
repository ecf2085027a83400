"""Comparisons on a terminal: differences objective by objective, and answers item by item."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recycler.front.compare import Change, Comparison, Item, Items
from recycler.front.paired import LEVEL
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import Trial
from recycler.report.numbers import called, mean, signed, titled
from recycler.report.text import console, readable

_COLOURS = {"better": "green", "worse": "red"}
_PROMPT, _ANSWER = 600, 600  # longest texts that are shown [characters]


def comparison(found: Comparison, out: Console | None = None) -> None:
    """Print the differences, one table for each rival."""
    out = out or console()
    for rival in found.trials[1:]:
        out.print(_table(found, rival))
    out.print(
        f"Differences are {called(found.trials[0])} minus the other, positive is better, with "
        f"[{100 * LEVEL:g} % intervals] from resampling the items of both together; better or worse: "
        "the interval does not hold 0."
        + (" * held out: never seen by the search." if _held_out(found) else ""),
        markup=False,
    )
    if found.missing:
        out.print(
            f"Not compared, because not all are scored there: {', '.join(found.missing)}.",
            markup=False,
        )
    if found.optimistic:
        out.print(
            f"[yellow]Optimistic:[/yellow] these are {found.split} items, which the search or the "
            "choice used."
        )
    elif found.results.seen_by:
        out.print(found.results.seen_by, markup=False)


def _held_out(found: Comparison) -> bool:
    return any(change.difference.objective.held_out for change in found.changes)


def _table(found: Comparison, rival: Trial) -> Table:
    table = Table(
        title=Text(
            f"{found.results.name}: {called(found.trials[0])} against {called(rival)}, on "
            f"{found.split} items"
        ),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("objective", overflow="fold")
    trials = (f"trial {found.trials[0].number}", f"trial {rival.number}")
    for title in (*trials, "difference", "items", "gained", "lost"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = [change for change in found.changes if change.rival.number == rival.number]
    for held_out in (False, True):
        for change in rows:
            if change.difference.objective.held_out is held_out:
                table.add_row(*_cells(change))
        table.add_section()
    return table


def _cells(change: Change) -> list[Text]:
    d = change.difference
    counts = ["" if n is None else str(n) for n in (change.gained, change.lost)]
    cells = (
        titled(d.objective),
        mean(d.score),
        mean(d.against),
        signed(d.difference, d.interval),
        str(change.items or ""),
        *counts,
    )
    return [*map(Text, cells), Text(d.word, style=_COLOURS.get(d.word, ""))]


def items(
    found: Comparison, chosen: Items, skip: int, limit: int, out: Console | None = None
) -> None:
    """Print items with prompt, target and the answer of each trial.

    Args:
        found: the comparison.
        chosen: its items of one objective.
        skip: how many to leave out first.
        limit: how many to print at most; 0: all.
        out: where to; default: standard output.
    """
    out, name = out or console(), chosen.objective.name
    out.print(
        f"{name}: {chosen.differing} of {chosen.common} {found.split} items differ between "
        f"{_listed(found.trials)}." + ("" if chosen.found else " --all lists the others."),
        markup=False,
    )
    if chosen.unkept:
        out.print(_unkept(found, chosen.unkept), style="yellow", markup=False)
    stop = len(chosen.found) if limit == 0 else skip + limit
    for item in chosen.found[skip:stop]:
        out.print(_item(found, chosen.objective, item))
    left = len(chosen.found) - stop
    if left > 0:
        out.print(f"{left} more items: --skip {stop} goes on, --limit 0 shows all.")
    elif skip >= len(chosen.found) > 0:
        out.print(f"There are {len(chosen.found)} items; --skip {skip} leaves none.")


def _item(found: Comparison, objective: Objective, item: Item) -> Group:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    if item.target:
        table.add_row("target", "", _shown(item.target, _ANSWER))
    best = max(objective.sign * value for value in item.outcomes)
    for trial, value, answer in zip(found.trials, item.outcomes, item.answers, strict=True):
        text = _shown(answer["text"], _ANSWER) if answer else Text("(not kept)", style="dim")
        if answer and answer["margin"] is not None:
            text.append(f"  ({answer['margin']:+.2f} nats)", style="dim")
        if answer and answer["raw"] != answer["text"]:
            text.append("\n")
            text.append(_shown(answer["raw"], _ANSWER, style="dim"))
        good = objective.sign * value == best
        worst = min(objective.sign * other for other in item.outcomes)
        style = "" if best == worst else "green" if good else "red"
        table.add_row(Text(called(trial)), Text(f"{value:.4g}", style=style), text)
    title = Text(f"\nitem {item.id}", style="bold")
    prompt = (
        [Padding(_shown(item.prompt, _PROMPT, tail=True), (0, 0, 0, 2))] if item.prompt else []
    )
    return Group(title, *prompt, table)


def _shown(text: str, longest: int, tail: bool = False, style: str = "") -> Text:
    """A text in at most so many characters; of a long prompt the end, which holds the question."""
    if len(text) > longest:
        text = f"… {text[-longest:]}" if tail else f"{text[:longest]} …"
    return readable(text, style)


def _listed(trials: Sequence[Trial]) -> str:
    names = [called(trial) for trial in trials]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _unkept(found: Comparison, trials: Sequence[Trial]) -> str:
    """Why answers are missing, and what to do."""
    who = _listed(trials) if len(trials) > 1 else called(trials[0])
    if found.split == "dev":
        return "Answers to dev items are not kept; take another split with --split."
    kinds = str(found.results.plan.evaluator.get("kind", "lm-eval"))
    if kinds != "lm-eval":
        return f"The evaluator {kinds!r} gives no answers, only the outcome of each item."
    return (
        f"{who}: scored without answers (keep_answers was off, they were too large, or an older "
        "recycler scored it). --again scores these items again and keeps the answers."
    )


def table(found: Comparison) -> pd.DataFrame:
    """One row for each objective and rival: scores, difference, interval, items gained and lost."""
    rows: list[dict[str, Any]] = []
    for change in found.changes:
        row = {"trial": found.trials[0].number, "split": found.split, **change.to_json()}
        low, high = row.pop("interval") or (None, None)
        rows.append({**row, "low": low, "high": high})
    return pd.DataFrame(rows)
