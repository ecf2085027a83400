"""Merges that users ask for, by weights or by a recipe file, as recipes of a study.

Tries, references and predictions are read here, so equal wishes are equal merges.
Letters: n checkpoints.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from recycler.errors import InvalidConfig
from recycler.front import asked
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.submit.workspace import OnBytes, Workspace


def recipe_of(
    workspace: Workspace,
    plan: Plan,
    wish: Mapping[str, float] | str | Path | Recipe,
    where: str = "",
    on_bytes: OnBytes | None = None,
) -> Recipe:
    """The recipe of a merge, with the study's names of its checkpoints.

    Args:
        workspace: the ledger, which knows the fingerprints of folders.
        plan: the study.
        wish: checkpoint -> weight, or a recipe file (recycler's or mergekit's YAML), or a recipe
            of this study. A file without dtype or base takes those of the study.
        where: what the weights belong to, in messages.
        on_bytes: called with the bytes read while fingerprints are computed.

    Raises:
        InvalidConfig: see `front.asked.weighted`; or a checkpoint or the base of a file is not in
            the study's pool, by its bytes.
    """
    if isinstance(wish, Mapping):
        return asked.weighted(plan, wish, where)
    if isinstance(wish, Recipe):
        return wish
    return _of_file(workspace, plan, Path(wish), on_bytes)


def require_allowed(plan: Plan, weights: Mapping[str, float]) -> None:
    """Raise InvalidConfig if a weight is outside the range that the study searches."""
    least = plan.points.least
    most = 1.0 - (plan.n - 1) * least
    for name, weight in weights.items():
        if not least - asked.CLOSE <= weight <= most + asked.CLOSE:
            raise InvalidConfig(
                f"the weight of {name} is {weight:g}; this study allows {least:g} to {most:g}.",
                hint="give a weight in that range, or another merge as a file: --recipe FILE.",
            )


def _of_file(workspace: Workspace, plan: Plan, file: Path, on_bytes: OnBytes | None) -> Recipe:
    found: Recipe = (
        import_module("recycler.merge.recipes.own")
        .read_recipe(file, lambda checkpoint, _: workspace.fingerprint(checkpoint, on_bytes))
        .recipe
    )
    return in_study(plan, found, str(file))


def in_study(plan: Plan, recipe: Recipe, where: str) -> Recipe:
    """A recipe with the study's names of its checkpoints, and the study's dtype and base by default.

    Raises:
        InvalidConfig: a checkpoint or the base is not in the study's pool, by its bytes.
    """
    everything = [*plan.ingredients, *([plan.base] if plan.base else [])]
    names = {fingerprint: name for name, fingerprint in reversed(everything)}

    def known(item: Ingredient) -> Ingredient:
        if item.fingerprint not in names:
            raise InvalidConfig(
                f"{where}: {item.name!r} is none of the checkpoints of study {plan.name!r}.",
                hint=f"it has {', '.join(names.values())}; other bytes are another checkpoint. Add "
                "it to the pool, or merge it with `recycler merge` and list the folder as a "
                "reference.",
            )
        return replace(item, name=names[item.fingerprint])

    ingredients = tuple(known(item) for item in recipe.ingredients)
    if len({item.fingerprint for item in ingredients}) < len(ingredients):
        raise InvalidConfig(f"{where} lists one checkpoint twice.", hint="add its weights up.")
    if recipe.base and (plan.base is None or recipe.base.fingerprint != plan.base[1]):
        raise InvalidConfig(
            f"{where}: the base {recipe.base.name!r} is not that of study {plan.name!r}.",
            hint=f"use {plan.base[0]}." if plan.base else "the study has none.",
        )
    return replace(
        recipe,
        ingredients=ingredients,
        dtype=recipe.dtype or plan.dtype,
        base=Ingredient(plan.base[1], plan.base[0], 1.0) if plan.base else None,
    )
