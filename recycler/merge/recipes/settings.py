"""Settings of recipes and studies, validated against the merge method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycler.errors import InvalidConfig
from recycler.merge.methods import require_setting
from recycler.nouns.layers import checked, scalars
from recycler.nouns.recipe import Ingredient
from recycler.protocols import MergeMethod

# Settings of every method; the first value of each is the default.
COMMON = {"missing": ("tied", "refuse", "base", "skip"), "vocabulary": ("refuse", "common")}
EACH = ("weight", "density")  # parameters that may be set for each checkpoint


def checked_settings(given: Mapping[str, Any], method: MergeMethod, file: Path) -> dict[str, Any]:
    """A recipe's or a study's settings in plain form; defaults are left out.

    Raises:
        InvalidConfig: the method does not know a key, or does not understand a value.
    """
    defaults: Mapping[str, Any] = getattr(method, "defaults", {})
    if not isinstance(given, Mapping):
        raise InvalidConfig(f"{file}: settings is {given!r}.", hint="write `settings: {...}`.")
    refuse_unknown(given, {*defaults, *COMMON}, file)
    for key, known in COMMON.items():
        if given.get(key, known[0]) not in known:
            raise InvalidConfig(
                f"{file}: {key} is {given[key]!r}.", hint=f"one of {', '.join(known)}."
            )
    plain = {key: checked(value, f"{file}: {key}") for key, value in given.items()}
    for key, setting in plain.items():
        for value in scalars(setting):
            require_setting(key, value, f"{file}: {key}")
    for key in {"normalize", "rescale"} & plain.keys():
        if isinstance(plain[key], bool):
            plain[key] = ("weights" if key == "normalize" else "l1") if plain[key] else "none"
    usual = {**defaults, **{key: known[0] for key, known in COMMON.items()}}
    return {key: value for key, value in plain.items() if value != usual[key]}


def numbers(setting: Any, where: str) -> Any:
    """A setting in plain form; it may hold numbers only."""
    plain = checked(setting, where)
    for value in scalars(plain):
        if isinstance(value, bool | str):
            raise InvalidConfig(f"{where} is {value!r}, expected a number.", hint="give a number.")
    return plain


def refuse_unknown(table: Mapping[str, Any], known: set[str], file: Path) -> None:
    unknown = sorted(set(map(str, table)) - known)
    if unknown:
        raise InvalidConfig(
            f"{file}: key {unknown[0]!r} is not supported.",
            hint=f"supported here: {', '.join(sorted(known))}.",
        )


def own_parameters(item: Ingredient) -> dict[str, Any]:
    """A checkpoint's weight, tensor by tensor, and its other parameters."""
    weight = _scaled(item.settings["weight"], item.weight) if "weight" in item.settings else None
    return {**item.settings, "weight": item.weight if weight is None else weight}


def _scaled(setting: Any, factor: float) -> Any:
    """A setting times a number."""
    if isinstance(setting, Mapping):
        return {**setting, "value": _scaled(setting["value"], factor)}
    if isinstance(setting, list | tuple):
        return [_scaled(value, factor) for value in setting]
    return setting * factor
