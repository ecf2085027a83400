"""Interactive figures of a study: the front by pairs of objectives, parallel coordinates.

Each is a plotly figure; `caption_of` says in words what to see in it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from recycler.front.results import Results
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import Trial
from recycler.report.axes import Axis, axes, ellipses, outside
from recycler.report.groups import (
    COLOURS,
    FAINT,
    axis_title,
    best_split,
    errors,
    floors,
    groups,
    hover,
    label,
    means,
    pairs,
)

WIDTH = 960  # of a figure as wide as the page [px]
COLUMNS = 3  # most panels side by side
SYMBOLS = {
    "single": "square",
    "uniform": "diamond",
    "merge-best": "x",
    "greedy": "triangle-up",
    "try": "cross",
    "reference": "star",
    "pruned": "x-thin-open",
}
_FLOOR_LINE = {"dash": "dash", "color": "#777777", "width": 1}


def finished(figure: go.Figure, caption: str, height: int, width: int = WIDTH) -> go.Figure:
    """Set what all figures share: size, fonts, margins, and the caption (see `caption_of`)."""
    figure.update_layout(
        template="plotly_white",
        width=width,
        height=height,
        font={"size": 12},
        margin={"t": 12, "l": 60, "r": 20, "b": 50},
        meta={"caption": caption},
    )
    figure.update_xaxes(title_font_size=12)
    figure.update_yaxes(title_font_size=12)
    return figure


def caption_of(figure: go.Figure) -> str:
    """What to see in a figure, in words."""
    return str(figure.layout.meta["caption"])


def grid(
    panels: int, most: int = COLUMNS, **options: Any
) -> tuple[go.Figure, list[tuple[int, int]]]:
    """A figure with panels in rows of at most `most`, and the (row, column) of each panel."""
    columns = max(1, min(panels, most))
    rows = max(1, math.ceil(panels / columns))
    figure = make_subplots(rows=rows, cols=columns, **options)
    return figure, [(i // columns + 1, i % columns + 1) for i in range(panels)]


# --- the front ---


def front_figure(
    results: Results, split: str = "", points: bool = True, columns: int = COLUMNS
) -> go.Figure:
    """Front, baselines and all other merges scored on the reported items, by pairs of objectives.

    With one objective: its score against the number of the trial.

    Args:
        results: the study.
        split: dev, select or test; empty: the reported one.
        points: whether the trials are drawn; else axes, ellipses and floors only, as a page needs
            that draws the trials itself.
        columns: most panels side by side.
    """
    split, panels = split or best_split(results), pairs(results)
    grouped, ranges = groups(results, split), axes(results, split)
    panels = [p for p in panels if all(o is None or o.name in ranges for o in p)]
    rows = max(1, math.ceil(len(panels) / columns))
    figure, places = grid(
        len(panels), columns, horizontal_spacing=0.08, vertical_spacing=0.36 / (rows + 0.5)
    )
    for number, ((across, up), place) in enumerate(zip(panels, places, strict=True)):
        at = {"row": place[0], "col": place[1]}
        x, y = (ranges[across.name] if across else None), ranges[up.name]
        if across:
            _ellipses(figure, results, across, up, split, at)
        for kind, trials in grouped.items() if points else ():
            figure.add_trace(_points(trials, kind, x, y, split), **at)
            if number == 0:
                figure.add_trace(_legend(kind), **at)
        if points and results.decision:
            figure.add_trace(_ring(results.decision.pick, x, y, split, number == 0), **at)
        _floor_lines(figure, results, across, up, split, at)
        title = axis_title(across) if across else "trial"
        figure.update_xaxes(title_text=title, range=x.ends if x else None, **at)
        figure.update_yaxes(title_text=axis_title(up), range=y.ends, **at)
    hidden = outside(_searched(results, ranges), [t for ts in grouped.values() for t in ts], split)
    figure.update_layout(legend={"orientation": "h", "y": -0.24 / rows, "yanchor": "top"})
    height = 85 + (270 if rows == 1 else 200) * rows
    return finished(figure, _front_caption(results, split, len(panels), hidden), height)


def _searched(results: Results, ranges: Mapping[str, Axis]) -> dict[str, Axis]:
    return {o.name: ranges[o.name] for o in results.plan.objectives.searched if o.name in ranges}


def _points(
    trials: Sequence[Trial], kind: str, across: Axis | None, up: Axis, split: str
) -> go.Scatter:
    """The points of one group; a score outside its axis is drawn at the border as an open mark."""
    ys = means(trials, up.objective, split)
    xs = means(trials, across.objective, split) if across else [t.number for t in trials]
    shown = [
        up.shows(y) and (across is None or across.shows(x)) for x, y in zip(xs, ys, strict=True)
    ]
    symbols = [SYMBOLS.get(_own(t, kind), "circle") for t in trials]
    faint = kind in FAINT
    barred = not faint and (kind != "front" or across is None)  # else the ellipses show the errors
    return go.Scatter(
        x=across.inside(xs) if across else xs,
        y=up.inside(ys),
        error_x=_bars(trials, across, split, shown) if across and barred else None,
        error_y=_bars(trials, up, split, shown) if barred else None,
        mode="markers",
        name=label(kind),
        legendgroup=kind,
        showlegend=False,
        opacity=0.45 if faint else 1.0,
        marker={
            "color": COLOURS[kind],
            "symbol": [
                s if inside or s.endswith("open") else f"{s}-open"
                for s, inside in zip(symbols, shown, strict=True)
            ],
            "size": {"front": 9, "pruned": 5, "search": 5}.get(kind, 7),
            "line": {"width": 1, "color": COLOURS[kind] if kind == "pruned" else "white"},
        },
        customdata=[[x, y] for x, y in zip(xs, ys, strict=True)],
        text=[hover(t) for t in trials],
        hovertemplate="%{text}<br>%{customdata[0]:.4g}, %{customdata[1]:.4g}<extra></extra>",
    )


def _legend(kind: str) -> go.Scatter:
    """An entry of the legend, with the group's own symbol."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=label(kind),
        legendgroup=kind,
        marker={"color": COLOURS[kind], "symbol": SYMBOLS.get(kind, "circle"), "size": 8},
    )


def _ring(pick: Trial, across: Axis | None, up: Axis, split: str, legend: bool) -> go.Scatter:
    """A ring around the pick."""
    x = across.inside(means([pick], across.objective, split)) if across else [pick.number]
    return go.Scatter(
        x=x,
        y=up.inside(means([pick], up.objective, split)),
        mode="markers",
        marker={"symbol": "circle-open", "size": 16, "color": "black", "line": {"width": 1.5}},
        name=f"pick (trial {pick.number})",
        legendgroup="pick",
        showlegend=legend,
        hoverinfo="skip",
    )


def _own(trial: Trial, kind: str) -> str:
    """The kind that decides the symbol: members of the front keep that of their own kind."""
    return trial.kind if kind == "front" else kind


def _bars(
    trials: Sequence[Trial], axis: Axis, split: str, shown: Sequence[bool]
) -> dict[str, Any]:
    """Standard errors as bars; none for points at the border."""
    spread = errors(trials, axis.objective, split)
    kept = [s if inside else 0.0 for s, inside in zip(spread, shown, strict=True)]
    return {"array": kept, "thickness": 0.6, "width": 0}


def _ellipses(
    figure: go.Figure, results: Results, across: Objective, up: Objective, split: str, at: Any
) -> None:
    """Errors of the members, one trace for all."""
    rings = ellipses(results, results.front.trials, across, up, split)
    gap = np.full((1, 2), np.nan)
    path = np.concatenate([part for ring in rings for part in (ring, gap)] or [gap])
    figure.add_trace(
        go.Scatter(
            x=path[:, 0],
            y=path[:, 1],
            mode="lines",
            line={"width": 0.8, "color": "rgba(213,94,0,0.45)"},
            fill="toself",
            fillcolor="rgba(213,94,0,0.08)",
            hoverinfo="skip",
            showlegend=False,
            name="errors",
        ),
        **at,
    )


def _floor_lines(
    figure: go.Figure,
    results: Results,
    across: Objective | None,
    up: Objective,
    split: str,
    at: Any,
) -> None:
    for floor in floors(results, split, across) if across else ():
        figure.add_vline(x=floor, line=_FLOOR_LINE, **at)
    for floor in floors(results, split, up):
        figure.add_hline(y=floor, line=_FLOOR_LINE, **at)


def _front_caption(results: Results, split: str, panels: int, hidden: Sequence[Trial]) -> str:
    """What to see in the front, and what lies outside the axes."""
    m = results.plan.objectives.m
    if m == 1:
        text = (
            f"Scores on {split} items in the order of the trials; up is better. Orange: the best. "
            "Bars: one standard error. "
        )
    else:
        text = (
            f"Scores on {split} items. Up and right is better in every panel; where lower scores are "
            "better, the axis runs backwards. "
        )
    if panels < m * (m - 1) // 2:
        text += (
            f"Shown are the {panels} of {m * (m - 1) // 2} pairs of objectives with the strongest "
            "trade-off. "
        )
    if m > 1:
        text += (
            f"Orange: the front, chosen on {results.front.basis} items (an orange square is a "
            "single). Ellipses and bars: one standard error. "
        )
    if any(floors(results, split, o) for o in results.plan.objectives.searched):
        text += "Dashed: the floors. "
    return text + outside_text(hidden)


def outside_text(hidden: Sequence[Trial]) -> str:
    """How many points lie outside the axes, and which."""
    if not hidden:
        return ""
    ranked = sorted(hidden, key=lambda t: (t.kind in ("search", "greedy"), t.number))
    names = ", ".join(t.name for t in ranked[:3]) + (", …" if len(hidden) > 3 else ".")
    what = "1 point lies" if len(hidden) == 1 else f"{len(hidden)} points lie"
    verb = "is" if len(hidden) == 1 else "are"
    return f"{what} outside the axes and {verb} drawn open, at the border: {names}"


# --- parallel coordinates ---


def parallel_figure(results: Results, split: str = "", lines: bool = True) -> go.Figure:
    """Every member and baseline as a line over all objectives, held-out ones last; up is better.

    Args:
        results: the study.
        split: dev, select or test; empty: the reported one.
        lines: whether the trials are drawn; else the axes only.
    """
    split = split or best_split(results)
    grouped, ranges = groups(results, split), axes(results, split)
    ordered = sorted(ranges.values(), key=lambda axis: axis.objective.held_out)
    figure = go.Figure()
    for kind, trials in grouped.items():
        if lines and kind != "pruned":
            figure.add_trace(_lines(trials, kind, ordered, split))
    for place, axis in enumerate(ordered):
        worse, better = axis.ends
        figure.add_vline(x=place, line={"color": "#BBBBBB", "width": 1})
        for y, value, anchor in ((0, worse, "top"), (1, better, "bottom")):
            figure.add_annotation(
                x=place, y=y, text=f"{value:.3g}", showarrow=False, yanchor=anchor, font_size=11
            )
    names = [f"{a.objective.name}{'*' if a.objective.held_out else ''}" for a in ordered]
    figure.update_xaxes(
        tickvals=list(range(len(ordered))),
        ticktext=names,
        range=[-0.15, len(ordered) - 0.85],
        showgrid=False,
        ticks="",
    )
    figure.update_yaxes(visible=False, range=[-0.09, 1.09])
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "yanchor": "top"})
    hidden = outside(
        ranges, [t for kind, ts in grouped.items() if kind != "pruned" for t in ts], split
    )
    text = (
        f"Each line is one merge, each axis one objective on {split} items, its better end at the top"
        f"{'; * is held out' if any(a.objective.held_out for a in ordered) else ''}. A merge that is "
        "good at everything stays at the top; crossing lines are trade-offs. "
    )
    return finished(figure, text + outside_text(hidden), 380)


def _lines(trials: Sequence[Trial], kind: str, ordered: Sequence[Axis], split: str) -> go.Scatter:
    """The lines of one group as one trace."""
    columns = [axis.share(means(trials, axis.objective, split)) for axis in ordered]
    raw = [means(trials, axis.objective, split) for axis in ordered]
    x, y, text = list[float | None](), list[float | None](), list[str]()
    for i, trial in enumerate(trials):
        x += [*range(len(ordered)), None]
        y += [*(column[i] for column in columns), None]
        text += [f"{hover(trial)}<br>{column[i]:.4g}" for column in raw] + [""]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=label(kind),
        opacity={"front": 0.9, "search": 0.15}.get(kind, 0.6),
        line={
            "color": COLOURS[kind],
            "width": 2 if kind == "front" else 1,
            "dash": "solid" if kind in ("front", "search") else "dot",
        },
        text=text,
        hovertemplate="%{text}<extra></extra>",
    )
