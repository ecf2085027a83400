"""Predictions on a terminal: what is expected of merges, and what is proposed for preferences."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recycler.report.text import console

_LISTED = 6  # weights shown in a line


def print_foresight(table: Mapping[str, Any], out: Console | None = None) -> None:
    """Print the table of `front.proposals.foreseen`."""
    out = out or console()
    level = f"{table['level']:.0%}".replace("%", " %")
    out.print(
        f"Study {table['study']}: expected from {table['trials']} scored trials.",
        markup=False,
    )
    for entry in table["predictions"]:
        _print_merge(out, entry, level)
    for entry in table["proposals"][:1] if len(table["proposals"]) == 1 else ():
        out.print(f"\nBest expected for {_pairs(entry['preference'])}:", markup=False)
        _print_merge(out, entry, level)
        out.print(_against(entry), markup=False)
    if len(table["proposals"]) > 1:
        _print_front(out, table, level)
    if table["predictions"] or table["proposals"]:
        out.print(
            f"dev: the score on the study's dev items lies in there with {level} probability. "
            "mean: the mean over all items of that sort does.",
            markup=False,
        )
    if names := table["without_errors"]:
        out.print(
            f"Caution: the scores of {', '.join(names)} came without errors; these intervals "
            "take them as exact.",
            markup=False,
            style="yellow",
        )
    if table["not_predicted"]:
        out.print(
            f"Not predicted: {', '.join(table['not_predicted'])} (held out: no dev scores to predict "
            "from).",
            markup=False,
        )


def _print_merge(out: Console, entry: Mapping[str, Any], level: str) -> None:
    """Print one merge: weights, expected scores with intervals, remarks."""
    found = Table(
        title=Text(_weights(entry)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    found.add_column("objective", no_wrap=True)
    for head in ("expected", f"dev, {level}", f"mean, {level}"):
        found.add_column(head, justify="right", no_wrap=True)
    found.add_column("unit")
    for name, cell in entry["objectives"].items():
        arrow = "↑" if cell["direction"] == "max" else "↓"
        ends = ["exact", "exact"] if cell["exact"] else [_ends(cell["dev"]), _ends(cell["mean"])]
        row = (f"{name} {arrow}", f"{cell['expected']:.4g}", *ends, cell["unit"])
        found.add_row(*map(Text, row))
    out.print(found)
    if entry["scored_as"] is not None:
        out.print(f"Trial {entry['scored_as']} is this merge; its dev scores are known.")
    for note in entry["notes"]:
        out.print(f"Caution: {note}.", markup=False, style="yellow")


def _print_front(out: Console, table: Mapping[str, Any], level: str) -> None:
    """Print the proposals of several preferences, one row each."""
    found = Table(
        title=Text("Weights expected best for each preference"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    found.add_column("preference")
    for name in table["objectives"]:
        found.add_column(Text(f"{name}, dev {level}"), justify="right")
    for head in ("best trial", "p(better)"):
        found.add_column(head, justify="right")
    found.add_column("weights")
    for entry in table["proposals"]:
        cells = [
            f"{cell['expected']:.4g}" + ("" if cell["exact"] else f" [{_ends(cell['dev'])}]")
            for cell in entry["objectives"].values()
        ]
        floors = "" if entry["meets_floors"] else " (below floor)"
        row = (_pairs(entry["preference"]), *cells, str(entry["rival"]["trial"]))
        found.add_row(*map(Text, (*row, f"{entry['p_better']:.2f}{floors}", _weights(entry))))
    out.print(found)
    for note in dict.fromkeys(note for entry in table["proposals"] for note in entry["notes"]):
        out.print(f"Caution: {note}.", markup=False, style="yellow")


def _against(entry: Mapping[str, Any]) -> str:
    """A proposal against the best trial so far, in one or two sentences."""
    rival = entry["rival"]
    text = (
        f"Better than trial {rival['trial']} ({rival['name']}), the best so far for this preference, "
        f"with probability {entry['p_better']:.2f}."
    )
    return text if entry["meets_floors"] else f"{text} It is expected to miss a floor."


def _weights(entry: Mapping[str, Any]) -> str:
    shown = [f"{name}={weight:.4g}" for name, weight in [*entry["weights"].items()][:_LISTED]]
    more = len(entry["weights"]) - len(shown)
    return ", ".join(shown) + (f" and {more} more (--json)" if more > 0 else "")


def _pairs(preference: Mapping[str, float]) -> str:
    shown = [f"{name}={share:.2g}" for name, share in preference.items() if share]
    return ",".join(shown)


def _ends(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"
