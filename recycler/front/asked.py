"""A merge that a user asks about: its recipe from weights, and its point in a study's space.

Letters: n checkpoints, g groups of layers, d coordinates of a point.
"""

import difflib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig
from recycler.nouns.layers import Place, value_at
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.space import UNCHANGED

CLOSE = 1e-6  # by which a sum of weights may differ from 1


def weighted(plan: Plan, weights: Mapping[str, float], where: str = "") -> Recipe:
    """Return the study's merge of some checkpoints by weight; those left out have weight 0.

    Args:
        plan: the study.
        weights: checkpoint -> weight, unitless; they must sum to 1.
        where: what they belong to, such as `reference 'a': `, before each message.

    Raises:
        InvalidConfig: a checkpoint is unknown, the sum is not 1, or the study also searches settings
            that weights alone do not give.
    """
    for name in weights:
        if name not in plan.names:
            near = difflib.get_close_matches(name, plan.names, 3, 0.4)
            raise InvalidConfig(
                f"{where}study {plan.name!r} has no checkpoint {name!r}.",
                hint=f"nearest: {', '.join(near)}."
                if near
                else f"it has {', '.join(plan.names)}.",
            )
    if plan.points.ranges:
        searched = ", ".join(sorted({r.setting for r in plan.points.ranges}))
        raise InvalidConfig(
            f"{where}study {plan.name!r} also searches {searched}; weights alone do not say which "
            "merge is meant.",
            hint="give the whole merge as a recipe file.",
        )
    vector = tuple(float(weights.get(name, 0.0)) for name in plan.names)
    total = math.fsum(vector)
    scaled = [f"{name}={weight / total:.8g}" for name, weight in weights.items() if total]
    _require_sum(vector, f"in these proportions: {','.join(scaled)}." if scaled else "", where)
    return plan.recipe(vector)


def _require_sum(weights: "tuple[float, ...] | Array", hint: str = "", where: str = "") -> None:
    total = math.fsum(weights)
    if not math.isfinite(total) or abs(total - 1.0) > CLOSE:
        raise InvalidConfig(
            f"{where}the weights sum to {total:g}, expected 1 as for every merge of the study.",
            hint=hint or "divide each weight by the sum.",
        )


def point_in(plan: Plan, recipe: Recipe) -> tuple[Array, list[str]]:
    """(d,) point of a recipe in a study's space, and in words where it lies outside.

    Outside, coordinates are continued linearly: a weight may be negative, a share above 1.

    Raises:
        InvalidConfig: the recipe differs from the study's merges in more than what is searched.
    """
    _require_alike(plan, recipe)
    space = plan.points
    names = {fingerprint: name for name, fingerprint in plan.ingredients}
    items = {names[item.fingerprint]: item for item in recipe.ingredients}
    weights = np.array(
        [
            [_weight(items.get(name), start, stop, space.groups) for name in plan.names]
            for start, stop in space.groups or ((0, 1),)
        ]
    )
    for row in weights:
        _require_sum(row)
    outside = [
        f"the weight of {name} is {weight:g}, the search allows {space.least:g} to 1"
        for name, weight in zip(plan.names, weights.min(axis=0), strict=True)
        if weight < space.least - CLOSE
    ]
    values = []
    for r in space.ranges:
        own = items[r.checkpoint].settings if r.checkpoint in items else {}
        shared = recipe.settings if not r.checkpoint else {}
        value = {**shared, **own}.get(r.setting, UNCHANGED)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidConfig(
                f"{r.setting} is {value!r}; the study searched one number for all layers.",
                hint=f"give a number from {r.low:g} to {r.high:g}.",
            )
        values.append((value - r.low) / (r.high - r.low))
        if not r.low <= value <= r.high and r.setting in {**shared, **own}:
            of = f" of {r.checkpoint}" if r.checkpoint else ""
            outside.append(
                f"{r.setting}{of} is {value:g}, the search allows {r.low:g} to {r.high:g}"
            )
    shares = (weights - space.least) / (1.0 - plan.n * space.least)
    return np.concatenate([shares.reshape(-1), np.array(values)]), outside


def _weight(item: Ingredient | None, start: int, stop: int, groups: tuple[Any, ...]) -> float:
    """Weight of a checkpoint in the layers [start, stop)."""
    if item is None:
        return 0.0
    layers = range(start, stop) if groups else range(1)
    last = groups[-1][1] if groups else 1
    factor = item.settings.get("weight", 1.0)
    found = [value_at(factor, Place("", layer, last)) for layer in layers]
    if any(value is None or value != found[0] for value in found):
        raise InvalidConfig(
            f"the weight of {item.name} changes within layers {start} to {stop - 1}, which have one "
            "weight in this study.",
            hint="give one weight for each of the study's groups of layers.",
        )
    return item.weight * float(found[0])


def _require_alike(plan: Plan, recipe: Recipe) -> None:
    """Raise InvalidConfig if a recipe differs from the study's in what the study does not search."""
    names = {fingerprint: name for name, fingerprint in plan.ingredients}
    strange = [item.name for item in recipe.ingredients if item.fingerprint not in names]
    if strange:
        raise _unlike(
            plan, f"{strange[0]!r} is none of its checkpoints", f"it has {', '.join(plan.names)}."
        )
    if len({item.fingerprint for item in recipe.ingredients}) < len(recipe.ingredients):
        raise _unlike(plan, "a checkpoint is listed twice", "add its weights up.")
    if len(recipe.weights) == 1 and recipe.method == "linear" and not recipe.settings:
        return  # a checkpoint itself, whatever the method
    if recipe.method != plan.method:
        raise _unlike(
            plan, f"its method is {recipe.method}", f"the study merges by {plan.method}."
        )
    if recipe.dtype != plan.dtype:
        wanted = f"`dtype: {plan.dtype}`" if plan.dtype else "no `dtype`"
        raise _unlike(
            plan, f"its dtype is {recipe.dtype or 'that of the inputs'}", f"use {wanted}."
        )
    if recipe.base and plan.base and recipe.base.fingerprint != plan.base[1]:
        raise _unlike(plan, "its base is another", f"use {plan.base[0]}.")
    space = plan.points
    free = {r.setting for r in space.ranges if not r.checkpoint}
    fixed, given = (
        {key: value for key, value in settings.items() if key not in free}
        for settings in (plan.merge_settings, recipe.settings)
    )
    if fixed != given:
        raise _unlike(plan, f"its settings are {given}", f"the study's are {fixed}.")
    allowed = {r.setting for r in space.ranges} | ({"weight"} if space.groups else set())
    for item in recipe.ingredients:
        if unknown := sorted(set(item.settings) - allowed):
            raise _unlike(
                plan,
                f"{unknown[0]} of {item.name} is set for itself",
                "the study has one value for all layers and checkpoints.",
            )


def _unlike(plan: Plan, found: str, expected: str) -> InvalidConfig:
    return InvalidConfig(
        f"the recipe is no merge that study {plan.name!r} could have made: {found}.",
        hint=f"its scores say nothing about other merges; {expected}",
    )
