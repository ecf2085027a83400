"""Recipes in recycler's own YAML: reading and writing, with the pool they name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.checkpoints.findings import Finding
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.naming import is_head
from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig
from recycler.merge.methods import find_method, require_setting
from recycler.merge.recipes.mergekit import from_mergekit
from recycler.merge.recipes.settings import (
    EACH,
    checked_settings,
    numbers,
    own_parameters,
    refuse_unknown,
)
from recycler.nouns.layers import checked, layer_count, scalars, varies
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.yamlfile import read_yaml

_OWN = {"method", "checkpoints", "base", "dtype", "settings", "donor", "layers"}


@dataclass(frozen=True, slots=True)
class MergeFile:
    """Content of a recipe file: the merge, its pool, and the donor of config and tokenizer."""

    recipe: Recipe
    pool: Pool
    donor: Checkpoint


def read_recipe(file: Path, identify: Callable[[Checkpoint, bool], str]) -> MergeFile:
    """Read a recipe file and open the folders it names.

    Own form: `{method, checkpoints: [{path, weight, density, name}], base, dtype, settings,
    donor}`, and `layers`: how many layers the model must have. A file with `merge_method:` is read
    as mergekit's, with `models:` or `slices:`. Relative paths start at the file; in a mergekit
    file the current folder is tried first.

    Args:
        file: YAML or JSON.
        identify: returns the id of a checkpoint's bytes. It is told whether the merge depends on
            the id (random masks do); if not, any fixed id will do.

    Raises:
        InvalidConfig: a key is not supported; the message names it.
        Incompatible: the pool can't be merged as the recipe asks.
    """
    table = read_yaml(file, "recipe", "check the path.")
    if not isinstance(table, dict):
        raise InvalidConfig(
            f"{file} holds no recipe.", hint="write `method: linear` and `checkpoints:`."
        )
    return parsed(from_mergekit(table, file) if "merge_method" in table else table, file, identify)


def parsed(
    own: Mapping[str, Any], file: Path, identify: Callable[[Checkpoint, bool], str]
) -> MergeFile:
    """The merge of a recipe in recycler's own form.

    Args:
        own: the recipe's table.
        file: where it comes from, for messages; relative paths start beside it.
        identify: see `read_recipe`.

    Raises:
        InvalidConfig, Incompatible: see `read_recipe`.
    """
    refuse_unknown(own, _OWN, file)
    name = str(own.get("method", "linear"))
    method = find_method(name)
    entries = own.get("checkpoints")
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and "weight" in e for e in entries
    ):
        raise InvalidConfig(
            f"{file}: `checkpoints` must list `{{path, weight}}`.",
            hint="- {path: runs/sft-a, weight: 0.5}",
        )
    plain = [{key: value for key, value in e.items() if key not in EACH} for e in entries]
    pool = Pool.from_entries(file.stem, plain, own.get("base"), file.absolute().parent)
    settings = checked_settings(own.get("settings") or {}, method, file)
    wanted = method.needs_base or settings.get("missing") == "base"
    if wanted and pool.base is None:
        raise InvalidConfig(
            f"{file}: {name} needs a base checkpoint.",
            hint="name the common ancestor: `base: runs/base` (mergekit: `base_model:`).",
        )
    if "layers" in own:
        _require_all_layers(pool, own["layers"], file)
    pool.require_mergeable(lambda finding: _allowed(finding, settings))
    exact = "seed" in getattr(method, "defaults", {})
    recipe = Recipe(
        method=name,
        ingredients=tuple(
            _ingredient(checkpoint, entry, identify(checkpoint, exact), file)
            for checkpoint, entry in zip(pool.checkpoints, entries, strict=True)
        ),
        dtype=str(own.get("dtype") or ""),
        base=Ingredient(identify(pool.base, False), pool.base.name, 1.0)
        if pool.base and wanted
        else None,
        settings=settings,
    )
    donor = pool[str(own["donor"])] if own.get("donor") else pool.checkpoints[0]
    return MergeFile(recipe, pool, donor)


def _require_all_layers(pool: Pool, stop: Any, file: Path) -> None:
    """Raise InvalidConfig unless slices end at the model's last layer."""
    layers = layer_count(list(pool.checkpoints[0].tensors))
    if stop != layers:
        raise InvalidConfig(
            f"{file}: the slices end at layer {stop}, the models have {layers} layers.",
            hint="slices may set parameters by layer, not reorder, repeat or drop layers.",
        )


def _ingredient(
    checkpoint: Checkpoint, entry: Mapping[str, Any], fingerprint: str, file: Path
) -> Ingredient:
    where = f"{file}: {checkpoint.name}"
    weight = numbers(entry["weight"], f"{where}: weight")
    settings: dict[str, Any] = {"weight": weight} if varies(weight) else {}
    if entry.get("density") is not None:
        settings["density"] = checked(entry["density"], f"{where}: density")
        for value in scalars(settings["density"]):
            require_setting("density", value, f"{where}: density")
    return Ingredient(
        fingerprint, checkpoint.name, 1.0 if varies(weight) else float(weight), settings
    )


def _allowed(finding: Finding, settings: Mapping[str, Any]) -> bool:
    """Whether the recipe's settings resolve an error of the check."""
    missing = settings.get("missing", "tied")
    common = settings.get("vocabulary") == "common"
    if finding.code in ("tensor-missing", "tensor-extra"):
        return missing in ("base", "skip") or (missing == "tied" and is_head(finding.tensor))
    if finding.code == "config":
        key = finding.found.partition(" ")[0].rpartition(".")[2]
        tied = key == "tie_word_embeddings" and missing != "refuse"
        return tied or (key == "vocab_size" and common)
    return common and finding.code == "shape"


def own_recipe(recipe: Recipe, pool: Pool) -> dict[str, Any]:
    """The recipe as YAML that `read_recipe` reads."""
    wanted = find_method(recipe.method).needs_base or recipe.settings.get("missing") == "base"
    base = recipe.base if wanted else None
    checkpoints = [
        {"path": str(pool[item.name].path), "name": item.name, **own_parameters(item)}
        for item in recipe.ingredients
    ]
    return {
        "method": recipe.method,
        **({"base": {"path": str(pool[base.name].path), "name": base.name}} if base else {}),
        "checkpoints": checkpoints,
        "dtype": recipe.dtype,
        "settings": dict(recipe.settings),
    }
