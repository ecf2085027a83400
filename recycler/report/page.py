"""The HTML report of a study: one self-contained file that needs no network."""

import html
from collections.abc import Mapping
from typing import Any

from plotly.io import to_html

from recycler.front.results import Results
from recycler.nouns.trial import Trial
from recycler.report.decision import as_html
from recycler.report.figures import caption_of, front_figure, parallel_figure
from recycler.report.forest import forest_figure
from recycler.report.groups import best_split, floors
from recycler.report.numbers import headed, probability, scored
from recycler.report.text import costs, errorless, infeasible, marked, references
from recycler.report.volume import trace_figure
from recycler.report.weights import roles_figure, weights_figure

_HALF = 472  # width of a figure that shares its row [px]
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;width:960px;margin:1.5rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:1.2rem 0 .2rem}
p{margin:.4rem 0}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}
th,td{padding:.2rem .6rem;white-space:nowrap;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
td small{display:block;color:#777;font-size:.72rem;line-height:1}
figure{margin:0}figcaption{color:#555;font-size:.82rem;line-height:1.35}
.pair{display:flex;gap:16px;align-items:flex-start}.pair figure{width:472px}
.decision{border:2px solid #009E73;border-radius:6px;padding:.1rem 1rem .4rem;margin:.6rem 0}
.decision td,.decision th{white-space:normal;vertical-align:top;line-height:1.25}
.decision td:nth-child(2),.decision th:nth-child(2){white-space:nowrap}
.decision h2{margin:.4rem 0 .2rem}.verdict{font-weight:600}
td.better{color:#00694c}td.worse{color:#b3261e}td.cant-tell{color:#7a5c00}
.bad{background:#fde2e0;border-left:4px solid #c0392b;padding:.5rem .8rem;font-weight:600}
tr.front{background:#fdf1e7}tr.pick{font-weight:600}.note{color:#555;font-size:.85rem}
.warn{background:#fff4d6;border-left:4px solid #e0a800;padding:.5rem .8rem}.paper{display:none}
@page{size:A4;margin:10mm}
@media print{
body{width:960px;margin:0;padding:0;zoom:.68;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
h2,figure,tr{break-inside:avoid}h2{break-after:avoid;margin-top:.5rem}
.decision{padding:0 .6rem .2rem}td,th{padding:.1rem .5rem}
.screen,.modebar{display:none!important}.paper{display:block}
}
"""
_DRAWN = {"displayModeBar": False}


def html_page(results: Results, script: str | None = None) -> str:
    """The report as one file: the decision, the front, the search, the weights, all scores.

    Printed, it fills one A4 page with the decision and its reasons; the rest is for the screen.

    Args:
        results: the study.
        script: what stands in the place of plotly's source; None: the source itself (4.8 MB).
    """
    split, title = best_split(results), html.escape(results.name)
    front = (script or "") + _figure(front_figure(results), script=script is None)
    pair = _figure(trace_figure(results, _HALF)) + _figure(weights_figure(results, _HALF))
    parts = [
        f"<h1>{title}</h1>",
        _verdict(results),
        f'<p class="note">{html.escape(_summary(results))}</p>',
        _warning(results, split),
        f"<h2>Front and baselines on {split} items</h2>{front}{_floors(results, split)}",
        _forest(results),
        f'<h2>Search and weights</h2><div class="pair">{pair}</div>',
        '<p class="paper note">All scores, parallel coordinates and the weights against single '
        "scores are in this page on a screen, and in `recycler front STUDY --csv FILE`.</p>",
        '<div class="screen">',
        f"<h2>Scores on {split} items</h2><div class='scroll'>{_table(results, split)}</div>",
        f'<p class="note">{_TABLE_NOTE.format(split=split)}</p>',
        _parallel(results),
        f"<h2>Weights and single scores</h2>{_figure(roles_figure(results))}",
        "</div>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>recycler: {title}</title>\n<style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


_TABLE_NOTE = (
    "± is one standard error from the items; p(front) is the probability that the merge is "
    "non-dominated among merges, by a paired bootstrap over {split} items; the small figure under "
    "a member's score is its regret, the distance to the best of all shown. Columns marked * are "
    "held out: the search never saw them."
)


def _figure(figure: Any, script: bool = False) -> str:
    """A figure with its caption; `script` puts plotly's source in front of it."""
    drawn = to_html(figure, full_html=False, include_plotlyjs=script, config=_DRAWN)
    return f"<figure>{drawn}<figcaption>{html.escape(caption_of(figure))}</figcaption></figure>"


def _parallel(results: Results) -> str:
    """Parallel coordinates, if there are three objectives or more."""
    many = len(results.plan.objectives.all) > 2
    figure = _figure(parallel_figure(results)) if many else ""
    return f"<h2>All objectives at once</h2>{figure}" if many else ""


def _forest(results: Results) -> str:
    """The pick against its rivals."""
    found = results.decision.verdict if results.decision else None
    if found is None or not found.comparisons:
        return ""
    drawn = _figure(forest_figure(found))
    return f"<h2>Trial {found.trial} against its rivals</h2>{drawn}"


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
        f"{results.plan.n} checkpoints, {results.plan.objectives.m} objective"
        f"{'s' if results.plan.objectives.m > 1 else ''}, "
        f"{table['evaluations']} merges evaluated by {results.plan.sampler}, "
        f"{len(table['members'])} on the front."
    )
    if volume is not None and before:
        times = f"{volume / before:.3f} times that of singles and baselines"
        text += f" Hypervolume on test items: {times}."
    told = (costs(table), *references(table), errorless(results, results.front.certainty))
    return " ".join(part for part in (text, *told) if part)


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
    pick = results.decision.pick.number if results.decision else None
    rows: list[tuple[Trial, str, Mapping[str, float]]] = [
        (m.trial, probability(m.p_nondominated), regret)
        for m, regret in zip(front.members, results.regrets, strict=True)
    ]
    shown = {trial.number for trial, *_ in rows}
    rows += [
        (t, "", {}) for t in results.baselines if t.number not in shown and split in t.evaluations
    ]
    objectives = [*results.plan.objectives]
    head = "".join(f"<th>{html.escape(headed(o))}</th>" for o in objectives)
    body = "".join(
        _line(t, p, regret, objectives, split, marked(results, t), t.number == pick)
        for t, p, regret in rows
    )
    return f"<table><tr><th>trial</th><th>merge</th>{head}<th>p(front)</th></tr>{body}</table>"


def _line(
    trial: Trial,
    p: str,
    regret: Mapping[str, float],
    objectives: list[Any],
    split: str,
    name: str,
    picked: bool,
) -> str:
    scores = trial.evaluations[split].scores
    cells = "".join(
        f"<td>{scored(scores.get(o.name))}{_regret(regret.get(o.name))}</td>" for o in objectives
    )
    classes = ("front " if p else "") + ("pick" if picked else "")
    return (
        f'<tr class="{classes.strip()}"><td>{trial.number}</td><td>{html.escape(name)}</td>{cells}'
        f"<td>{p}</td></tr>"
    )


def _regret(value: float | None) -> str:
    if value is None:
        return ""
    return "<small>best</small>" if value == 0 else f"<small>{value:.3f} behind</small>"
