"""The part of each tensor of a merge: its inputs, their weights, and the arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import TensorSpec
from recycler.checkpoints.naming import is_buffer
from recycler.errors import Incompatible, InvalidConfig
from recycler.merge.arithmetic import Change, Sum, Terms
from recycler.merge.layout import Layout
from recycler.merge.methods import Method, find_method, mask_key
from recycler.merge.sources import FileFacts, Located, Sources
from recycler.nouns.layers import Place, places, value_at
from recycler.nouns.recipe import Recipe
from recycler.protocols import MergeMethod


@dataclass(frozen=True, slots=True)
class Part:
    """One recipe at one tensor: its inputs, and what to compute.

    `step` is None for a method of another package and for an exact copy.
    """

    spec: TensorSpec
    method: MergeMethod
    inputs: tuple[Located, ...]
    base: Located | None
    terms: Terms
    step: Sum | Change | None

    @property
    def numel(self) -> int:
        return self.spec.numel

    @property
    def is_copy(self) -> bool:
        """Whether the result is the bytes of one checkpoint."""
        return (
            len(self.inputs) == 1
            and isinstance(self.step, Sum)
            and self.step.weights == (1.0,)
            and self.inputs[0][1].dtype == self.spec.dtype
        )

    @property
    def is_summed(self) -> bool:
        """Whether numbers are computed; buffers and integers are copied, never scaled."""
        return self.spec.is_float and not is_buffer(self.spec) and not self.is_copy


def parts_of(recipe: Recipe, sources: Sources, layout: Layout) -> "Callable[[TensorSpec], Part]":
    """The part of each tensor of a merge, computed on demand."""
    where = places([spec.name for spec in layout.specs])

    def part(spec: TensorSpec) -> Part:
        twin = layout.twins.get(spec.name, spec.name)
        made = part_of(recipe, sources, replace(spec, name=twin), where[twin])
        return replace(made, spec=spec)

    return part


def part_of(recipe: Recipe, sources: Sources, spec: TensorSpec, place: Place) -> Part:
    method = find_method(recipe.method)
    if is_buffer(spec):
        return _buffer(recipe, sources, spec, method)
    base = _base(recipe, method, sources, spec)
    weighed = _weighed(recipe, method, sources, spec, place, base)
    inputs = tuple(located for located, *_ in weighed)
    if not inputs and base is not None:
        inputs = (base,)
    if not inputs:
        raise InvalidConfig(
            f"all weights are 0 at tensor {spec.name!r}.",
            hint="a filter or gradient gives 0 there for every checkpoint; add a last entry "
            "`{value: ...}`.",
        )
    settings = _settings(recipe, method, place)
    terms = Terms(
        tuple(weight for _, weight, _, _ in weighed) or (1.0,),
        tuple(density for _, _, density, _ in weighed),
        tuple(key for _, _, _, key in weighed),
        settings,
    )
    step: Sum | Change | None = None
    if not weighed or not spec.is_float:
        step = Sum((1.0,))
    elif isinstance(method, Method) and not _has_doubles(inputs, base):
        step = method.arithmetic(terms, FileFacts(sources, inputs, base, spec.numel))
    return Part(spec, method, inputs, base, terms, step)


def _buffer(recipe: Recipe, sources: Sources, spec: TensorSpec, method: MergeMethod) -> Part:
    """The buffer of the ingredients that have it, in the order of sums; else the base's."""
    holders = [sources.pool[item.name] for item in recipe.ingredients]
    found = [(c, own) for c in holders if (own := sources.own(c, spec.name))]
    if not found and recipe.base:
        base = sources.pool[recipe.base.name]
        found = [(base, own) for own in [sources.own(base, spec.name)] if own]
    same = [(c, own) for c, own in found if (own.dtype, own.shape) == (spec.dtype, spec.shape)]
    inputs = tuple(sorted(same, key=lambda located: sources.rank(located[0].name)))
    return Part(spec, method, inputs, None, Terms((1.0,), (), (), {}), Sum((1.0,)))


def _base(
    recipe: Recipe, method: MergeMethod, sources: Sources, spec: TensorSpec
) -> Located | None:
    if not method.needs_base and recipe.settings.get("missing") != "base":
        return None
    if recipe.base is None:
        raise InvalidConfig(
            f"{recipe.method} needs a base checkpoint.", hint="name it as `base:` of the recipe."
        )
    base = sources.pool[recipe.base.name]
    own = sources.spec(base, spec.name)
    if own is None:
        raise Incompatible(
            f"the base {base.name!r} has no tensor {spec.name!r}.",
            hint="use the checkpoint that the others were trained from as base.",
        )
    return base, own


def _weighed(
    recipe: Recipe,
    method: MergeMethod,
    sources: Sources,
    spec: TensorSpec,
    place: Place,
    base: Located | None,
) -> list[tuple[Located, float, float, int]]:
    """(where, weight, density, key) of each input of non-zero weight, in the order of sums."""
    seed = int(value_at(recipe.settings.get("seed", 0), place))
    shared = value_at(recipe.settings.get("density", 1.0), place)
    found = []
    for item in recipe.ingredients:
        weight = item.weight * _need(item.settings.get("weight", 1.0), place, item.name)
        located = _located(recipe, sources, sources.pool[item.name], spec, base)
        if weight == 0 or located is None:
            continue
        density = value_at(item.settings.get("density"), place)
        density = float(density if density is not None else shared if shared is not None else 1.0)
        key = mask_key(seed, item.fingerprint, spec.name)
        found.append((located, weight, density, key))
    return sorted(found, key=lambda entry: (sources.rank(entry[0][0].name), *entry[1:3]))


def _need(setting: Any, place: Place, name: str) -> float:
    value = value_at(setting, place)
    if value is None:
        raise InvalidConfig(
            f"checkpoint {name!r} has no weight for tensor {place.tensor!r}: no filter matches.",
            hint="add a last entry `{value: ...}` to its weights.",
        )
    return float(value)


def _located(
    recipe: Recipe,
    sources: Sources,
    checkpoint: Checkpoint,
    spec: TensorSpec,
    base: Located | None,
) -> Located | None:
    """Where a checkpoint's tensor is stored; if it has none, `missing` decides."""
    own, missing = sources.spec(checkpoint, spec.name), recipe.settings.get("missing")
    if own is not None:
        return checkpoint, own
    if missing in ("base", "skip"):
        return base if missing == "base" else None
    raise Incompatible(
        f"{checkpoint.name!r} has no tensor {spec.name!r}, but others have it.",
        hint="run `recycler pool check`; `missing: base` or `missing: skip` in the recipe's "
        "settings merges anyway.",
    )


def _settings(recipe: Recipe, method: MergeMethod, place: Place) -> dict[str, Any]:
    """The method's settings at one tensor, with defaults filled in."""
    defaults: Mapping[str, Any] = getattr(method, "defaults", {})
    given = {key: value_at(value, place) for key, value in recipe.settings.items()}
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def _has_doubles(inputs: Sequence[Located], base: Located | None) -> bool:
    return any(x and x[1].dtype == "F64" for x in (*inputs, base))
