"""The stages of a study, as pure functions of its plan and trials: when the search ends, who goes on.

Letters: m objectives.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recycler.front import baselines, pareto
from recycler.front.front import feasible, floor_gains, front_rows
from recycler.nouns.objectives import Array, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import SCORED, State, Trial

AHEAD = 10  # evaluations that `remaining_gain` looks ahead

# Number of a trial -> (m,) gains that are expected of it (see `front.expectation`).
Expected = Mapping[int, Array]


def spent(trials: Sequence[Trial]) -> int:
    """Evaluations of the budget that are used: all but the baselines and copied scores."""
    return sum(not trial.is_baseline and not trial.copied for trial in trials)


def remaining_gain(
    trials: Sequence[Trial], objectives: Objectives, reference: Sequence[float] | Array | None
) -> float | None:
    """Hypervolume that the next AHEAD evaluations are expected to add, as a share of the present.

    Read off the dev hypervolume before and after the sampler's last evaluations: 30 % of them, at
    least AHEAD (`pareto.expected_gain` has the formula). Stopped and failed trials added nothing.

    Returns:
        None before AHEAD evaluations have ended, and while nothing lies above the reference.
    """
    ended = [t for t in trials if t.kind == "search" and t.state != State.RUNNING and not t.copied]
    ended.sort(key=lambda trial: (trial.finished or 0, trial.number))
    k = len(ended)
    if k < AHEAD or reference is None:
        return None
    window = max(AHEAD, -(-3 * k // 10))
    recent = {trial.number for trial in ended[k - window :]}
    scored = [trial for trial in trials if trial.state == State.COMPLETE]
    before, now = (
        pareto.hypervolume(objectives.gains([t.means("dev") for t in some]), np.array(reference))
        for some in ([t for t in scored if t.number not in recent], scored)
    )
    before = min(before, now)  # sums in another order differ in their last digits
    return pareto.expected_gain(before, now, k, window, AHEAD) / now if now > 0 else None


def exhausted(
    plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | None
) -> float | None:
    """The remaining gain that ends the search by `plan.stop_gain`; None where it goes on."""
    if plan.stop_gain <= 0.0:  # a volume that is summed in another order may seem to shrink
        return None
    made = sum(t.kind == "search" and t.state != State.RUNNING and not t.copied for t in trials)
    left = remaining_gain(trials, plan.objectives, reference) if made >= plan.stop_after else None
    return left if left is not None and left < plan.stop_gain else None


def finalists(
    plan: Plan, trials: Sequence[Trial], reference: Array, expected: Expected | None = None
) -> list[Trial]:
    """Merges re-checked on select items: the front by expected gains, then ranks behind it.

    Without `expected`, the front by the scores themselves. Those that racing stopped are among them.
    The baselines are re-checked anyway and take no place.
    A front by noisy scores leaves true members out by chance; the ranks behind it get a second
    look while less than half of the places are taken. Where a rank is larger than the places left,
    those that add most hypervolume are taken. Merges below a floor are not among them, unless all
    are.
    """
    floors = floor_gains(trials, plan.objectives, "dev")
    scored = [trial for trial in trials if trial.state in SCORED]
    means = plan.objectives.gains([trial.means("dev") for trial in scored])
    judged = expected or {t.number: row for t, row in zip(scored, means, strict=True)}
    left = feasible(scored, plan.objectives, "dev", floors)
    chosen: list[Trial] = []
    while left and len(chosen) < max(1, plan.finalists // 2):
        front = pareto.nondominated(np.array([judged[trial.number] for trial in left]))
        rank = [trial for trial, kept in zip(left, front, strict=True) if kept]
        merges = [trial for trial in rank if not trial.is_baseline]
        gains = np.array([judged[trial.number] for trial in merges])
        kept = pareto.covering(gains, reference, plan.finalists - len(chosen))
        chosen += [merges[row] for row in kept]
        left = [trial for trial in left if trial not in rank]
    return sorted(chosen, key=lambda trial: trial.number)


def elected(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Members of the reported front: who is non-dominated on select items.

    The references stand for election too: a single checkpoint that nothing beats is a member. Who
    is below a floor on these items is not elected, unless all are.
    """
    checked = [trial for trial in trials if "select" in trial.evaluations]
    floors = floor_gains(trials, plan.objectives, "select")
    return front_rows(checked, plan.objectives, "select", floors)


def due(
    plan: Plan,
    trials: Sequence[Trial],
    split: str,
    reference: Array,
    expected: Expected | None = None,
) -> list[Trial]:
    """Who has to be scored on select or test items, by number.

    Args:
        plan: the study.
        trials: its ledger.
        split: `select`: the finalists and the baselines; `test`: the elected and the baselines.
        reference: (m,) fixed worst corner, as gains.
        expected: number of a trial -> (m,) gains that are expected of it on dev items.
    """
    if split == "select":
        chosen = finalists(plan, trials, reference, expected)
    else:
        chosen = elected(plan, trials)
    others = [trial for trial in baselines.scored(plan, trials) if trial not in chosen]
    return sorted([*chosen, *others], key=lambda trial: trial.number)
