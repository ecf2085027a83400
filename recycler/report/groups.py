"""Trials to draw, by kind: with the colour, the mark and the label that every figure uses."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from recycler.front.results import Results
from recycler.front.tradeoffs import spearman
from recycler.nouns.evaluation import Score
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import State, Trial

# Safe for colour-blind readers (Okabe & Ito).
COLOURS = {
    "pruned": "#B5B5B5",
    "search": "#9A9A9A",
    "greedy": "#56B4E9",
    "single": "#0072B2",
    "uniform": "#009E73",
    "merge-best": "#CC79A7",
    "try": "#E69F00",
    "reference": "#000000",
    "front": "#D55E00",
}
LABELS = {
    "pruned": "pruned (some dev items)",
    "search": "dominated merges",
    "greedy": "greedy soup's path",
    "single": "singles",
    "try": "own tries",
    "reference": "references",
}
FAINT = ("pruned", "search")  # drawn without errors, and pale
PANELS = 6  # most pairs of objectives in one figure


def groups(results: Results, split: str) -> dict[str, list[Trial]]:
    """Trials scored on a split, grouped by kind; members of the front form their own group.

    Pruned trials are included, with their estimates for the dev items.
    """
    members = {trial.number for trial in results.front.trials}
    found: dict[str, list[Trial]] = {kind: [] for kind in COLOURS}
    for trial in results.trials:
        if trial.number in members:
            found["front"].append(trial)
        elif trial.state == State.PRUNED:
            found["pruned"].append(trial)
        elif split in trial.evaluations and trial.state == State.COMPLETE:
            found[trial.kind].append(trial)
    return {kind: trials for kind, trials in found.items() if trials}


def label(kind: str) -> str:
    """The name of a group in legends."""
    return LABELS.get(kind, kind)


def score(trial: Trial, objective: Objective, split: str) -> Score | None:
    """The score to draw: that on the split; for a pruned trial, that on dev items."""
    evaluation = trial.evaluations.get("dev" if trial.state == State.PRUNED else split)
    return evaluation.scores.get(objective.name) if evaluation else None


def means(trials: Sequence[Trial], objective: Objective, split: str) -> list[float]:
    """(k,) scores to draw, NaN where there is none."""
    found = [score(trial, objective, split) for trial in trials]
    return [s.mean if s else np.nan for s in found]


def errors(trials: Sequence[Trial], objective: Objective, split: str) -> list[float]:
    """(k,) standard errors of the scores to draw, NaN where there is none."""
    found = [score(trial, objective, split) for trial in trials]
    return [s.stderr if s else np.nan for s in found]


def best_split(results: Results) -> str:
    """The most honest split on which all members of the front were scored."""
    return results.front.certainty


def pairs(results: Results) -> list[tuple[Objective | None, Objective]]:
    """Pairs of searched objectives, at most `PANELS`: those with the strongest trade-off.

    The trade-off is the negative rank correlation of the gains of members and baselines. With one
    objective: None (the number of the trial) and that objective.
    """
    searched = results.plan.objectives.searched
    if len(searched) == 1:
        return [(None, searched[0])]
    found = list(combinations(range(len(searched)), 2))
    if len(found) > PANELS:
        shown = {t.number: t for t in (*results.front.trials, *results.baselines)}.values()
        gains = results.plan.objectives.gains([t.means("dev") for t in shown])
        ranked = sorted(found, key=lambda pair: _agreement(gains[:, pair[0]], gains[:, pair[1]]))
        found = sorted(ranked[:PANELS])
    return [(searched[i], searched[j]) for i, j in found]


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; 0 if one column is constant."""
    constant = len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0
    return 0.0 if constant else float(spearman(np.stack([one, other], axis=1))[0, 1])


def floors(results: Results, split: str, objective: Objective) -> list[float]:
    """The worst score that an objective's floor allows on a split; empty if it has no floor."""
    limits = results.plan.objectives.raw(results.floors(split))
    known = zip(results.plan.objectives.searched, limits, strict=True)
    return [float(limit) for o, limit in known if o == objective and np.isfinite(limit)]


def hover(trial: Trial) -> str:
    """Number, name and largest weights of a trial, for a plotly label."""
    top = list(trial.recipe.weights.items())[:4]
    return f"trial {trial.number} ({trial.name})<br>" + "<br>".join(f"{w:.3f} {n}" for n, w in top)


def axis_title(objective: Objective) -> str:
    """Name, unit and direction of an objective."""
    way = "higher is better" if objective.direction == "max" else "lower is better"
    unit = f" [{objective.unit}]" if objective.unit else ""
    return f"{objective.name}{unit}, {way}"
