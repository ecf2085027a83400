"""The HTML report of a study: one self-contained file that needs no network."""

import html
from collections.abc import Mapping
from typing import Any

from plotly.io import to_html

from recycler.front.results import Results
from recycler.nouns.evaluation import Score
from recycler.nouns.trial import Trial
from recycler.report.decision import as_html
from recycler.report.figures import (
    best_split,
    floors,
    front_figure,
    trace_figure,
    weights_figure,
)
from recycler.report.text import costs, infeasible

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
td small{display:block;color:#8a8a8a;font-size:.75rem;line-height:1}
.decision{border:2px solid #009E73;border-radius:6px;padding:.2rem 1rem .6rem;margin:1rem 0}
.decision h2{margin:.6rem 0 .2rem}.verdict{font-weight:600}
td.better{color:#00694c}td.worse{color:#b3261e}td.cant-tell{color:#7a5c00}
.bad{background:#fde2e0;border-left:4px solid #c0392b;padding:.5rem .8rem;font-weight:600}
tr.front{background:#fdf1e7}tr.knee{font-weight:600}.note{color:#666}
.warn{background:#fff4d6;border-left:4px solid #e0a800;padding:.5rem .8rem}
"""


def html_page(results: Results) -> str:
    """Front, table against the baselines, hypervolume trace and weights, with interactive figures."""
    split = best_split(results)
    figures = (front_figure(results), trace_figure(results), weights_figure(results))
    first, second, third = (
        to_html(figure, full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(figures)
    )
    title = html.escape(results.name)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>recycler: {title}</title>
<style>{_STYLE}</style></head><body>
<h1>{title}</h1>
{_verdict(results)}
<p class="note">{html.escape(_summary(results))}</p>
{_warning(results, split)}
<h2>Front and baselines on {split} items</h2>{first}
{_floors(results, split)}
<h2>Scores on {split} items</h2>{_table(results, split)}
<p class="note">± is one standard error from the items; p(front) is the probability that the merge is
non-dominated among all shown, by a paired bootstrap over {split} items; the small figure under a
member's score is its regret, the distance to the best of all shown. Columns marked * are held
out: the search never saw them.</p>
<h2>Hypervolume</h2>{second}
<h2>Weights of the front</h2>{third}
</body></html>
"""


def _verdict(results: Results) -> str:
    """The decision, with a warning if no merge meets the floors."""
    front, parts = results.front, [as_html(results)]
    if not front.feasible:
        parts.append(f'<p class="bad">{html.escape(infeasible(results, front.basis))}</p>')
    return "".join(parts)


def _summary(results: Results) -> str:
    table = results.front_json()
    volume, before = table["hypervolume"]["test"], table["baseline_hypervolume"]["test"]
    text = (
        f"{results.plan.n} checkpoints, {results.plan.objectives.m} objectives, "
        f"{table['evaluations']} merges evaluated by {results.plan.sampler}, "
        f"{len(table['members'])} on the front."
    )
    if volume is not None and before:
        text += (
            f" Hypervolume on test items: {volume:.4g}, singles and baselines {before:.4g} "
            f"({volume / before - 1:+.1%})."
        )
    return " ".join(part for part in (text, costs(table)) if part)


def _warning(results: Results, split: str) -> str:
    if split == "test":
        return f'<p class="warn">{results.seen_by}</p>' if results.seen_by else ""
    text = (
        f"The front below is reported on {split} items, which the search or the choice used: it is "
        "optimistic until the study has been re-checked."
    )
    return f'<p class="warn">{" ".join(part for part in (text, results.rechecking) if part)}</p>'


def _floors(results: Results, split: str) -> str:
    """Legend of the dashed lines."""
    known = [
        f"{o.name} {o.floor} ({limit:.4g} on these items)"
        for o in results.plan.objectives.searched
        for limit in floors(results, split, o)
    ]
    text = html.escape("; ".join(known))
    return f'<p class="note">Dashed: the floors, {text}.</p>' if known else ""


def _table(results: Results, split: str) -> str:
    front = results.front
    knee = front.knee().number if front.members else None
    met = zip(front.trials, results.meets_floors, strict=True)
    below = {trial.number for trial, meets in met if not meets}
    rows: list[tuple[Trial, str, Mapping[str, float]]] = [
        (m.trial, f"{m.p_nondominated:.2f}", regret)
        for m, regret in zip(front.members, results.regrets, strict=True)
    ]
    shown = {trial.number for trial, *_ in rows}
    rows += [
        (t, "", {}) for t in results.baselines if t.number not in shown and split in t.evaluations
    ]
    objectives = [*results.plan.objectives]
    head = "".join(
        f"<th>{html.escape(o.name)}{'*' if o.held_out else ''} "
        f"{'↑' if o.direction == 'max' else '↓'}</th>"
        for o in objectives
    )
    body = "".join(
        _line(t, p, regret, objectives, split, _marks(t, knee, below)) for t, p, regret in rows
    )
    return f"<table><tr><th>trial</th><th>merge</th>{head}<th>p(front)</th></tr>{body}</table>"


def _marks(trial: Trial, knee: int | None, below: set[int]) -> str:
    marks = (" (knee)", trial.number == knee), (" (below floor)", trial.number in below)
    return "".join(mark for mark, applies in marks if applies)


def _line(
    trial: Trial,
    p: str,
    regret: Mapping[str, float],
    objectives: list[Any],
    split: str,
    marks: str,
) -> str:
    scores = trial.evaluations[split].scores
    cells = "".join(
        f"<td>{_cell(scores.get(o.name))}{_regret(regret.get(o.name))}</td>" for o in objectives
    )
    classes = ("front " if p else "") + ("knee" if "(knee)" in marks else "")
    name = html.escape(trial.name) + marks
    return (
        f'<tr class="{classes.strip()}"><td>{trial.number}</td><td>{name}</td>{cells}'
        f"<td>{p}</td></tr>"
    )


def _cell(score: Score | None) -> str:
    return "" if score is None else f"{score.mean:.3f} ± {score.stderr:.3f}"


def _regret(value: float | None) -> str:
    if value is None:
        return ""
    return "<small>best</small>" if value == 0 else f"<small>{value:.3f} behind</small>"
