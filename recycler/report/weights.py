"""Figures of the weights: which checkpoints the front is made of, against their scores alone.

Letters: n checkpoints, k members.
Reference: Kish 1965, Survey Sampling (effective number, 1/Σw²).
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recycler.front import baselines
from recycler.front.results import Results
from recycler.front.tradeoffs import spearman
from recycler.nouns.objectives import Array
from recycler.nouns.trial import Trial
from recycler.report.axes import axis_of
from recycler.report.figures import WIDTH, finished, grid
from recycler.report.groups import COLOURS, axis_title, best_split, errors, means

_SHOWN = 24  # most checkpoints in the heat map
_ROWS = 11  # most members in the heat map
_NAMED = 3  # checkpoints named in each panel


def effective_number(weights: Sequence[float]) -> float:
    """How many equally weighted checkpoints a merge is worth: 1/Σp², p = |w|/Σ|w|.

    From 1 (one checkpoint) to n (all equal). An average of n independent errors with these weights
    has the variance of one of this many with equal weights.

    Args:
        weights: (n,) unitless, at least one of them not 0; negative ones count by their size.
    """
    sizes = np.abs(np.asarray(weights, dtype=np.float64))
    shares = sizes / sizes.sum()
    return float(1.0 / (shares @ shares))


def _table(results: Results) -> tuple[tuple[str, ...], tuple[Trial, ...], Array]:
    """Names, members and their (k, n) weights."""
    names, trials = results.plan.names, results.front.trials
    rows = [trial.recipe.vector(names) for trial in trials]
    return names, trials, np.array(rows, dtype=np.float64).reshape(len(trials), len(names))


def weights_figure(results: Results, width: int = WIDTH) -> go.Figure:
    """Heat map of the weights of the checkpoints in each member of the front."""
    names, trials, weights = _table(results)
    pick = results.decision.pick.number if results.decision else None
    every = _spread([trial.number for trial in trials], pick)
    order = list(range(len(names)))
    if len(names) > _SHOWN:
        largest = np.argsort(-np.abs(weights).max(axis=0, initial=0.0), kind="stable")
        order = sorted(largest[:_SHOWN].tolist())
    shown = weights[np.ix_(every, np.array(order))]
    numbers = [effective_number(row) for row in weights]
    largest_weight = float(np.abs(shown).max(initial=0.01))
    signed = bool((shown < 0).any())
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=[names[i] for i in order],
            y=[f"{trials[i].number} ({numbers[i]:.1f})" for i in every],
            colorscale="RdBu" if signed else "Blues",
            zmin=-largest_weight if signed else 0,
            zmax=largest_weight,
            colorbar={"title": "weight", "thickness": 10},
            xgap=1,
            ygap=1,
            hovertemplate="trial %{y}<br>%{x}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(
        autorange="reversed", type="category", title_text="trial (effective number)"
    )
    figure.update_xaxes(tickangle=-45, tickfont_size=10, dtick=1)
    left_out = len(names) - len(order)
    text = (
        "Weights of the members of the front, best in the first objective at the top. In brackets: "
        "effective number of checkpoints, 1/Σw² (Kish 1965), from 1 (one alone) to "
        f"{len(names)} (a plain average)."
    )
    if numbers:
        text += f" Its median is {np.median(numbers):.1f}."
    if left_out:
        most = np.abs(np.delete(weights, order, axis=1)).max(initial=0.0)
        text += f" {left_out} checkpoints whose weights never exceed {most:.3f} are left out."
    if len(every) < len(trials):
        text += f" {len(every)} of {len(trials)} members are shown."
    height = max(270, 125 + 13 * len(every))
    figure.update_yaxes(tickfont_size=10, dtick=1)
    return finished(figure, text, height, width).update_layout(margin_b=100)


def _spread(numbers: Sequence[int], pick: int | None) -> NDArray[np.int64]:
    """Rows to show: all, or `_ROWS` evenly spaced ones and the pick."""
    rows = np.linspace(0, len(numbers) - 1, min(len(numbers), _ROWS)).round().astype(np.int64)
    chosen = [numbers.index(pick)] if pick in numbers else []
    return np.unique(np.concatenate([rows, np.array(chosen, dtype=np.int64)]))


def roles_figure(results: Results) -> go.Figure:
    """Weight of each checkpoint in the members against its score alone, one panel per objective."""
    names, _, weights = _table(results)
    searched, split = results.plan.objectives.searched, best_split(results)
    known = baselines.singles(results.plan, results.trials)
    positions = [i for i, trial in sorted(known.items()) if split in trial.evaluations]
    alone = [known[i] for i in positions]
    figure, places = grid(
        len(searched), shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.2
    )
    mean = weights[:, positions].mean(axis=0) if len(weights) else np.zeros(len(positions))
    found = []
    for objective, (row, column) in zip(searched, places, strict=True):
        scores = means(alone, objective, split)
        axis = axis_of(objective, scores)
        order = _rank_correlation(objective.sign * np.array(scores), mean)
        found.append("-" if order is None else f"{order:+.2f} {objective.name}")
        figure.add_trace(
            go.Scatter(
                x=axis.inside(scores),
                y=mean,
                error_x={"array": errors(alone, objective, split), "thickness": 0.6, "width": 0},
                mode="markers+text",
                marker={"color": COLOURS["single"], "symbol": "square", "size": 7},
                text=_labels([names[i] for i in positions], mean),
                textposition="top left",
                textfont={"size": 10},
                customdata=[[names[i], s] for i, s in zip(positions, scores, strict=True)],
                hovertemplate="%{customdata[0]}<br>alone %{customdata[1]:.4g}<br>weight %{y:.3f}"
                "<extra></extra>",
            ),
            row=row,
            col=column,
        )
        title = f"{axis_title(objective)}"
        figure.update_xaxes(title_text=title, range=axis.ends, row=row, col=column)
    for row in {row for row, _ in places}:
        figure.update_yaxes(
            title_text="mean weight in the front", rangemode="tozero", row=row, col=1
        )
    figure.update_layout(showlegend=False)
    text = (
        "Mean weight of each checkpoint in the members of the front against its own score on "
        f"{split} items; right is better. High at the right: the search uses what is good alone. "
        "High at the left: a checkpoint that helps others although it is weak here. Rank correlation "
        f"of weight and score (Spearman): {', '.join(found)}."
    )
    return finished(figure, text, 70 + 270 * max(row for row, _ in places))


def _rank_correlation(one: Array, other: Array) -> float | None:
    """Spearman's rank correlation; None if it is not defined."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0 or not np.isfinite(one).all():
        return None
    return float(spearman(np.stack([one, other], axis=1))[0, 1])


def _labels(names: Sequence[str], weights: Array) -> list[str]:
    """The names of the heaviest checkpoints; the others are empty."""
    heavy = set(np.argsort(-weights, kind="stable")[:_NAMED].tolist())
    return [name if i in heavy else "" for i, name in enumerate(names)]
