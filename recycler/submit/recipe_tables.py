"""Recipes that come as tables (JSON): their models are the study's checkpoints, by name or path."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.errors import InvalidConfig
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.submit.recipes import in_study

WHERE = Path("recipe")  # what messages call it
Entry = Mapping[str, Any]


def recipe_of_table(plan: Plan, entries: Sequence[Entry], table: Mapping[str, Any]) -> Recipe:
    """The merge that a table means, as a recipe of the study.

    Args:
        plan: the study.
        entries: checkpoints of its pool and the base: `{"name", "path", "fingerprint"}`.
        table: `recipe` as `recycler show --json` prints it; or recycler's YAML or mergekit's as a
            table, whose models are names or paths of `entries`. No other folder is opened.

    Raises:
        InvalidConfig: a key or value is not supported, or a model is none of the study's.
        BrokenCheckpoint: a folder of the pool can't be read.
        Incompatible: the checkpoints can't be merged so.
    """
    if "fingerprints" in table:
        return _of_json(plan, table)
    known = [{**entry} for entry in entries]
    prints = {entry["path"]: str(entry["fingerprint"]) for entry in known}

    def identify(checkpoint: Checkpoint, exact: bool) -> str:
        return prints[str(checkpoint.path)]

    reader = import_module("recycler.merge.recipes.own")
    converted = import_module("recycler.merge.recipes.mergekit").from_mergekit
    theirs = "merge_method" in table
    own = converted(_replaced(known, table), WHERE) if theirs else {**table}
    own.pop("donor", None)  # of config and tokenizer: it decides no score
    if isinstance(own.get("checkpoints"), list):
        own["checkpoints"] = [_placed(plan, known, entry) for entry in own["checkpoints"]]
    if own.get("base"):
        own["base"] = _placed(plan, known, own["base"])
    found: Recipe = reader.parsed(own, WHERE, identify).recipe
    return in_study(plan, found, str(WHERE))


def _replaced(known: Sequence[Entry], value: Any) -> Any:
    """A mergekit recipe with the paths of the checkpoints whose names it gives as models."""
    if isinstance(value, list):
        return [_replaced(known, inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    paths = {row["name"]: row["path"] for row in known}
    models = ("model", "base_model", "tokenizer_source")
    return {
        key: paths.get(inner, inner)
        if key in models and isinstance(inner, str)
        else _replaced(known, inner)
        for key, inner in value.items()
    }


def _placed(plan: Plan, known: Sequence[Entry], entry: Any) -> dict[str, Any]:
    """An entry of a recipe with name and path of the checkpoint that it means."""
    given = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping):
        raise InvalidConfig(
            f"recipe: a model is {type(entry).__name__}, expected a table.",
            hint='for example {"name": "sft-a", "weight": 0.5}.',
        )
    wanted = given.get("path") or given.get("name")
    found = [row for row in known if wanted in (row["name"], row["path"])]
    if not found:
        raise InvalidConfig(
            f"recipe: {str(wanted)[:200]!r} is none of the checkpoints of study {plan.name!r}.",
            hint=f"it has {', '.join(row['name'] for row in known)}.",
        )
    return {**given, "name": found[0]["name"], "path": found[0]["path"]}


def _of_json(plan: Plan, table: Mapping[str, Any]) -> Recipe:
    """A recipe in the form of `Recipe.to_json`, with its settings checked."""
    try:
        found = Recipe.from_json(table)
        _require_settings(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InvalidConfig(
            f"recipe: {type(error).__name__} {error}.",
            hint="send it as `GET /api/v1/studies/{study}/trials/{trial}` shows it.",
        ) from error
    known = {*plan.ingredients, *([plan.base] if plan.base else [])}
    for item in (*found.ingredients, *([found.base] if found.base else [])):
        if (item.name, item.fingerprint) not in known:
            raise InvalidConfig(
                f"recipe: {item.name!r} is none of the checkpoints of study {plan.name!r}.",
                hint=f"it has {', '.join(plan.names)}.",
            )
    return found


def _require_settings(recipe: Recipe) -> None:
    """Raise InvalidConfig unless the method knows all settings of a recipe."""
    settings, each = import_module("recycler.merge.recipes.settings"), ("weight", "density")
    method = import_module("recycler.merge.methods").find_method(recipe.method)
    settings.checked_settings(recipe.settings, method, WHERE)
    for item in recipe.ingredients:
        settings.refuse_unknown(item.settings, {*each, *getattr(method, "defaults", {})}, WHERE)
        for key, value in item.settings.items():
            settings.numbers(value, f"recipe: {key} of {item.name}")
