"""The forest plot of a pick: its difference from each rival, objective by objective."""

from collections.abc import Sequence

import plotly.graph_objects as go

from recycler.front.paired import Difference
from recycler.front.verdict import Verdict
from recycler.nouns.objectives import Objective
from recycler.report.figures import finished, grid
from recycler.report.numbers import signed

COLUMNS = 6  # most panels side by side
# Colour and symbol of each word, so that a black-and-white print tells them apart too.
MARKS = {
    "better": ("#009E73", "triangle-right"),
    "worse": ("#D55E00", "triangle-left"),
    "can't tell": ("#777777", "circle"),
    "equal": ("#777777", "circle-open"),
}


def forest_figure(verdict: Verdict) -> go.Figure:
    """Differences of a merge from each rival with 95 % intervals, one panel per objective."""
    rivals = [(f"{rival.role}: {rival.name}", rival.objectives) for rival in verdict.comparisons]
    return differences_figure(verdict.trial, verdict.split, rivals)


Rivals = Sequence[tuple[str, Sequence[Difference]]]


def differences_figure(trial: int, split: str, rivals: Rivals) -> go.Figure:
    """The same for any rivals.

    Args:
        trial: number of the merge.
        split: the items that all are scored on.
        rivals: the label of each, and the differences of the merge from it.
    """
    found = {d.objective.name: d.objective for _, rows in rivals for d in rows}
    panels = sorted(found.values(), key=lambda objective: objective.held_out)
    if not panels:
        return finished(go.Figure(), "No rival is scored on the same items.", 80)
    across = min(len(panels), COLUMNS)
    lines = -(-len(panels) // across)
    height = (84 + 22 * len(rivals)) * lines
    figure, places = grid(
        len(panels),
        COLUMNS,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=min(0.9 / lines, 85 / height),
        subplot_titles=[_title(objective) for objective in panels],
    )
    for objective, (row, column) in zip(panels, places, strict=True):
        figure.add_trace(_intervals(objective, rivals), row=row, col=column)
        figure.add_vline(x=0.0, line={"color": "#444444", "width": 1}, row=row, col=column)
        figure.update_xaxes(
            title_text="← worse, better →", nticks=5 if across < 4 else 4, row=row, col=column
        )
    order = [label for label, _ in rivals]
    figure.update_yaxes(
        autorange="reversed", categoryorder="array", categoryarray=order, automargin=True
    )
    figure.update_annotations(font_size=12 if across < 4 else 11)
    figure.update_layout(showlegend=False)
    return finished(figure, _caption(trial, split), height).update_layout(
        margin={"l": 110, "t": 28}
    )


def _title(objective: Objective) -> str:
    unit = f" [{objective.unit}]" if objective.unit else ""
    return f"{objective.name}{'*' if objective.held_out else ''}{unit}"


def _intervals(objective: Objective, rivals: Rivals) -> go.Scatter:
    """One panel: a mark for each rival that is scored, with its interval."""
    found = [
        (label, row)
        for label, differences in rivals
        for row in differences
        if row.objective.name == objective.name
    ]
    rows = [row for _, row in found]
    ends = [row.interval or (row.difference, row.difference) for row in rows]
    return go.Scatter(
        x=[row.difference for row in rows],
        y=[label for label, _ in found],
        error_x={
            "symmetric": False,
            "array": [high - row.difference for row, (_, high) in zip(rows, ends, strict=True)],
            "arrayminus": [row.difference - low for row, (low, _) in zip(rows, ends, strict=True)],
            "thickness": 1.5,
            "width": 3,
            "color": "#666666",
        },
        mode="markers",
        marker={
            "color": [MARKS[row.word][0] for row in rows],
            "symbol": [MARKS[row.word][1] for row in rows],
            "size": 10,
        },
        text=[
            f"{row.word}: {row.score.mean:.4g} against {row.against.mean:.4g}<br>"
            f"difference {signed(row.difference, row.interval)}"
            for row in rows
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _caption(trial: int, split: str) -> str:
    return (
        f"Trial {trial} minus each rival on the same {split} items, in the unit of "
        "each objective, with 95 % intervals (paired bootstrap). Right of the line the trial is "
        "better. Triangles: the interval excludes 0; circles: these items can't tell. Objectives "
        "marked * are held out."
    )
