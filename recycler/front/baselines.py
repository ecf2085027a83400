"""The baselines of a study and the greedy soup: their proposals, and their trials in the ledger.

Singles, uniform and merge-best come on top of the budget; the greedy-soup path is its first part.
Letters: n checkpoints, m objectives, k trials.

Reference: arXiv 2412.04144, § 4 (uniform, merge-best); Wortsman et al. 2022, arXiv 2203.05482
(greedy soup).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recycler.front.scale import steps
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind, Proposal, State, Trial

# Most steps of the greedy path. All n - 1 would take 31 of 50 evaluations at n = 32, and the
# surrogate reaches the path's average without it (bench/search_bench.py).
GREEDY_STEPS = 8


def soup(n: int, members: Sequence[int]) -> tuple[float, ...]:
    """(n,) weights of the plain average of the checkpoints at positions `members`."""
    return tuple(1.0 / len(members) if i in members else 0.0 for i in range(n))


def proposals(plan: Plan, trials: Sequence[Trial]) -> Iterator[Proposal]:
    """Yield the singles, uniform, merge-best once every single is finished, and the references.

    Models come before the merges, so that one that can't be loaded is told before they are paid for.
    Recipes of the user's come last: one that is also a baseline must not take its place.
    """
    references = [
        Proposal(kind=Kind.REFERENCE, name=entry.title, recipe=entry.recipe)
        for entry in plan.references
    ]
    for i, name in enumerate(plan.names):
        yield Proposal(
            kind=Kind.SINGLE, name=f"single:{name}", recipe=plan.recipe(soup(plan.n, [i]))
        )
    yield from (entry for entry in references if entry.recipe.is_model)
    everyone = range(plan.n)
    yield Proposal(kind=Kind.UNIFORM, name="uniform", recipe=plan.recipe(soup(plan.n, everyone)))
    best = best_of_each(plan, trials)
    if best:
        yield Proposal(
            kind=Kind.MERGE_BEST, name="merge-best", recipe=plan.recipe(soup(plan.n, best))
        )
        yield from (entry for entry in references if not entry.recipe.is_model)


def merges_best(plan: Plan) -> bool:
    """Whether merge-best may be a merge of its own: neither uniform nor a single by construction."""
    return plan.n > 2 and plan.objectives.m > 1


def most(plan: Plan) -> int:
    """Most baselines that a study scores: singles, uniform, merge-best and references."""
    return plan.n + (plan.n > 1) + merges_best(plan) + len(plan.references)


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
    for step, recipe, trial in _path(plan, trials, limit):
        if trial is None:
            return Proposal(kind=Kind.GREEDY, name=f"greedy {step}", recipe=recipe)
    return None


def _path(
    plan: Plan, trials: Sequence[Trial], limit: int = GREEDY_STEPS
) -> Iterator[tuple[int, Recipe, Trial | None]]:
    """Yield step, merge and trial of the greedy path up to the first that is not scored yet."""
    known = single_gains(plan, trials)
    if len(known) < 2:
        return
    scales = scales_of(plan, trials)
    utility = {i: float((gains / scales).mean()) for i, gains in known.items()}
    order = sorted(known, key=lambda i: (-utility[i], i))
    by_id: Mapping[str, Trial] = {trial.recipe.id: trial for trial in trials}
    members, best = [order[0]], utility[order[0]]
    for step, candidate in enumerate(order[1 : limit + 1], start=1):
        recipe = plan.recipe(soup(plan.n, [*members, candidate]))
        trial = by_id.get(recipe.id)
        yield step, recipe, trial
        if trial is None or trial.state == State.RUNNING:
            return
        if trial.state == State.COMPLETE:
            gains = plan.objectives.gains([trial.means("dev")])[0]
            average = float((gains / scales).mean())
            if average > best:
                members, best = [*members, candidate], average


def scored(plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
    """Return the scored baselines and references by number, then the greedy soup if there is one."""
    soup = greedy_soup(plan, trials)
    wanted = {t.number for t in references(plan, trials).values()}
    known = [
        t
        for t in trials
        if (t.is_baseline and t.kind != Kind.REFERENCE) or t.number in wanted
        if t.state == State.COMPLETE and t is not soup
    ]
    return [*known, *([soup] if soup else [])]


def references(plan: Plan, trials: Sequence[Trial]) -> dict[str, Trial]:
    """Name of a reference -> its trial in the ledger.

    A recipe of one's own that is also another trial, such as the uniform soup, is that trial.
    """
    by_id = {trial.recipe.id: trial for trial in trials}
    return {
        entry.name: by_id[entry.recipe.id] for entry in plan.references if entry.recipe.id in by_id
    }


def reference_rows(plan: Plan, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Each reference as data: its trial, and what its scores can be compared with.

    `tokenizer` is `own` if a model's tokenizer is not that of the pool. Scores per word, byte or
    answer compare between tokenizers, scores per token do not.
    """
    found = references(plan, trials)
    singles = {fingerprint: name for name, fingerprint in plan.ingredients}
    tokenizers = {parts.get("tokenizer") for parts in plan.measures.values()}
    rows = []
    for entry in plan.references:
        trial, recipe = found.get(entry.name), entry.recipe
        shared = not recipe.is_model or recipe.settings["tokenizer"] in tokenizers
        twin = singles.get(recipe.ingredients[0].fingerprint) if recipe.is_model else None
        rows.append(
            {
                "name": entry.name,
                "trial": trial.number if trial else None,
                "scored_as": trial.name if trial else None,
                "state": trial.state if trial else None,
                "failure": trial.failure.message if trial and trial.failure else None,
                "model": recipe.is_model,
                "tokenizer": "pool" if shared else "own",
                "same_weights_as": twin,
            }
        )
    return rows


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
    """Return the trial with the best average on the greedy path so far; None before the first.

    A merge of the path may have been asked for by the user before: it is that trial.
    """
    kinds = (Kind.GREEDY, Kind.REFERENCE, Kind.TRY) if plan.greedy else ()
    if not kinds:
        return None
    walked = [trial for _, _, trial in _path(plan, trials) if trial and trial.kind in kinds]
    path = [trial for trial in walked if trial.state == State.COMPLETE]
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
