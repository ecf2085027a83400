"""The hypervolume of a study against its evaluations, as a multiple of the baselines'."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from recycler.front import pareto
from recycler.front.front import volume
from recycler.front.results import Results
from recycler.nouns.trial import State, Trial
from recycler.report.figures import WIDTH, finished
from recycler.report.groups import COLOURS

_LINE = {"dash": "dot", "color": "#777777", "width": 1}


def trace(results: Results) -> list[float]:
    """Hypervolume on dev items after each scored trial, above the fixed reference; it never falls."""
    reference = results.reference
    if reference is None:
        return []
    scored = _scored(results)
    gains = results.plan.objectives.gains([t.means("dev") for t in scored])
    values, kept = list[float](), gains[:0]
    for row in gains:  # only the front so far decides the volume
        if len(kept) and (kept >= row).all(axis=1).any():
            values.append(values[-1])
            continue
        kept = np.concatenate([kept, row[None]])
        kept = kept[pareto.nondominated(kept)]
        values.append(pareto.hypervolume(kept, reference))
    return values


def _scored(results: Results) -> list[Trial]:
    """The merges scored on all dev items, in the order in which they ended."""
    merges = (t for t in results.trials if t.state == State.COMPLETE and t.is_merge)
    return sorted(merges, key=lambda trial: trial.finished or 0)


def spent(results: Results) -> list[float]:
    """Seconds that workers had merged and scored dev items after each scored merge, summed."""
    parts = [t.evaluations["dev"].seconds.values() for t in _scored(results)]
    found: list[float] = np.cumsum([sum(seconds) for seconds in parts]).tolist()
    return found


def lost(results: Results) -> list[tuple[int, float, Trial]]:
    """Each pruned or failed trial: after how many scored ones it ended, and at which volume."""
    volumes = [0.0, *trace(results)]
    trials = sorted(results.trials, key=lambda trial: trial.finished or 0)
    found, done = [], 0
    for trial in trials if len(volumes) > 1 else []:
        done += trial.state == State.COMPLETE and trial.is_merge
        if trial.state in (State.PRUNED, State.FAILED):
            found.append((done, volumes[done], trial))
    return found


def trace_figure(results: Results, width: int = WIDTH, seconds: bool = False) -> go.Figure:
    """Hypervolume on dev items, as a multiple of that of the baselines, against evaluations.

    Args:
        results: the study.
        width: of the figure [px].
        seconds: against the seconds of merging and scoring (see `spent`) instead.
    """
    values = trace(results)
    at = spent(results) if seconds else [float(k) for k in range(1, len(values) + 1)]
    merges = [trial for trial in results.baselines if trial.is_merge]
    unit = volume(merges, results.plan.objectives, results.reference, "dev") or 0.0
    unit = unit if unit > 0 else max(values, default=1.0) or 1.0
    first = sum(t.is_baseline and t.state == State.COMPLETE and t.is_merge for t in results.trials)
    ends = lost(results)
    figure = go.Figure(
        go.Scatter(
            x=at[: len(values)],
            y=[value / unit for value in values],
            mode="lines",
            line={"shape": "hv", "color": COLOURS["front"]},
            name="hypervolume",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[([0.0, *at][k] if seconds else k) for k, _, _ in ends],
            y=[height / unit for _, height, _ in ends],
            mode="markers",
            marker={"symbol": "x-thin-open", "size": 5, "color": COLOURS["pruned"]},
            text=[f"trial {t.number} ({t.name}) {t.state}" for *_, t in ends],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.add_hline(y=1.0, line=_LINE)
    if 0 < first < len(values):
        figure.add_vline(x=at[first - 1], line=_LINE)
    low = values[min(first, len(values)) - 1] / unit if values else 0.0
    figure.update_xaxes(
        title_text="seconds of merging and scoring" if seconds else "merges evaluated in full"
    )
    figure.update_yaxes(
        title_text="hypervolume / baselines'",
        range=[min(low, 1.0) - 0.1, max([v / unit for v in values[-1:]] + [1.0]) + 0.05],
    )
    figure.update_layout(showlegend=False)
    return finished(figure, _trace_caption(values, unit, bool(ends)), 270, width)


def _trace_caption(values: Sequence[float], unit: float, ends: bool) -> str:
    """What to see in the volume's trace."""
    last = f" It ended at {values[-1] / unit:.3f}." if values else ""
    crosses = " Crosses: pruned or failed trials." if ends else ""
    return (
        "Hypervolume (what the front dominates) on dev items; 1: the singles, uniform, merge-best "
        "and the greedy soup together. Right of the dotted line the search works; a curve that still "
        f"rises asks for more evaluations.{last}{crosses}"
    )
