"""The tensors that a merge has: their names, shapes and dtypes, from headers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from recycler.checkpoints.architecture import is_tied_by_config, stays_float32
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import DTYPES, TensorSpec
from recycler.checkpoints.naming import copied_from, is_buffer, is_head, shared_names
from recycler.errors import Incompatible
from recycler.merge.methods import find_method
from recycler.merge.sources import Sources
from recycler.nouns.recipe import Recipe

SAFETENSORS = {torch_name: name for name, (torch_name, _) in DTYPES.items()}
_WIDTHS = ("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64")  # a later one holds an earlier one,
_APART = ({"F8_E4M3", "F8_E5M2"}, {"F16", "BF16"})  # except in these pairs
_HALVES = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one merge.

    Attributes:
        specs: name, dtype, shape and size of each, sorted by name; offsets start at 0.
        twins: tensor -> the embedding that it equals in all inputs (a tied head): it gets the same
            bytes, whatever filters, gradients and masks say about its name.
        is_tied: whether a head that is not among the tensors is the embedding; None if the inputs
            disagree.
    """

    specs: tuple[TensorSpec, ...]
    twins: dict[str, str]
    is_tied: bool | None

    @property
    def dtype(self) -> str:
        """Torch name of the dtype that holds most of the float bytes."""
        sizes: dict[str, int] = {}
        for spec in self.specs:
            if spec.is_float:
                sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.nbytes
        return DTYPES[max(sizes, key=lambda kind: sizes[kind], default="F32")][0]


def layout_of(recipe: Recipe, sources: Sources) -> Layout:
    """The layout of a recipe's merge.

    Raises:
        Incompatible: the inputs differ in a way that `missing` and `vocabulary` don't allow.
    """
    inputs = inputs_of(recipe, sources)
    tables = shared_names(inputs)
    names = sorted({name for table in tables for name in table})
    specs = tuple(_output(recipe, sources, inputs, name) for name in names)
    twins = {}
    for name in names:
        if all(sources.is_tied(checkpoint, name) for checkpoint in inputs):
            source = copied_from(inputs[0], name)
            twins[name] = next(n for n, spec in tables[0].items() if spec == source)
    said = {is_tied_by_config(checkpoint.config) for checkpoint in inputs}
    twins = {head: source for head, source in twins.items() if head != source}
    return Layout(specs, twins, said.pop() if len(said) == 1 else None)


def output_specs(recipe: Recipe, sources: Sources) -> list[TensorSpec]:
    """Name, dtype, shape and size of each tensor of the merge, sorted by name (see `Layout`)."""
    return list(layout_of(recipe, sources).specs)


def inputs_of(recipe: Recipe, sources: Sources) -> list[Checkpoint]:
    """The checkpoints of a recipe; the base comes last if the method has one."""
    base = [recipe.base] if recipe.base and find_method(recipe.method).needs_base else []
    return [sources.pool[item.name] for item in (*recipe.ingredients, *base)]


def model_dtype(recipe: Recipe, layout: Layout, donor: Checkpoint) -> str:
    """Torch name of the dtype that the merge's config names and that it is loaded in.

    It is the recipe's. Without one the donor's config is kept, unless the merge has another dtype
    than the donor's files.
    """
    if recipe.dtype:
        return recipe.dtype
    said = donor.config.get("dtype") or donor.config.get("torch_dtype")
    known = isinstance(said, str) and said in SAFETENSORS
    return str(said) if known and layout.dtype == donor.dtype else layout.dtype


def config_of(recipe: Recipe, layout: Layout, donor: Checkpoint) -> dict[str, Any]:
    """The donor's config.json, adapted to the merged tensors: dtype, tied head, vocabulary."""
    config = {key: value for key, value in donor.config.items() if key != "torch_dtype"}
    config["dtype"] = model_dtype(recipe, layout, donor)
    heads = [spec.name for spec in layout.specs if is_head(spec.name)]
    tied = all(name in layout.twins for name in heads) if heads else layout.is_tied
    text = config.get("text_config")
    if tied is not None and tied != is_tied_by_config(config):
        config["tie_word_embeddings"] = tied
        if isinstance(text, dict) and "tie_word_embeddings" in text:
            config["text_config"] = text = {**text, "tie_word_embeddings": tied}
    for spec in layout.specs:  # fewer embedding rows than the donor
        own = donor.tensors.get(spec.name)
        if own and own.shape != spec.shape:
            if config.get("vocab_size") == own.shape[0]:
                config["vocab_size"] = spec.shape[0]
            if isinstance(text, dict) and text.get("vocab_size") == own.shape[0]:
                config["text_config"] = text = {**text, "vocab_size": spec.shape[0]}
    return config


def _output(
    recipe: Recipe, sources: Sources, inputs: Sequence[Checkpoint], name: str
) -> TensorSpec:
    found = [(c, spec) for c in inputs if (spec := sources.spec(c, name))]
    shape = found[0][1].shape
    for checkpoint, spec in found:
        if is_buffer(spec) and is_buffer(found[0][1]):
            continue
        if spec.is_float != found[0][1].is_float:
            raise Incompatible(
                f"{checkpoint.name!r}: tensor {name!r} is {spec}, in {found[0][0].name!r} it is "
                f"{found[0][1]}.",
                hint="floats can't be averaged with integers; save all checkpoints with one dtype.",
            )
        if spec.shape == shape:
            continue
        if recipe.settings.get("vocabulary") != "common" or spec.shape[1:] != shape[1:]:
            raise Incompatible(
                f"{checkpoint.name!r}: tensor {name!r} is {spec}, expected {found[0][1]}.",
                hint="run `recycler pool check` on the folders; if only padding rows differ, "
                "`vocabulary: common` in the recipe's settings keeps the common rows.",
            )
        shape = min(shape, spec.shape)
    kind = _dtype(recipe, inputs, found, name)
    return TensorSpec(name, kind, shape, "", 0, prod(shape) * DTYPES[kind][1] // 8)


def _dtype(
    recipe: Recipe,
    inputs: Sequence[Checkpoint],
    found: Sequence[tuple[Checkpoint, TensorSpec]],
    name: str,
) -> str:
    """The dtype of one merged tensor, as safetensors names it.

    It is the recipe's. Without one, and for a tensor that a model keeps in float32 among narrower
    ones, it is the widest of the ingredients'. The base decides only if no ingredient has the
    tensor.
    """
    members = {item.name for item in recipe.ingredients}
    own = [spec for c, spec in found if c.name in members] or [spec for _, spec in found]
    if not own[0].is_float or is_buffer(own[0]):
        return own[0].dtype
    if recipe.dtype and not _is_kept(recipe.dtype, inputs, found, name):
        return SAFETENSORS[recipe.dtype]
    return widest([spec.dtype for spec in own])


def _is_kept(
    dtype: str,
    inputs: Sequence[Checkpoint],
    found: Sequence[tuple[Checkpoint, TensorSpec]],
    name: str,
) -> bool:
    """Whether a tensor keeps its dtype where the others are rounded to `dtype`."""
    if dtype not in _HALVES:
        return False
    if any(stays_float32(checkpoint.config, name, dtype) for checkpoint in inputs):
        return True
    return any(spec.dtype == "F32" and c.dtype in _HALVES for c, spec in found)


def widest(kinds: Sequence[str]) -> str:
    """The narrowest float dtype that holds all numbers of these; float32 for F16 with BF16."""
    if any(pair <= set(kinds) for pair in _APART):
        return max("F32", *kinds, key=_WIDTHS.index)
    return max(kinds, key=_WIDTHS.index)
