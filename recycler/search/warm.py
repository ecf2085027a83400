"""Warm start: the best merges of earlier studies become the first proposals of a new one.

Checkpoints are matched by fingerprint. Letters: n checkpoints of the new study.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from recycler.front import baselines, pareto
from recycler.front.front import front_rows
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind, Proposal, State, Trial

MISSING = 0.2  # largest share of a recipe's weight on checkpoints that the pool lacks

# An earlier study: its plan, its trials and its reference corner, if it has one.
Earlier = tuple[Plan, Sequence[Trial], Sequence[float] | None]


def recipes(
    plan: Plan, studies: Sequence[Earlier], scored: Callable[[Recipe], bool]
) -> tuple[dict[str, Any], ...]:
    """Choose the merges a new study proposes first: the best of each earlier study in turn.

    Baselines are left out, and so are plain averages if the new study has the greedy path, which
    finds them itself. At most a third of the budget is used.

    Args:
        plan: the new study.
        studies: earlier studies, in the order in which they take turns.
        scored: whether the ledger has a merge's dev scores under the new study's measures.

    Returns:
        One `{"study", "trial", "weights": [n], "copy"}` per merge. With `copy`, the ledger has its
        scores under the same measures already, so it costs nothing.
    """
    known = {proposal.recipe.id for proposal in baselines.proposals(plan, ())}
    found: list[dict[str, Any]] = []
    in_turn = zip_longest(*(_of_study(plan, earlier) for earlier in studies))
    for entry in chain.from_iterable(in_turn):
        if entry is None:
            continue
        recipe = plan.recipe(entry["weights"])
        if recipe.id not in known and len(found) < plan.evaluations // 3:
            known.add(recipe.id)
            found.append({**entry, "copy": scored(recipe)})
    return tuple(found)


def proposals(plan: Plan) -> Iterator[Proposal]:
    """Yield the plan's warm-start merges as proposals, best first."""
    for number, entry in enumerate(plan.warm, start=1):
        source = [entry["study"], entry["trial"]]
        yield Proposal(
            kind=Kind.SEARCH,
            name=f"warm {number} ({source[0]} trial {source[1]})",
            recipe=plan.recipe(entry["weights"]),
            notes={"copy": source} if entry["copy"] else {},
        )


def _of_study(plan: Plan, earlier: Earlier) -> Iterator[dict[str, Any]]:
    """Yield entries of one study, front by front; within a front, by hypervolume added."""
    old, trials, reference = earlier
    scored = (trial for trial in trials if trial.state == State.COMPLETE and trial.is_merge)
    left = old.on_space(scored)
    while left:
        rank = front_rows(left, old.objectives, "dev")
        if not rank:
            return
        gains = old.objectives.gains([trial.means("dev") for trial in rank])
        corner = gains.min(axis=0) if reference is None else np.array(reference)
        for row in pareto.by_volume(gains, corner, len(rank)):
            weights = _weights(plan, rank[row].recipe)
            if weights is None or (plan.greedy and len({w for w in weights if w}) == 1):
                continue
            yield {
                "study": old.name,
                "trial": rank[row].number,
                "weights": weights,
            }
        left = [trial for trial in left if trial not in rank]


def _weights(plan: Plan, recipe: Recipe) -> list[float] | None:
    """(n,) the recipe's weights on the new pool, sum kept; None if too much weight is missing."""
    place: Mapping[str, int] = {
        fingerprint: i for i, (_, fingerprint) in reversed(list(enumerate(plan.ingredients)))
    }
    weights = [0.0] * plan.n
    lost = whole = total = 0.0
    for item in recipe.ingredients:
        whole, total = whole + abs(item.weight), total + item.weight
        if item.fingerprint in place:
            weights[place[item.fingerprint]] += item.weight
        else:
            lost += abs(item.weight)
    if not lost:
        return weights
    kept = sum(weights)
    if lost > MISSING * whole or kept * total <= 0:
        return None
    return [weight * total / kept for weight in weights]
