"""The gains expected of merges on further items: their scores, shrunk by the surrogate.

The best of many noisy scores is too high: selection favours luck (the winner's curse). The
surrogate's posterior mean at the merge corrects for it; picks by it are better on test items than
picks by the scores (bench/LOG.md).

Letters: k trials, m objectives.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recycler.front.inducing import affordable
from recycler.front.posterior import EXACT
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import SCORED, Trial


def expected(
    plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | Array, split: str = "dev"
) -> Mapping[int, Array]:
    """Trial number -> (m,) expected gains, given all scores.

    A trial that is no point of the space (see `Plan.sees`) keeps its scores: nothing shrinks them.
    Scores on select or test items are further, independent measurements of the same merges, apart
    from a shift that all merges share: these items may be easier or harder than the dev items.

    Args:
        plan: the study.
        trials: its ledger.
        reference: (m,) fixed worst corner, as gains.
        split: `dev`: from dev scores alone, for all scored trials. Else also from the scores on this
            split, on its scale, for the trials scored there.

    Tries that have no point of the space keep their scores.
    """
    others = [
        t for t in trials if t.state in SCORED and split in t.evaluations and not plan.sees(t)
    ]
    if others:
        known, _ = _measured(plan, others, split)
        seen = [trial for trial in trials if plan.sees(trial)]
        own = {trial.number: gains for trial, gains in zip(others, known, strict=True)}
        return {**expected(plan, seen, reference, split), **own}
    scored, x, y, errors = scored_points(plan, trials)
    corner = np.asarray(reference, dtype=np.float64)
    if split == "dev":
        asked, shift, found = (
            scored,
            np.zeros(plan.objectives.m),
            shrunk(plan, corner, x, y, errors),
        )
    else:
        rows = [row for row, trial in enumerate(scored) if split in trial.evaluations]
        asked = [scored[row] for row in rows]
        again, doubts = _measured(plan, asked, split)
        shift = again.mean(axis=0) - y[rows].mean(axis=0)
        all_errors = np.concatenate((errors, doubts))
        both = np.concatenate((x, x[rows])), np.concatenate((y, again - shift)), all_errors
        found = shrunk(plan, corner, *both, first=rows)[-len(rows) :]
    return {trial.number: gains for trial, gains in zip(asked, found + shift, strict=True)}


def shrunk(
    plan: Plan,
    reference: Array,
    x: Array,
    y: Array,
    errors: Array,
    first: Sequence[int] = (),
) -> Array:
    """(k, m) expected gains of merges on further items: the posterior mean at each merge.

    The noisier a merge's score, the more it is pulled towards what the model predicts from the
    other merges. Unknown noise is fitted. Gains without noise and properties of the merge itself
    (`merge.…`) stay as they are.

    Args:
        plan: the study, with its space and objectives.
        reference: (m,) fixed worst corner, as gains.
        x: (k, d) points of the merges.
        y: (k, m) gains.
        errors: (k, m) standard errors; a column of zeros where they are unknown.
        first: rows that matter most, if there are very many (see `inducing.affordable`).
    """
    made, objectives = y.copy(), plan.objectives.searched
    models = affordable(plan.points, reference, x, y, errors, first)
    for j, objective in enumerate(objectives):
        model, squeeze = next(models)
        noisy = (errors[:, j] > 0).any() or model.scales.noise > EXACT
        if noisy and not objective.of_merge:
            made[:, j] = squeeze.undone(model.at_trials())
        del model  # before the next one is made: of thousands of trials it is large
    return made


def predicted(
    plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | Array, recipe: Recipe
) -> tuple[Array, Array]:
    """(m,) gains predicted for a merge not scored yet, and (m,) their standard deviations."""
    _, x, y, errors = scored_points(plan, trials)
    space, corner = plan.points, np.asarray(reference, dtype=np.float64)
    point = space.point_of(recipe)[None]
    means, deviations = [], []
    for model, squeeze in affordable(space, corner, x, y, errors):
        mean = squeeze.undone(model.mean(point))
        _, factor = squeeze(mean)
        means.append(mean[0])
        deviations.append(model.deviation(point)[0] / factor[0])
    return np.array(means), np.array(deviations)


def scored_points(plan: Plan, trials: Sequence[Trial]) -> tuple[list[Trial], Array, Array, Array]:
    """Return k scored trials, their (k, d) points, (k, m) dev gains and (k, m) standard errors."""
    scored = [trial for trial in trials if trial.state in SCORED and plan.sees(trial)]
    space = plan.points
    x = np.array([space.point_of(trial.recipe) for trial in scored])
    return scored, x, *_measured(plan, scored, "dev")


def _measured(plan: Plan, trials: Sequence[Trial], split: str) -> tuple[Array, Array]:
    """(k, m) gains on a split and (k, m) their standard errors, 0 where unknown."""
    objectives = plan.objectives
    scores = [trial.evaluations[split].scores for trial in trials]
    errors = [[row[o.name].stderr for o in objectives.searched] for row in scores]
    return objectives.gains([trial.means(split) for trial in trials]), np.array(errors)
