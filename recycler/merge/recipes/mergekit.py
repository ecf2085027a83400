"""Recipes in mergekit's YAML: read as recycler's own, and written where mergekit can express them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import DTYPES
from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig
from recycler.merge.methods import find_method
from recycler.merge.recipes.settings import COMMON, EACH, numbers, own_parameters, refuse_unknown
from recycler.nouns.layers import checked, layer_range, scalars, varies
from recycler.nouns.recipe import Recipe

_MERGEKIT = {
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "missing", "vocabulary",
}  # fmt: skip
# mergekit's defaults where they differ from ours.
_THEIR_DEFAULTS = {
    "linear": {"normalize": True},
    "dare_linear": {"rescale": True},
    "dare_ties": {"rescale": True},
}
# Parameters that change how mergekit computes, not the result.
_NO_EFFECT = {"int8_mask"}
_SHARED = ("normalize", "lambda", "rescale", "density")  # our settings that mergekit has too


def from_mergekit(table: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Convert mergekit's YAML to recycler's form; what has no counterpart is refused by name."""
    refuse_unknown(table, _MERGEKIT, file)
    name = str(table["merge_method"])
    method = find_method(name)
    shared = {
        key: value
        for key, value in {
            **_THEIR_DEFAULTS.get(name, {}),
            **_parameters(table.get("parameters"), file),
        }.items()
        if key not in _NO_EFFECT
    }
    slices = _slices(table, file)
    base = _model(table["base_model"], file) if table.get("base_model") else None
    listed = [_model(source["model"], file) for source in slices[0][1]]
    models = [m for m in listed if not (method.needs_base and m == base)]
    wanted = method.needs_base or table.get("missing") == "base"
    known = {*getattr(method, "defaults", {}), *EACH, *(["t"] if name == "slerp" else [])}
    for given in (shared, *(extra for _, _, extra in slices)):
        refuse_unknown(given, known | _NO_EFFECT, file)
    entries = (
        _slerp_entries(slices, shared, base, models, file)
        if name == "slerp"
        else [_entry(path, slices, shared, known & set(EACH), file) for path in models]
    )
    donor = _donor(table.get("tokenizer_source"), base, [*models], file)
    settings = _shared_settings(slices, shared, file)
    settings |= {key: table[key] for key in COMMON if key in table}
    paths = [*models, *([base] if base and base not in models else [])]
    names = _names(paths)
    return {
        "method": name,
        "checkpoints": [{**entry, "name": names[entry["path"]]} for entry in entries],
        "base": {"path": base, "name": names[base]}
        if base and (wanted or base == donor)
        else None,
        "dtype": table.get("out_dtype") or table.get("dtype"),
        "settings": settings,
        "donor": names[donor] if donor else None,
        **({"layers": slices[-1][0][1]} if slices[-1][0] else {}),
    }


Slice = tuple[list[int] | None, list[Mapping[str, Any]], Mapping[str, Any]]


def _slices(table: Mapping[str, Any], file: Path) -> list[Slice]:
    """(layers, sources, own parameters) of each slice; `models:` is one slice of all layers."""
    if ("models" in table) == ("slices" in table):
        raise InvalidConfig(
            f"{file}: exactly one of `models:` and `slices:` is needed.",
            hint="- {model: runs/sft-a, parameters: {weight: 0.5}}",
        )
    if "models" in table:
        return [(None, _sources(table["models"], {"model", "parameters"}, "models", file), {})]
    made: list[Slice] = []
    listed = table["slices"] if isinstance(table["slices"], list) else []
    for entry in listed or [None]:
        if not isinstance(entry, Mapping):
            raise InvalidConfig(
                f"{file}: `slices` must list `{{sources: [...]}}`.",
                hint="- sources: [{model: a, layer_range: [0, 8]}, ...]",
            )
        refuse_unknown(entry, {"sources", "parameters"}, file)
        sources = _sources(
            entry.get("sources"), {"model", "layer_range", "parameters"}, "sources", file
        )
        ranges = [layer_range(s.get("layer_range"), f"{file}: layer_range") for s in sources]
        start = made[-1][0][1] if made and made[-1][0] else 0
        if any(r != ranges[0] for r in ranges) or ranges[0][0] != start:
            raise InvalidConfig(
                f"{file}: a slice has the layer ranges {ranges}, expected the same for all, "
                f"beginning at layer {start}.",
                hint="slices may set parameters by layer, not reorder, repeat or drop layers.",
            )
        made.append((ranges[0], sources, _parameters(entry.get("parameters"), file)))
        models = [sorted(_model(s["model"], file) for s in each) for _, each, _ in made]
        if models[-1] != models[0]:
            raise InvalidConfig(
                f"{file}: a slice lists the models {models[-1]}, the first one {models[0]}.",
                hint="list the same models in every slice; weight 0 leaves one out.",
            )
    return made


def _sources(listed: Any, known: set[str], where: str, file: Path) -> list[Mapping[str, Any]]:
    if not isinstance(listed, list) or not listed:
        raise InvalidConfig(
            f"{file}: `{where}:` lists nothing.",
            hint="- {model: runs/sft-a, parameters: {weight: 0.5}}",
        )
    for source in listed:
        if not isinstance(source, dict) or not isinstance(source.get("model"), str):
            raise InvalidConfig(
                f"{file}: the entry {source!r} of `{where}:` has no `model:` that is a path.",
                hint="- {model: runs/sft-a, parameters: {weight: 0.5}}",
            )
        refuse_unknown(source, known, file)
    names = [source["model"] for source in listed]
    for name in names:
        if names.count(name) > 1:
            raise InvalidConfig(
                f"{file}: `{where}:` lists {name!r} twice.",
                hint="add up its weights in one entry.",
            )
    return listed


def _entry(
    path: str,
    slices: Sequence[Slice],
    shared: Mapping[str, Any],
    each: set[str],
    file: Path,
) -> dict[str, Any]:
    """One checkpoint with its parameters: its source's, then its slice's, then the global ones."""
    entry: dict[str, Any] = {"path": path}
    for key in sorted(each):
        levels: list[tuple[Any, list[int] | None]] = []
        for layers, sources, extra in slices:
            (own,) = [
                _parameters(source.get("parameters"), file)
                for source in sources
                if _model(source["model"], file) == path
            ] or [{}]
            refuse_unknown(own, each | _NO_EFFECT, file)
            levels += [(given[key], layers) for given in (own, extra) if key in given]
        if key in shared:
            levels.append((shared[key], None))
        setting = _layered(levels, f"{file}: {path}: {key}")
        if setting is not None:
            entry[key] = setting
    entry.setdefault("weight", 1.0)
    return entry


def _shared_settings(
    slices: Sequence[Slice], shared: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """The method's settings; a slice's go before the global ones."""
    settings = {}
    for key in sorted({*shared, *(key for _, _, extra in slices for key in extra)}):
        if key in (*EACH, *_NO_EFFECT, "t"):
            continue
        levels = [(extra[key], layers) for layers, _, extra in slices if key in extra]
        levels += [(shared[key], None)] if key in shared else []
        settings[key] = _layered(levels, f"{file}: {key}")
    return settings


def _slerp_entries(
    slices: Sequence[Slice],
    shared: Mapping[str, Any],
    base: str | None,
    models: Sequence[str],
    file: Path,
) -> list[dict[str, Any]]:
    """Slerp's `t` as two weights: 1-t for the base, t for the other."""
    others = [model for model in models if model != base]
    if base is None or len(others) != 1:
        raise InvalidConfig(
            f"{file}: slerp needs `base_model` and one other model, found {base} and {others}.",
            hint="list two models and name one of them as `base_model`.",
        )
    for source in (source for _, sources, _ in slices for source in sources):
        refuse_unknown(_parameters(source.get("parameters"), file), _NO_EFFECT, file)
    levels = [(extra["t"], layers) for layers, _, extra in slices if "t" in extra]
    levels += [(shared["t"], None)] if "t" in shared else []
    t = numbers(_layered(levels, f"{file}: t"), f"{file}: t") if levels else None
    if t is None:
        raise InvalidConfig(f"{file}: slerp needs the parameter `t`.", hint="t: 0.5")
    return [{"path": base, "weight": _rest(t)}, {"path": others[0], "weight": t}]


def _rest(t: Any) -> Any:
    """1 - t of a setting."""
    if isinstance(t, Mapping):
        return {**t, "value": _rest(t["value"])}
    return [_rest(x) for x in t] if isinstance(t, list) else 1.0 - t


def _layered(levels: Sequence[tuple[Any, list[int] | None]], where: str) -> Any:
    """One setting from several sources, the first that has it; None if none has."""
    entries: list[dict[str, Any]] = []
    for setting, layers in levels:
        plain = checked(setting, where)
        some = plain if isinstance(plain, list) and isinstance(plain[0], Mapping) else None
        entries += [
            {**entry, "layers": layers} if layers else dict(entry)
            for entry in some or [{"value": plain}]
        ]
    if not entries:
        return None
    return entries[0]["value"] if set(entries[0]) == {"value"} else entries


def _parameters(given: Any, file: Path) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidConfig(
            f"{file}: parameters is {given!r}.", hint="write `parameters: {weight: 0.5}`."
        )
    return dict(given)


def _model(model: Any, file: Path) -> str:
    """The folder of a mergekit model, relative to the current folder first, as in mergekit."""
    if not isinstance(model, str) or ("+" in model and not Path(model).exists()):
        raise InvalidConfig(
            f"{file}: model {model!r} is not a plain folder.",
            hint="adapters (`model+lora`) and revisions are not supported; merge the adapter first.",
        )
    here = Path(model).expanduser()
    return str(here.absolute() if here.is_dir() else file.absolute().parent / here)


def _donor(source: Any, base: str | None, models: Sequence[str], file: Path) -> str | None:
    """The checkpoint that gives config and tokenizer: the base if there is one, as in mergekit."""
    if source in (None, "base"):
        return base or (models[0] if models else None)
    donor = _model(source, file) if source != "union" else ""
    if donor not in (base, *models):
        raise InvalidConfig(
            f"{file}: tokenizer_source {source!r} is not supported.",
            hint="use `base` or one of the models; recycler does not combine tokenizers.",
        )
    return donor


def _names(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each path: the folder's name, or the whole path if two names are equal."""
    short = [Path(path).name for path in paths]
    return {p: s if short.count(s) == 1 else p for p, s in zip(paths, short, strict=True)}


def mergekit_recipe(recipe: Recipe, pool: Pool) -> dict[str, Any] | None:
    """The recipe in mergekit's YAML (mergekit sums in `dtype`, recycler always in float32).

    None if mergekit can't express it: other conventions, layer ranges, mask seeds, tensors of
    several dtypes.
    """
    method = find_method(recipe.method)
    settings = {**getattr(method, "defaults", {}), **recipe.settings}
    shared = {key: settings[key] for key in _SHARED if key in settings}
    for key, words in (("normalize", "weights"), ("rescale", "l1")):
        if key in shared and not varies(shared[key]):
            if shared[key] not in ("none", words):
                return None
            shared[key] = shared[key] != "none"
        elif not all(isinstance(value, bool) for value in scalars(shared.get(key, True))):
            return None
    usual = {
        "sign": "weighted", "scope": "tensor", "seed": 0, "missing": "tied", "vocabulary": "refuse",
    }  # fmt: skip
    if any(settings.get(key, value) != value for key, value in usual.items()):
        return None
    dtype = recipe.dtype or _only_dtype([pool[item.name] for item in recipe.ingredients])
    if recipe.method == "slerp" or _by_layers(recipe) or not dtype:
        return None
    base = recipe.base if recipe.base and method.needs_base else None
    return {
        "merge_method": recipe.method,
        **({"base_model": str(pool[base.name].path)} if base else {}),
        "models": [
            {
                "model": str(pool[item.name].path),
                "parameters": own_parameters(item),
            }
            for item in sorted(recipe.ingredients, key=lambda item: (-item.weight, item.name))
        ],
        "parameters": shared,
        "dtype": "float32",
        "out_dtype": dtype,
    }


def _only_dtype(checkpoints: Sequence[Checkpoint]) -> str:
    """The common float dtype of some checkpoints; empty if there are several."""
    specs = [spec for checkpoint in checkpoints for spec in checkpoint.tensors.values()]
    kinds = {spec.dtype for spec in specs if spec.is_float}
    return DTYPES[kinds.pop()][0] if len(kinds) == 1 else ""


def _by_layers(recipe: Recipe) -> bool:
    settings = [
        *recipe.settings.values(),
        *(v for i in recipe.ingredients for v in i.settings.values()),
    ]
    entries = [e for s in settings if varies(s) for e in s if isinstance(e, Mapping)]
    return any("layers" in entry for entry in entries)
