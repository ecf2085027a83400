"""What merges are expected to score on further items: their luck shrunk by what the others say.

The best of many merges by noisy scores owes a part of its lead to the items it was scored on. The
surrogate's posterior mean at the merge itself does not (bench/LOG.md: picks by it are better on test
items than picks by the scores).

Letters: k trials, m objectives. May import: the nouns, search.surrogate, search.optuna_box.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recycler.objectives import Array
from recycler.plan import Plan
from recycler.search.optuna_box import problem_of
from recycler.search.surrogate import shrunk
from recycler.trial import COMPLETE, STOPPED, Trial


def expected(
    plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | Array, split: str = "dev"
) -> Mapping[int, Array]:
    """Number of a trial -> (m,) gains that are expected of it, given all that was measured.

    Gains on select items are further, independent measurements of the same merges, up to what these
    items are harder or easier for all of them.

    Args:
        plan: the study.
        trials: its ledger.
        reference: (m,) fixed worst corner, as gains.
        split: whose scores count: those on dev items alone, or those on this split too; in its
            terms, for the trials scored there.
    """
    problem = problem_of(plan, trials, reference)
    scored = [trial for trial in trials if trial.state in (COMPLETE, STOPPED)]
    x = np.array([problem.space.point_of(trial.recipe) for trial in scored])
    y, errors = _measured(plan, scored, "dev")
    if split == "dev":
        asked, shift, found = scored, np.zeros(plan.objectives.m), shrunk(problem, x, y, errors)
    else:
        rows = [row for row, trial in enumerate(scored) if split in trial.evaluations]
        asked = [scored[row] for row in rows]
        again, doubts = _measured(plan, asked, split)
        shift = again.mean(axis=0) - y[rows].mean(axis=0)
        all_errors = np.concatenate((errors, doubts))
        both = np.concatenate((x, x[rows])), np.concatenate((y, again - shift)), all_errors
        found = shrunk(problem, *both)[len(scored) :]
    return {trial.number: gains for trial, gains in zip(asked, found + shift, strict=True)}


def _measured(plan: Plan, trials: Sequence[Trial], split: str) -> tuple[Array, Array]:
    """(k, m) gains on a split and (k, m) their standard errors, 0 where not known."""
    objectives = plan.objectives
    scores = [trial.evaluations[split].scores for trial in trials]
    errors = [[row[o.name].stderr for o in objectives.searched] for row in scores]
    return objectives.gains([trial.means(split) for trial in trials]), np.array(errors)
