"""The front as a PNG, for model cards and the README."""

import io
import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from recycler.front.results import Results
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import Trial
from recycler.report.axes import Axis, axes, ellipses, outside
from recycler.report.figures import COLUMNS, outside_text
from recycler.report.groups import (
    COLOURS,
    FAINT,
    axis_title,
    best_split,
    errors,
    floors,
    groups,
    label,
    means,
    pairs,
)

_MARKERS = {
    "single": "s",
    "uniform": "D",
    "merge-best": "X",
    "greedy": "^",
    "try": "P",
    "reference": "*",
    "pruned": "x",
}
_FLOOR_LINE = {"color": "#777777", "linestyle": "--", "linewidth": 0.9}


def front_png(results: Results, highlight: int | None = None) -> bytes:
    """The front by pairs of objectives as a PNG; one trial is marked with a ring.

    Axes are those of the HTML report: points outside are drawn open, at the border.
    """
    split, panels = best_split(results), pairs(results)
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = (max(4.6 * columns, 6.0), 4.0 * rows + 0.6)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    boxes = figure.subplots(rows, columns, squeeze=False).ravel()
    grouped, ranges = groups(results, split), axes(results, split)
    for box, (across, up) in zip(boxes, panels, strict=False):
        x, y = (ranges[across.name] if across else None), ranges[up.name]
        for kind, trials in grouped.items():
            _draw(box, kind, trials, x, y, split)
        _extras(box, results, across, up, split)
        ringed = [t for t in results.trials if t.number == highlight and split in t.evaluations]
        _ring(box, ringed, x, y, split)
        box.set_xlabel(axis_title(across) if across else "trial")
        box.set_ylabel(axis_title(up))
        if x:
            box.set_xlim(x.ends)
        box.set_ylim(y.ends)
        box.grid(alpha=0.25)
    for box in boxes[len(panels) :]:
        box.set_visible(False)
    handles, labels = boxes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    searched = {o.name: ranges[o.name] for o in results.plan.objectives.searched}
    hidden = outside(searched, [t for trials in grouped.values() for t in trials], split)
    title = f"{results.name}: {split} items, up and right is better, one standard error. "
    figure.suptitle(fill(title + outside_text(hidden), int(11.5 * size[0])), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "recycler"})
    return buffer.getvalue()


def _draw(
    box: Any, kind: str, trials: Sequence[Trial], across: Axis | None, up: Axis, split: str
) -> None:
    """The points of one group; those outside the axes are open, at the border."""
    ys = means(trials, up.objective, split)
    xs = means(trials, across.objective, split) if across else [float(t.number) for t in trials]
    dx = errors(trials, across.objective, split) if across else [0.0] * len(trials)
    dy = errors(trials, up.objective, split)
    faint = kind in FAINT
    shown = [up.shows(y) and (not across or across.shows(x)) for x, y in zip(xs, ys, strict=True)]
    marks = [_MARKERS.get(t.kind if kind == "front" else kind, "o") for t in trials]
    xs, ys = (across.inside(xs) if across else xs), up.inside(ys)
    for mark, inside in dict.fromkeys(zip(marks, shown, strict=True)):
        rows = [
            i for i, both in enumerate(zip(marks, shown, strict=True)) if both == (mark, inside)
        ]
        bars = inside and not faint and kind != "front"
        box.errorbar(
            [xs[i] for i in rows],
            [ys[i] for i in rows],
            xerr=[dx[i] for i in rows] if bars and across else None,
            yerr=[dy[i] for i in rows] if bars or (not across and inside and not faint) else None,
            fmt=mark,
            color=COLOURS[kind],
            markerfacecolor=COLOURS[kind] if inside else "none",
            markersize=3 if faint else 6,
            alpha=0.5 if faint else 1.0,
            elinewidth=0.7,
            zorder=4 if kind == "front" else 2 if faint else 3,
        )
    box.plot([], [], _MARKERS.get(kind, "o"), color=COLOURS[kind], label=label(kind))


def _ring(box: Any, trials: Sequence[Trial], across: Axis | None, up: Axis, split: str) -> None:
    for trial in trials:
        x = across.inside(means([trial], across.objective, split))[0] if across else trial.number
        y = up.inside(means([trial], up.objective, split))[0]
        box.scatter([x], [y], s=190, facecolors="none", edgecolors="black", zorder=5)


def _extras(
    box: Any, results: Results, across: Objective | None, up: Objective, split: str
) -> None:
    """Errors of the members as ellipses, and floors as dashed lines."""
    if across:
        rings = ellipses(results, results.front.trials, across, up, split)
        box.add_collection(PolyCollection(rings, color=COLOURS["front"], alpha=0.1, linewidth=0))
        for floor in floors(results, split, across):
            box.axvline(floor, **_FLOOR_LINE)
    for floor in floors(results, split, up):
        box.axhline(floor, **_FLOOR_LINE)
