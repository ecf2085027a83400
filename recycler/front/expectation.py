"""The gains expected of merges on further items: their scores, shrunk by the surrogate.

The best of many noisy scores is too high: selection favours luck (the winner's curse). The
surrogate's posterior mean at the merge corrects for it; picks by it are better on test items than
picks by the scores (bench/LOG.md).

Letters: k trials, m objectives.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recycler.front import posterior
from recycler.front.posterior import MANY, shrunk
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
    if len(scored) > MANY and split == "dev":
        return dict(zip((trial.number for trial in scored), y, strict=True))
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
        if len(scored) > MANY:
            x, y, errors, rows = x[rows], y[rows], errors[rows], list(range(len(rows)))
        all_errors = np.concatenate((errors, doubts))
        both = np.concatenate((x, x[rows])), np.concatenate((y, again - shift)), all_errors
        found = shrunk(plan, corner, *both)[-len(rows) :]
    return {trial.number: gains for trial, gains in zip(asked, found + shift, strict=True)}


def predicted(
    plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | Array, recipe: Recipe
) -> tuple[Array, Array] | None:
    """(m,) gains predicted for a merge not scored yet, and (m,) their standard deviations.

    None if there are more than MANY scored trials.
    """
    scored, x, y, errors = scored_points(plan, trials)
    if len(scored) > MANY:
        return None
    space, corner = plan.points, np.asarray(reference, dtype=np.float64)
    return posterior.predicted(space, corner, x, y, errors, space.point_of(recipe))


def scored_points(plan: Plan, trials: Sequence[Trial]) -> tuple[list[Trial], Array, Array, Array]:
    """Return k scored trials, their (k, d) points, (k, m) dev gains and (k, m) standard errors."""
    scored = [trial for trial in trials if trial.state in SCORED and plan.sees(trial)]
    x = np.array([plan.points.point_of(trial.recipe) for trial in scored])
    return scored, x, *_measured(plan, scored, "dev")


def _measured(plan: Plan, trials: Sequence[Trial], split: str) -> tuple[Array, Array]:
    """(k, m) gains on a split and (k, m) their standard errors, 0 where unknown."""
    objectives = plan.objectives
    scores = [trial.evaluations[split].scores for trial in trials]
    errors = [[row[o.name].stderr for o in objectives.searched] for row in scores]
    return objectives.gains([trial.means(split) for trial in trials]), np.array(errors)
