"""What the page needs to draw a study itself: its trials column by column, and frames of figures.

The trials are cheap to collect, so a page can draw them at once. The front, its probabilities and the
frames come from `Results`. Letters: m objectives.
"""

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from recycler.front.results import Results
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.objectives import Objective
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial
from recycler.report.axes import Axis, axes, outside
from recycler.report.decision import as_html
from recycler.report.figures import (
    COLUMNS,
    SYMBOLS,
    front_figure,
    outside_text,
    parallel_figure,
)
from recycler.report.groups import COLOURS, FAINT, best_split, floors, groups, label, pairs
from recycler.report.numbers import titled
from recycler.report.volume import trace_figure
from recycler.report.weights import weights_figure

_DIGITS = 5  # significant digits of a score


def columns(plan: Plan, trials: Sequence[Trial]) -> dict[str, Any]:
    """The trials of a study, column by column.

    Returns:
        JSON data: `objectives`, `checkpoints`, and `trials` with one entry for each trial in each
        column; `weights` are pairs of a checkpoint's place and its weight, in a row.
    """
    places = {name: place for place, name in enumerate(plan.names)}
    return {
        "study": plan.name,
        "evaluations": plan.evaluations,
        "objectives": [_described(objective) for objective in plan.objectives],
        "checkpoints": list(plan.names),
        "trials": {
            "number": [trial.number for trial in trials],
            "name": [trial.name for trial in trials],
            "kind": [str(trial.kind) for trial in trials],
            "state": [str(trial.state) for trial in trials],
            "merge": [trial.is_merge for trial in trials],
            "weights": [_weights(trial, places) for trial in trials],
            "scores": {
                split: {o.name: _scores(trials, o.name, split) for o in plan.objectives}
                for split in SPLITS
            },
        },
        "failures": {t.number: t.failure.message for t in trials if t.failure},
    }


def _described(objective: Objective) -> dict[str, Any]:
    return {
        "name": objective.name,
        "title": titled(objective),
        "unit": objective.unit,
        "direction": objective.direction,
        "held_out": objective.held_out,
        "weight": objective.weight,
        "floor": None if objective.floor is None else str(objective.floor),
    }


def _weights(trial: Trial, places: dict[str, int]) -> list[float]:
    return [
        x
        for name, weight in trial.recipe.weights.items()
        if name in places
        for x in (places[name], round(weight, 4))
    ]


def _scores(trials: Sequence[Trial], objective: str, split: str) -> dict[str, list[float | None]]:
    """Mean and standard error of each trial; None where it has none."""
    known = [t.evaluations[split].scores if split in t.evaluations else {} for t in trials]
    rows = [scores.get(objective) for scores in known]
    return {
        "mean": [_short(row.mean) if row else None for row in rows],
        "stderr": [_short(row.stderr) if row else None for row in rows],
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def found(results: Results, split: str = "", across: int = COLUMNS) -> str:
    """What a study has found, as JSON: members, axes, groups, decision, and frames of figures.

    Args:
        results: the study.
        split: dev, select or test; empty: the reported one.
        across: most panels of the front side by side.
    """
    split = split or best_split(results)
    ranges, grouped = axes(results, split), groups(results, split)
    shown = [trial for trials in grouped.values() for trial in trials]
    pick = results.decision.pick if results.decision else None
    front = results.front
    data = {
        "study": results.name,
        "event": results.event,
        "status": results.status["status"],
        "split": split,
        "reported": best_split(results),
        "basis": front.basis,
        "certainty": front.certainty,
        "steps": results.steps.tolist(),
        "warning": warning(results, split),
        "decision": as_html(results),
        "pick": pick.number if pick else None,
        "knee": front.knee().number if front.members else None,
        "members": _members(results),
        "groups": {kind: [trial.number for trial in trials] for kind, trials in grouped.items()},
        "styles": {kind: _style(kind) for kind in COLOURS},
        "symbols": SYMBOLS,
        "axes": {name: _axis(results, axis, split) for name, axis in ranges.items()},
        "panels": [
            [x.name if x else None, y.name]
            for x, y in pairs(results)
            if all(o is None or o.name in ranges for o in (x, y))
        ],
        "outside": outside_text(outside(ranges, shown, split)),
    }
    figures = {
        "front": front_figure(results, split, points=False, columns=across),
        "parallel": parallel_figure(results, split, lines=False),
        "weights": weights_figure(results),
        "evaluations": trace_figure(results),
        "seconds": trace_figure(results, seconds=True),
    }
    frames = ",".join(f'"{name}":{_bare(figure)}' for name, figure in figures.items())
    return f'{json.dumps(data)[:-1]},"figures":{{{frames}}}}}'


def _members(results: Results) -> list[dict[str, Any]]:
    front, names = results.front, [o.name for o in results.plan.objectives.searched]
    foreseen = None if front.expected is None else front.objectives.raw(front.expected).tolist()
    return [
        {
            "number": member.trial.number,
            "p": member.p_nondominated,
            "meets_floors": meets,
            "expected": dict(zip(names, foreseen[row], strict=True)) if foreseen else None,
        }
        for row, (member, meets) in enumerate(
            zip(front.members, results.meets_floors, strict=True)
        )
    ]


def _style(kind: str) -> dict[str, Any]:
    return {
        "colour": COLOURS[kind],
        "label": label(kind),
        "symbol": SYMBOLS.get(kind, "circle"),
        "faint": kind in FAINT,
    }


def _axis(results: Results, axis: Axis, split: str) -> dict[str, Any]:
    return {"low": axis.low, "high": axis.high, "floors": floors(results, split, axis.objective)}


def warning(results: Results, split: str) -> str:
    """What to know about scores on a split: whether choices were based on them; may be empty."""
    if split == "test":
        return results.seen_by
    if best_split(results) != "test":
        return " ".join(
            part
            for part in (
                f"Only {best_split(results)} scores are known yet. The search or the choice used "
                "these items, so the scores are optimistic until the study is complete.",
                results.rechecking,
            )
            if part
        )
    return (
        f"The search or the choice used the {split} items, so these scores are optimistic. The "
        "report uses test items."
    )


def _bare(figure: go.Figure) -> str:
    """A figure as JSON without template and width: the page has its own colours and widths."""
    return str(figure.update_layout(template=None, width=None).to_json())
