"""Figures of a study: the front by pairs of objectives, the hypervolume trace, the weights.

Plotly draws the HTML page, Matplotlib the picture in the model card.
"""

import io
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from recycler.front import pareto
from recycler.front.results import Results
from recycler.nouns.evaluation import Score
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import State, Trial

# Safe for colour-blind readers (Okabe & Ito).
COLOURS = {
    "front": "#D55E00",
    "search": "#9A9A9A",
    "greedy": "#56B4E9",
    "single": "#0072B2",
    "uniform": "#009E73",
    "merge-best": "#CC79A7",
    "pruned": "#B5B5B5",
}
_SYMBOLS = {
    "single": "square",
    "uniform": "diamond",
    "merge-best": "x",
    "greedy": "triangle-up",
    "pruned": "x-thin-open",
}
_MARKERS = {"single": "s", "uniform": "D", "merge-best": "X", "greedy": "^", "pruned": "x"}
_FLOOR_LINE = {"dash": "dash", "color": "#777777", "width": 1}
_LABELS = {"pruned": "pruned (some dev items)"}


def pairs(results: Results) -> list[tuple[Objective, Objective]]:
    """Every pair of searched objectives; a single objective is paired with itself."""
    searched = results.plan.objectives.searched
    return list(combinations(searched, 2)) or [(searched[0], searched[0])]


def groups(results: Results, split: str) -> dict[str, list[Trial]]:
    """Trials scored on a split, grouped by kind; members of the front form their own group.

    Pruned trials are included, with their estimates for the dev items.
    """
    members = {trial.number for trial in results.front.trials}
    found: dict[str, list[Trial]] = {"pruned": [], "search": [], "greedy": [], "single": []}
    found |= {"uniform": [], "merge-best": [], "front": []}
    for trial in results.trials:
        if trial.number in members:
            found["front"].append(trial)
        elif trial.state == State.PRUNED:
            found["pruned"].append(trial)
        elif split in trial.evaluations and trial.state == State.COMPLETE:
            found[trial.kind].append(trial)
    return {kind: trials for kind, trials in found.items() if trials}


def floors(results: Results, split: str, objective: Objective) -> list[float]:
    """The worst score that an objective's floor allows on a split; empty if it has no floor."""
    limits = results.plan.objectives.raw(results.floors(split))
    known = zip(results.plan.objectives.searched, limits, strict=True)
    return [float(limit) for o, limit in known if o == objective and np.isfinite(limit)]


def best_split(results: Results) -> str:
    """The most honest split on which all members of the front were scored."""
    return results.front.certainty


def front_figure(results: Results) -> go.Figure:
    """Front, baselines and all other merges scored on the reported items, by pairs of objectives."""
    wanted, split = pairs(results), best_split(results)
    grouped = groups(results, split)
    figure = make_subplots(cols=len(wanted), rows=1, horizontal_spacing=0.08)
    for column, (across, up) in enumerate(wanted, start=1):
        for kind, trials in grouped.items():
            figure.add_trace(_points(trials, kind, across, up, split, column == 1), 1, column)
        for floor in floors(results, split, across):
            figure.add_vline(x=floor, line=_FLOOR_LINE, row=1, col=column)
        for floor in floors(results, split, up):
            figure.add_hline(y=floor, line=_FLOOR_LINE, row=1, col=column)
        figure.update_xaxes(title_text=_axis(across), row=1, col=column)
        figure.update_yaxes(title_text=_axis(up), row=1, col=column)
    figure.update_layout(
        template="plotly_white",
        height=480,
        legend={"orientation": "h", "y": -0.2},
        margin={"t": 30},
    )
    return figure


def _points(
    trials: Sequence[Trial], kind: str, across: Objective, up: Objective, split: str, legend: bool
) -> go.Scatter:
    x, y = (_scores(trials, objective, kind, split) for objective in (across, up))
    bars = kind not in ("search", "pruned")
    return go.Scatter(
        x=[score.mean for score in x],
        y=[score.mean for score in y],
        error_x={"array": [s.stderr for s in x], "visible": bars, "thickness": 1, "width": 0},
        error_y={"array": [s.stderr for s in y], "visible": bars, "thickness": 1, "width": 0},
        mode="markers",
        name=_LABELS.get(kind, kind),
        legendgroup=kind,
        showlegend=legend,
        marker={
            "color": COLOURS[kind],
            "symbol": _SYMBOLS.get(kind, "circle"),
            "size": {"front": 10, "pruned": 5}.get(kind, 8),
            "line": {"width": 1, "color": COLOURS[kind] if kind == "pruned" else "white"},
        },
        text=[_hover(t) for t in trials],
        hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    )


def _scores(trials: Sequence[Trial], objective: Objective, kind: str, split: str) -> list[Score]:
    """Scores to draw for each trial: those on the split; for pruned trials those on dev items."""
    on = "dev" if kind == "pruned" else split
    return [trial.evaluations[on].scores[objective.name] for trial in trials]


def _hover(trial: Trial) -> str:
    top = list(trial.recipe.weights.items())[:4]
    return f"trial {trial.number} ({trial.name})<br>" + "<br>".join(f"{w:.3f} {n}" for n, w in top)


def _axis(objective: Objective) -> str:
    arrow = "higher is better" if objective.direction == "max" else "lower is better"
    unit = f" [{objective.unit}]" if objective.unit else ""
    return f"{objective.name}{unit}, {arrow}"


def trace(results: Results) -> list[float]:
    """Hypervolume on dev items after each scored trial, above the fixed reference; it never falls."""
    reference = results.reference
    if reference is None:
        return []
    scored = sorted(
        (t for t in results.trials if t.state == State.COMPLETE),
        key=lambda trial: trial.finished or 0,
    )
    gains = results.plan.objectives.gains([t.means("dev") for t in scored])
    return [pareto.hypervolume(gains[: k + 1], reference) for k in range(len(gains))]


def lost(results: Results) -> list[tuple[int, float, Trial]]:
    """Each pruned or failed trial: after how many scored ones it ended, and at which volume."""
    volumes = [0.0, *trace(results)]
    trials = sorted(results.trials, key=lambda trial: trial.finished or 0)
    found, done = [], 0
    for trial in trials if len(volumes) > 1 else []:
        done += trial.state == State.COMPLETE
        if trial.state in (State.PRUNED, State.FAILED):
            found.append((done, volumes[done], trial))
    return found


def trace_figure(results: Results) -> go.Figure:
    """Hypervolume against the number of evaluations."""
    values = trace(results)
    references = sum(t.is_baseline and t.state == State.COMPLETE for t in results.trials)
    figure = go.Figure(
        go.Scatter(x=list(range(1, len(values) + 1)), y=values, mode="lines", line={"shape": "hv"})
    )
    ends = lost(results)
    figure.add_trace(
        go.Scatter(
            x=[at for at, _, _ in ends],
            y=[volume for _, volume, _ in ends],
            mode="markers",
            marker={"symbol": "x-thin-open", "size": 5, "color": COLOURS["pruned"]},
            text=[f"trial {t.number} ({t.name}) {t.state}" for *_, t in ends],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    if 0 < references < len(values):
        figure.add_vline(x=references, line_dash="dot", annotation_text="baselines done")
    figure.update_layout(
        template="plotly_white",
        height=320,
        margin={"t": 30},
        showlegend=False,
        xaxis_title="merges evaluated in full; crosses: pruned or failed",
        yaxis_title="hypervolume on dev items",
    )
    return figure


def weights_figure(results: Results) -> go.Figure:
    """Heat map of the weights of the checkpoints in each member of the front."""
    names, trials = results.plan.names, results.front.trials
    grid = np.array([t.recipe.vector(names) for t in trials]).reshape(len(trials), len(names))
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=list(names),
            y=[f"trial {t.number}" for t in trials],
            colorscale="Blues",
            zmin=0,
            colorbar={"title": "weight"},
        )
    )
    figure.update_layout(
        template="plotly_white", height=120 + 26 * max(len(trials), 3), margin={"t": 30}
    )
    figure.update_yaxes(autorange="reversed")
    return figure


def front_png(results: Results, highlight: int | None = None) -> bytes:
    """The front by pairs of objectives as a PNG; one trial is marked with a ring."""
    wanted, split = pairs(results), best_split(results)
    figure = Figure(figsize=(4.6 * len(wanted), 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(wanted), squeeze=False)[0]
    grouped = groups(results, split)
    for axis, (across, up) in zip(axes, wanted, strict=True):
        for kind, trials in grouped.items():
            _draw(axis, kind, trials, across, up, split)
        for trial in results.trials:
            if trial.number == highlight and split in trial.evaluations:
                x, y = trial.means(split)[across.name], trial.means(split)[up.name]
                axis.scatter([x], [y], s=190, facecolors="none", edgecolors="black", zorder=5)
        for floor in floors(results, split, across):
            axis.axvline(floor, color="#777777", linestyle="--", linewidth=0.9)
        for floor in floors(results, split, up):
            axis.axhline(floor, color="#777777", linestyle="--", linewidth=0.9)
        axis.set_xlabel(_axis(across))
        axis.set_ylabel(_axis(up))
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(f"{results.name}: {split} items, bars are standard errors", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "recycler"})
    return buffer.getvalue()


def _draw(
    axis: Any, kind: str, trials: Sequence[Trial], across: Objective, up: Objective, split: str
) -> None:
    x, y = (_scores(trials, objective, kind, split) for objective in (across, up))
    bars = kind != "pruned"
    axis.errorbar(
        [s.mean for s in x],
        [s.mean for s in y],
        xerr=[s.stderr for s in x] if bars else None,
        yerr=[s.stderr for s in y] if bars else None,
        fmt=_MARKERS.get(kind, "o"),
        color=COLOURS[kind],
        markersize=6 if bars else 3,
        elinewidth=0.7,
        label=_LABELS.get(kind, kind),
        zorder=4 if kind == "front" else 3,
    )
