"""The baselines of a study and the greedy soup: their proposals, and their trials in the ledger.

Singles, uniform and merge-best come on top of the budget; the greedy-soup path is its first part.
Letters: n checkpoints, m objectives, k trials.

Reference: arXiv 2412.04144, § 4 (uniform, merge-best); Wortsman et al. 2022, arXiv 2203.05482
(greedy soup).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recycler.front.scale import steps
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Kind, Proposal, State, Trial

# Most steps of the greedy path. All n - 1 would take 31 of 50 evaluations at n = 32, and the
# surrogate reaches the path's average without it (bench/search_bench.py).
GREEDY_STEPS = 8


def soup(n: int, members: Sequence[int]) -> tuple[float, ...]:
    """(n,) weights of the plain average of the checkpoints at positions `members`."""
    return tuple(1.0 / len(members) if i in members else 0.0 for i in range(n))


def proposals(plan: Plan, trials: Sequence[Trial]) -> Iterator[Proposal]:
    """Yield the singles, uniform, and merge-best once every single is finished, in that order."""
    for i, name in enumerate(plan.names):
        yield Proposal(
            kind=Kind.SINGLE, name=f"single:{name}", recipe=plan.recipe(soup(plan.n, [i]))
        )
    everyone = range(plan.n)
    yield Proposal(kind=Kind.UNIFORM, name="uniform", recipe=plan.recipe(soup(plan.n, everyone)))
    best = best_of_each(plan, trials)
    if best:
        yield Proposal(
            kind=Kind.MERGE_BEST, name="merge-best", recipe=plan.recipe(soup(plan.n, best))
        )


def singles(plan: Plan, trials: Sequence[Trial]) -> dict[int, Trial]:
    """Position in the pool -> trial of each single in the ledger."""
    by_id = {trial.recipe.id: trial for trial in trials}
    ids = [plan.recipe(soup(plan.n, [i])).id for i in range(plan.n)]
    return {i: by_id[id_] for i, id_ in enumerate(ids) if id_ in by_id}


def singles_done(plan: Plan, trials: Sequence[Trial]) -> bool:
    """Whether every single has been scored or has failed."""
    found = singles(plan, trials)
    return len(found) == plan.n and all(trial.state != State.RUNNING for trial in found.values())


def single_gains(plan: Plan, trials: Sequence[Trial]) -> dict[int, Array]:
    """Position in the pool -> (m,) dev gains of each scored single."""
    done = {i: t for i, t in singles(plan, trials).items() if t.state == State.COMPLETE}
    return {i: plan.objectives.gains([t.means("dev")])[0] for i, t in done.items()}


def best_of_each(plan: Plan, trials: Sequence[Trial]) -> list[int]:
    """Positions of the best single of each objective; empty until every single is finished."""
    if not singles_done(plan, trials):
        return []
    known = single_gains(plan, trials)
    return (
        sorted({max(known, key=lambda i: (known[i][j], -i)) for j in range(plan.objectives.m)})
        if known
        else []
    )


def greedy_step(plan: Plan, trials: Sequence[Trial], limit: int = GREEDY_STEPS) -> Proposal | None:
    """Return the next merge of the greedy-soup path; None if it is complete or waits for a score.

    Singles are tried in order of their average dev gain, in steps of each objective's scale. A
    single stays in the soup if it raises that average. At most `limit` are tried.
    """
    known = single_gains(plan, trials)
    if len(known) < 2:
        return None
    scales = scales_of(plan, trials)
    utility = {i: float((gains / scales).mean()) for i, gains in known.items()}
    order = sorted(known, key=lambda i: (-utility[i], i))
    by_id: Mapping[str, Trial] = {trial.recipe.id: trial for trial in trials}
    members, best = [order[0]], utility[order[0]]
    for step, candidate in enumerate(order[1 : limit + 1], start=1):
        recipe = plan.recipe(soup(plan.n, [*members, candidate]))
        trial = by_id.get(recipe.id)
        if trial is None:
            return Proposal(kind=Kind.GREEDY, name=f"greedy {step}", recipe=recipe)
        if trial.state == State.RUNNING:
            return None
        if trial.state == State.COMPLETE:
            gains = plan.objectives.gains([trial.means("dev")])[0]
            average = float((gains / scales).mean())
            if average > best:
                members, best = [*members, candidate], average
    return None


def scored(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Return the scored baselines by number, then the greedy soup if there is one."""
    soup = greedy_soup(plan, trials)
    known = [t for t in trials if t.is_baseline and t.state == State.COMPLETE]
    return [*known, *([soup] if soup else [])]


def steps_of(plan: Plan, trials: Sequence[Trial]) -> Array:
    """(m,) one step of each objective in its unit, from the scored singles (see `scale.steps`)."""
    singles = [t for t in trials if t.kind == Kind.SINGLE and t.state == State.COMPLETE]
    scores = [t.evaluations["dev"].scores for t in singles]
    errors = [[row[o.name].stderr for o in plan.objectives.searched] for row in scores]
    gains = plan.objectives.gains([t.means("dev") for t in singles])
    return steps(plan.objectives, gains, np.array(errors).reshape(gains.shape))


def scales_of(plan: Plan, trials: Sequence[Trial]) -> Array:
    """(m,) divisors of gains in averages: the steps over the objectives' weights."""
    return steps_of(plan, trials) / plan.objectives.weights


def greedy_soup(plan: Plan, trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the best average on the greedy path so far; None before the first."""
    path = [t for t in trials if t.kind == "greedy" and t.state == State.COMPLETE]
    if not path:
        return None
    scales = scales_of(plan, trials)
    gains = plan.objectives.gains([t.means("dev") for t in path])
    return path[int(np.argmax((gains / scales).mean(axis=1)))]


def less_one(plan: Plan, trials: Sequence[Trial]) -> Iterator[Proposal]:
    """Yield the greedy soup without each of its members in turn, once the path is complete."""
    made = greedy_soup(plan, trials)
    if made is None or any(t.kind == "greedy" and t.state == State.RUNNING for t in trials):
        return
    members = [i for i, weight in enumerate(made.recipe.vector(plan.names)) if weight]
    for i in members if len(members) > 2 else ():
        recipe = plan.recipe(soup(plan.n, [j for j in members if j != i]))
        yield Proposal(kind=Kind.SEARCH, name=f"greedy less {plan.names[i]}", recipe=recipe)
