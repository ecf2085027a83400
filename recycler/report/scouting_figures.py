"""Figures of a scouting: the scores as a heat map, the correlations, and the strongest trade-off.

Plotly draws the page, Matplotlib the picture.
"""

import html
import io
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.io import to_html

from recycler.front.scouting import Scouting
from recycler.front.tradeoffs import Tradeoff
from recycler.nouns.objectives import Array
from recycler.report.scouting import SHOWN, proposal, remarks, tradeoff

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
.note{color:#666}.proposal{font-size:1.1rem;font-weight:600;border-left:4px solid #D55E00;
padding:.4rem .8rem}
@media print{@page{size:A4;margin:12mm}}
"""
SCORES = (
    "Scores of the single checkpoints on dev items. Colour: place within the task, dark is best. "
    "A trade-off is a pair of columns in which the dark cells change places."
)
RANKS = (
    "Rank correlation of each pair of tasks over the checkpoints. Red: a trade-off; blue: the tasks "
    "agree, so one of them is enough; bold: the 95 % interval does not hold 0."
)
PAIR = (
    "The strongest trade-off, one point for each checkpoint with its standard error. Up and to the "
    "right is better. Merges are worth a search if no point lies in the top right corner."
)


def ranks(found: Scouting) -> Array:
    """(n, m) place of each checkpoint at each task, from 0 (worst) to 1 (best)."""
    below = (found.gains[:, None] > found.gains[None]).sum(axis=1)
    ties = (found.gains[:, None] == found.gains[None]).sum(axis=1) - 1
    places: Array = (below + ties / 2) / max(len(found.gains) - 1, 1)
    return places


def shown_pair(found: Scouting) -> Tradeoff | None:
    """The pair to draw: the strongest of the trade-offs; None if there is no pair."""
    return next((t for t in found.tradeoffs if len(t.tasks) == 2), None)


# --- the picture ---


def png(found: Scouting) -> bytes:
    """Scores, correlations and the strongest trade-off as one PNG."""
    n, m = found.scores.shape
    pair = shown_pair(found)
    widths = [2.6 + 0.95 * m, 2.0 + 0.8 * m, *([5.0] if pair else [])]
    figure = Figure(figsize=(sum(widths), max(4.6, 1.8 + 0.36 * n)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_scores(axes[0], found)
    _draw_correlations(axes[1], found)
    if pair:
        _draw_pair(axes[2], found, pair)
    figure.suptitle(f"{found.study}. {proposal(found)}", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "recycler"})
    return buffer.getvalue()


def _draw_scores(axis: Any, found: Scouting) -> None:
    places = ranks(found)
    axis.imshow(places, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for i, j in np.ndindex(places.shape):
        best = i == found.best[j]
        axis.text(
            j,
            i,
            f"{'*' if best else ''}{found.scores[i, j]:.3f}"
            + ("" if found.tasks[j].errorless else f"\n± {found.errors[i, j]:.3f}"),
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold" if best else "normal",
        )
    labels = [f"{t.name} {'↑' if t.objective.direction == 'max' else '↓'}" for t in found.tasks]
    axis.set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=8)
    numbered = [f"{name}  {i}" for i, name in enumerate(found.names, start=1)]
    axis.set_yticks(range(len(numbered)), numbered, fontsize=8)
    axis.set_title("scores ± standard error; dark: best places", fontsize=9)


def _draw_correlations(axis: Any, found: Scouting) -> None:
    names = [task.name for task in found.tasks]
    values = np.where(np.eye(len(names), dtype=bool), np.nan, found.correlations)
    axis.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            sure = found.low[i, j] > 0 or found.high[i, j] < 0
            axis.text(
                j,
                i,
                f"{values[i, j]:+.2f}\n{found.low[i, j]:+.2f}…{found.high[i, j]:+.2f}",
                ha="center",
                va="center",
                fontsize=6.5,
                fontweight="bold" if sure else "normal",
                color="white" if abs(values[i, j]) > 0.75 else "black",
            )
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_title("rank correlations, 95 % intervals; red: trade-off", fontsize=9)


def _draw_pair(axis: Any, found: Scouting, pair: Tradeoff) -> None:
    x, y = _positions(found, pair)
    axis.errorbar(
        found.scores[:, x],
        found.scores[:, y],
        xerr=found.errors[:, x],
        yerr=found.errors[:, y],
        fmt="s",
        color="#0072B2",
        markersize=5,
        elinewidth=0.7,
    )
    for i in range(len(found.names)):  # the numbers stand beside the names in the first panel
        at = (found.scores[i, x], found.scores[i, y])
        axis.annotate(str(i + 1), at, xytext=(4, 4), textcoords="offset points", fontsize=7)
    for j, axis_of, flip in ((x, "x", axis.invert_xaxis), (y, "y", axis.invert_yaxis)):
        objective = found.tasks[j].objective
        if objective.direction == "min":  # better is always up and to the right
            flip()
        unit = f" [{objective.unit}]" if objective.unit else ""
        getattr(axis, f"set_{axis_of}label")(f"{objective.name}{unit}, better →", fontsize=8)
    axis.set_title(
        f"correlation {pair.correlation:+.2f}, probability {pair.probability:.2f}", fontsize=9
    )
    axis.margins(0.08)
    axis.grid(alpha=0.25)


def _positions(found: Scouting, pair: Tradeoff) -> tuple[int, int]:
    names = [task.name for task in found.tasks]
    return names.index(pair.tasks[0]), names.index(pair.tasks[1])


# --- the page ---


def html_page(found: Scouting) -> str:
    """Scores, correlations and the strongest trade-off as one self-contained page."""
    pair = shown_pair(found)
    parts = [("Scores", scores_figure(found), SCORES)]
    parts.append(("Rank correlations", correlations_figure(found), RANKS))
    if pair:
        parts.append((" / ".join(pair.tasks), pair_figure(found, pair), PAIR))
    body = "".join(
        f"<h2>{html.escape(title)}</h2>"
        f"{to_html(figure, full_html=False, include_plotlyjs=number == 0)}"
        f'<p class="note">{html.escape(caption)}</p>'
        for number, (title, figure, caption) in enumerate(parts)
    )
    likely = [t for t in found.tradeoffs if t.probability >= 0.5][:SHOWN]
    said = [*(tradeoff(t) for t in likely), *remarks(found)]
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in said)
    title = html.escape(found.study)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>recycler scout: {title}</title>
<style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p class="proposal">{html.escape(proposal(found))}</p>
<ul>{lines}</ul>
{body}
</body></html>
"""


def scores_figure(found: Scouting) -> go.Figure:
    """Heat map of the checkpoints' places at each task, labelled with their scores."""
    texts = [
        [f"{'*' if i == found.best[j] else ''}{score:.3f}" for j, score in enumerate(row)]
        for i, row in enumerate(found.scores)
    ]
    return _heat(ranks(found), [t.name for t in found.tasks], list(found.names), texts, "Blues", 0)


def correlations_figure(found: Scouting) -> go.Figure:
    """Heat map of the rank correlations with their intervals."""
    names, m = [task.name for task in found.tasks], len(found.tasks)
    values = np.where(np.eye(m, dtype=bool), np.nan, found.correlations)
    texts = [
        [
            f"{values[i, j]:+.2f}<br>{found.low[i, j]:+.2f} … {found.high[i, j]:+.2f}"
            if np.isfinite(values[i, j])
            else ""
            for j in range(m)
        ]
        for i in range(m)
    ]
    return _heat(values, names, names, texts, "RdBu", -1)


def _heat(
    values: Array, x: list[str], y: list[str], texts: list[list[str]], colours: str, least: float
) -> go.Figure:
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=x,
            y=y,
            text=texts,
            texttemplate="%{text}",
            colorscale=colours,
            zmin=least,
            zmax=1.3 if least == 0 else 1,
            showscale=False,
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        )
    )
    height = 120 + max(30, 44 if least else 0) * len(y)
    figure.update_layout(template="plotly_white", height=height, margin={"t": 20})
    figure.update_yaxes(autorange="reversed")
    return figure


def pair_figure(found: Scouting, pair: Tradeoff) -> go.Figure:
    """The checkpoints at the two tasks of a trade-off; better is up and to the right."""
    x, y = _positions(found, pair)
    figure = go.Figure(
        go.Scatter(
            x=found.scores[:, x],
            y=found.scores[:, y],
            error_x={"array": found.errors[:, x], "thickness": 1, "width": 0},
            error_y={"array": found.errors[:, y], "thickness": 1, "width": 0},
            mode="markers+text",
            text=list(found.names),
            textposition="top right",
            textfont={"size": 10},
            marker={"symbol": "square", "size": 8, "color": "#0072B2"},
        )
    )
    for j, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        objective = found.tasks[j].objective
        flipped = "reversed" if objective.direction == "min" else True
        unit = f" [{objective.unit}]" if objective.unit else ""
        update(title_text=f"{objective.name}{unit}, better →", autorange=flipped)
    figure.update_layout(template="plotly_white", height=480, margin={"t": 20})
    return figure
