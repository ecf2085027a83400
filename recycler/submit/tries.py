"""Tries: merges that a user asks for by weights or by a recipe file, checked against the study.

Letters: n checkpoints.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from recycler.checkpoints.folder import Checkpoint
from recycler.errors import InvalidConfig
from recycler.front import asked
from recycler.merge.recipes.own import read_recipe
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.submit.workspace import Workspace


def recipe_of(workspace: Workspace, plan: Plan, wish: Mapping[str, float] | str | Path) -> Recipe:
    """The recipe of a try, with the study's names of its checkpoints.

    Args:
        workspace: the ledger, which knows the fingerprints of folders.
        plan: the study.
        wish: checkpoint -> weight, or a recipe file (recycler's or mergekit's YAML).

    Raises:
        InvalidConfig: see `weighted` and `_of_file`.
    """
    if isinstance(wish, Mapping):
        return weighted(plan, wish)
    return _of_file(workspace, plan, Path(wish))


def weighted(plan: Plan, weights: Mapping[str, float]) -> Recipe:
    """The study's merge of some checkpoints; those left out have weight 0.

    Raises:
        InvalidConfig: a weight is outside the study's range, or see `front.asked.weighted`.
    """
    recipe, least = asked.weighted(plan, weights), plan.points.least
    most = 1.0 - (plan.n - 1) * least
    for name, weight in weights.items():
        if not least - asked.CLOSE <= weight <= most + asked.CLOSE:
            raise InvalidConfig(
                f"the weight of {name} is {weight:g}; this study allows {least:g} to {most:g}.",
                hint="give a weight in that range, or another merge as a file: --recipe FILE.",
            )
    return recipe


def _of_file(workspace: Workspace, plan: Plan, file: Path) -> Recipe:
    """The recipe of a file, if all it needs is in the study's pool.

    Without a dtype or a base it takes those of the study.

    Raises:
        InvalidConfig: a checkpoint or the base is not one of the study's, by its bytes.
    """

    def identify(checkpoint: Checkpoint, exact: bool) -> str:
        return workspace.fingerprint(checkpoint)

    found = read_recipe(file, identify).recipe
    names = {fingerprint: name for name, fingerprint in reversed(plan.ingredients)}
    for item in found.ingredients:
        if item.fingerprint not in names:
            raise InvalidConfig(
                f"{file}: {item.name!r} is none of the checkpoints of study {plan.name!r}.",
                hint=f"it has {', '.join(plan.names)}; other bytes are another checkpoint.",
            )
    if len({item.fingerprint for item in found.ingredients}) < len(found.ingredients):
        raise InvalidConfig(f"{file} lists one checkpoint twice.", hint="add its weights up.")
    if found.base and (plan.base is None or found.base.fingerprint != plan.base[1]):
        raise InvalidConfig(
            f"{file}: the base {found.base.name!r} is not that of study {plan.name!r}.",
            hint=f"use {plan.base[0]}." if plan.base else "the study has none.",
        )
    return replace(
        found,
        ingredients=tuple(replace(i, name=names[i.fingerprint]) for i in found.ingredients),
        dtype=found.dtype or plan.dtype,
        base=Ingredient(plan.base[1], plan.base[0], 1.0) if plan.base else None,
    )
