"""What each tensor of a merge is made of: its inputs, their weights, and the arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import DTYPES, TensorSpec
from recycler.checkpoints.pool import Pool
from recycler.errors import Incompatible, InvalidConfig
from recycler.merge.methods import METHODS, Change, Method, Sum, Terms, mask_key
from recycler.merge.sources import FileFacts, Located, Sources
from recycler.nouns.layers import Place, value_at
from recycler.nouns.recipe import Recipe
from recycler.protocols import MergeMethod
from recycler.registry import resolve

SAFETENSORS = {torch_name: name for name, (torch_name, _) in DTYPES.items()}


def find_method(name: str) -> MergeMethod:
    """The merge method of that name: ours, or one that another package registers."""
    found: MergeMethod = resolve("merge method", name, METHODS)
    return found


def output_specs(recipe: Recipe, sources: Sources) -> list[TensorSpec]:
    """Name, dtype, shape and size of each tensor the merge gives, sorted by name; offsets from 0.

    Raises:
        Incompatible: the inputs differ in a way that `missing` and `vocabulary` don't allow.
    """
    pool = sources.pool
    inputs = _inputs(recipe, pool)
    names = {name for checkpoint in inputs for name in checkpoint.tensors}
    return [_output(recipe, sources, inputs, name) for name in sorted(names)]


def _inputs(recipe: Recipe, pool: Pool) -> list[Checkpoint]:
    """The checkpoints of a recipe, its base last."""
    base = [recipe.base] if recipe.base and find_method(recipe.method).needs_base else []
    return [pool[item.name] for item in (*recipe.ingredients, *base)]


def _output(
    recipe: Recipe, sources: Sources, inputs: Sequence[Checkpoint], name: str
) -> TensorSpec:
    found = [spec for c in inputs if (spec := sources.spec(c, name))]
    shape = found[0].shape
    for checkpoint in inputs:
        spec = sources.spec(checkpoint, name)
        if spec is None or spec.shape == shape:
            continue
        if recipe.settings.get("vocabulary") != "common" or spec.shape[1:] != shape[1:]:
            raise Incompatible(
                f"{checkpoint.name!r}: tensor {name!r} is {spec}, expected {found[0]}.",
                hint="run `recycler pool check` on the folders; where only rows of padding differ, "
                "`vocabulary: common` in the recipe's settings keeps the rows that all have.",
            )
        shape = min(shape, spec.shape)
    code = SAFETENSORS[recipe.dtype] if found[0].is_float else found[0].dtype
    nbytes = int(np.prod(shape)) * DTYPES[code][1] // 8
    return TensorSpec(name, code, shape, "", 0, nbytes)


@dataclass(frozen=True, slots=True)
class Part:
    """One recipe at one tensor: what goes in, and what to compute.

    `step` is None where a method of another package, or an exact copy, does not need one.
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
        """Whether the bytes of one checkpoint are the result."""
        return (
            len(self.inputs) == 1
            and isinstance(self.step, Sum)
            and self.step.weights == (1.0,)
            and self.inputs[0][1].dtype == self.spec.dtype
        )


def part_of(recipe: Recipe, sources: Sources, spec: TensorSpec, place: Place) -> Part:
    method = find_method(recipe.method)
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
        numel = spec.numel
        step = method.arithmetic(terms, FileFacts(sources, inputs, base, numel))
    return Part(spec, method, inputs, base, terms, step)


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
            hint="take as base the checkpoint that the others were trained from.",
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
    """(where, weight, density, key) of each input whose weight is not 0 here, in order of sums."""
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
    """Where a checkpoint's tensor lies; where it has none, what `missing` says."""
    own, missing = sources.spec(checkpoint, spec.name), recipe.settings.get("missing")
    if own is not None:
        return checkpoint, own
    if missing in ("base", "skip"):
        return base if missing == "base" else None
    raise Incompatible(
        f"{checkpoint.name!r} has no tensor {spec.name!r}, which others have.",
        hint="run `recycler pool check`; `missing: base` or `missing: skip` in the recipe's "
        "settings merges all the same.",
    )


def _settings(recipe: Recipe, method: MergeMethod, place: Place) -> dict[str, Any]:
    """The method's settings at one tensor, defaults filled in."""
    defaults: Mapping[str, Any] = getattr(method, "defaults", {})
    given = {key: value_at(value, place) for key, value in recipe.settings.items()}
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def _has_doubles(inputs: Sequence[Located], base: Located | None) -> bool:
    return any(x and x[1].dtype == "F64" for x in (*inputs, base))
