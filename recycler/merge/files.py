"""Recipes in YAML: recycler's own and mergekit's, with the pool they speak of.

May import: errors, yamlfile, checkpoint, pool, recipe, merge.tensors.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recycler.checkpoint import Checkpoint
from recycler.errors import InvalidConfig
from recycler.merge.tensors import find_method
from recycler.pool import Pool
from recycler.recipe import Ingredient, Recipe
from recycler.yamlfile import read_yaml

_OWN = {"method", "checkpoints", "base", "dtype", "settings"}
_MERGEKIT = {"merge_method", "models", "base_model", "parameters", "dtype", "out_dtype"}


def read_recipe(file: Path, fingerprint: Callable[[Checkpoint], str]) -> tuple[Recipe, Pool]:
    """The recipe of a YAML file and the pool of the folders it names.

    Own form: `{method, checkpoints: [{path, weight, name}], dtype, settings}`. A file with
    `merge_method:` is read as mergekit's. Relative paths are relative to the file.

    Raises:
        InvalidConfig: a key that is not supported, by name.
    """
    table = read_yaml(file, "recipe", "check the path.")
    if not isinstance(table, dict):
        raise InvalidConfig(
            f"{file} holds no recipe.", hint="write `method: linear` and `checkpoints:`."
        )
    own = _from_mergekit(table, file) if "merge_method" in table else table
    _refuse_unknown(own, _OWN, file)
    method = str(own.get("method", "linear"))
    find_method(method)
    entries = own.get("checkpoints")
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and "weight" in e for e in entries
    ):
        raise InvalidConfig(
            f"{file}: `checkpoints` must list `{{path, weight}}`.",
            hint="- {path: runs/sft-a, weight: 0.5}",
        )
    plain = [{key: value for key, value in e.items() if key != "weight"} for e in entries]
    pool = Pool.from_entries(file.stem, plain, own.get("base"), file.absolute().parent)
    pool.require_mergeable()
    ingredients = tuple(
        Ingredient(fingerprint(c), c.name, _number(e["weight"], file))
        for c, e in zip(pool.checkpoints, entries, strict=True)
    )
    recipe = Recipe(
        method=method,
        ingredients=ingredients,
        dtype=str(own.get("dtype") or pool.checkpoints[0].dtype),
        settings=own.get("settings") or {},
    )
    return recipe, pool


def _from_mergekit(table: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Mergekit's YAML in our own form; what has no counterpart is refused by name."""
    _refuse_unknown(table, _MERGEKIT, file)
    common = dict(table.get("parameters") or {})
    _refuse_unknown(common, {"normalize", "weight"}, file)
    checkpoints = []
    for model in table.get("models") or []:
        if not isinstance(model, dict) or not isinstance(model.get("model"), str):
            raise InvalidConfig(
                f"{file}: the entry {model!r} of `models:` has no `model:`.",
                hint="- {model: runs/sft-a, parameters: {weight: 0.5}}",
            )
        _refuse_unknown(model, {"model", "parameters"}, file)
        own = model.get("parameters") or {}
        _refuse_unknown(own, {"weight"}, file)
        weight = own.get("weight", common.get("weight", 1.0))
        checkpoints.append({"path": model["model"], "weight": weight})
    names = [Path(entry["path"]).name for entry in checkpoints]
    if len(set(names)) < len(names):  # runs/a/last and runs/b/last
        checkpoints = [{**entry, "name": entry["path"]} for entry in checkpoints]
    return {
        "method": table["merge_method"],
        "checkpoints": checkpoints,
        "dtype": table.get("out_dtype") or table.get("dtype"),
        "settings": {"normalize": bool(common.get("normalize", True))},
    }


def _refuse_unknown(table: Mapping[str, Any], known: set[str], file: Path) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise InvalidConfig(
            f"{file}: key {unknown[0]!r} is not supported.",
            hint=f"supported here: {', '.join(sorted(known))}.",
        )


def _number(value: Any, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidConfig(
            f"{file}: weight {value!r} is not one number.",
            hint="weights a layer or filter are not supported yet; give one number a checkpoint.",
        )
    return float(value)
