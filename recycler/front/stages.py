"""The stages of a study as pure functions of plan and trials: stop rule, finalists, elected.

Letters: m objectives.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recycler.front import baselines, pareto
from recycler.front.front import feasible, floor_gains, front_rows
from recycler.nouns.objectives import Array, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import SCORED, Kind, State, Trial

AHEAD = 10  # evaluations that `remaining_gain` extrapolates over

# Trial number -> (m,) expected gains (see `front.expectation`).
Expected = Mapping[int, Array]


def spent(trials: Sequence[Trial]) -> int:
    """Evaluations of the budget used so far: baselines, tries and copied scores are free."""
    return sum(not trial.is_extra and not trial.copied for trial in trials)


def searched(plan: Plan, trials: Sequence[Trial]) -> tuple[int, int]:
    """Number of trials that have ended, and of those at the end of the search if none is left out."""
    ended = [trial for trial in trials if trial.state != State.RUNNING]
    made = sum(trial.is_baseline for trial in ended)
    expected = max(made, baselines.most(plan))
    copies = sum(bool(entry["copy"]) for entry in plan.warm)
    tries = sum(trial.kind == Kind.TRY for trial in trials)
    return len(ended), expected + (plan.evaluations if plan.n > 1 else 0) + copies + tries


def remaining_gain(
    trials: Sequence[Trial], objectives: Objectives, reference: Sequence[float] | Array | None
) -> float | None:
    """Hypervolume that the next AHEAD evaluations are expected to add, as a share of the current.

    It is extrapolated from the gain in dev hypervolume over the sampler's last evaluations: 30 % of
    them, at least AHEAD (see `pareto.expected_gain`). Pruned and failed trials count as no gain.

    Returns:
        None before AHEAD evaluations have ended, and while no trial lies above the reference.
    """
    ended = [t for t in trials if t.kind == "search" and t.state != State.RUNNING and not t.copied]
    ended.sort(key=lambda trial: (trial.finished or 0, trial.number))
    k = len(ended)
    if k < AHEAD or reference is None:
        return None
    window = max(AHEAD, -(-3 * k // 10))
    recent = {trial.number for trial in ended[k - window :]}
    scored = [trial for trial in trials if trial.state == State.COMPLETE and trial.is_merge]
    gains = objectives.gains([t.means("dev") for t in scored])
    old = np.array([t.number not in recent for t in scored], dtype=bool)
    corner = np.array(reference)
    before, now = pareto.hypervolume(gains[old], corner), pareto.hypervolume(gains, corner)
    before = min(before, now)  # the order of sums changes the last digits
    return pareto.expected_gain(before, now, k, window, AHEAD) / now if now > 0 else None


def exhausted(
    plan: Plan, trials: Sequence[Trial], reference: Sequence[float] | None
) -> float | None:
    """Return the remaining gain if it ends the search by `plan.stop_gain`; None to go on."""
    if plan.stop_gain <= 0.0:  # rounding may make the gain negative
        return None
    made = sum(t.kind == "search" and t.state != State.RUNNING and not t.copied for t in trials)
    left = remaining_gain(trials, plan.objectives, reference) if made >= plan.stop_after else None
    return left if left is not None and left < plan.stop_gain else None


def finalists(
    plan: Plan, trials: Sequence[Trial], reference: Array, expected: Expected | None = None
) -> list[Trial]:
    """Return the merges to re-check on select items: the front, then the next ranks.

    Fronts are by expected gains, or by scores without `expected`; pruned trials take part. Because
    noisy scores leave true members out by chance, further ranks are added until half of
    `plan.finalists` are chosen. A rank larger than the places left is cut to the merges that add most
    hypervolume. Merges below a floor are left out, unless all are below. Baselines and tries are
    re-checked anyway and take no place.
    """
    floors = floor_gains(trials, plan.objectives, "dev")
    scored = [trial for trial in trials if trial.state in SCORED and trial.is_merge]
    means = plan.objectives.gains([trial.means("dev") for trial in scored])
    judged = expected or {t.number: row for t, row in zip(scored, means, strict=True)}
    left = feasible(scored, plan.objectives, "dev", floors)
    chosen: list[Trial] = []
    while left and len(chosen) < max(1, plan.finalists // 2):
        front = pareto.nondominated(np.array([judged[trial.number] for trial in left]))
        rank = [trial for trial, kept in zip(left, front, strict=True) if kept]
        merges = [trial for trial in rank if not trial.is_extra]
        gains = np.array([judged[trial.number] for trial in merges])
        kept = pareto.covering(gains, reference, plan.finalists - len(chosen))
        chosen += [merges[row] for row in kept]
        left = [trial for trial, kept in zip(left, front, strict=True) if not kept]
    return sorted(chosen, key=lambda trial: trial.number)


def elected(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Return the members of the reported front: the non-dominated trials on select items.

    Baselines take part: a single checkpoint that no merge dominates is a member. Trials below a
    floor on these items are left out, unless all are below.
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
    """Return the trials to score on select or test items, by number.

    Args:
        plan: the study.
        trials: its ledger.
        split: `select`: finalists, baselines and tries; `test`: the elected, baselines and tries.
        reference: (m,) fixed worst corner, as gains.
        expected: trial number -> (m,) expected gains on dev items.
    """
    if split == "select":
        chosen = finalists(plan, trials, reference, expected)
    else:
        chosen = elected(plan, trials)
    tries = [t for t in trials if t.kind == Kind.TRY and t.state == State.COMPLETE]
    found = {trial.number: trial for trial in (*chosen, *baselines.scored(plan, trials), *tries)}
    return [found[number] for number in sorted(found)]
