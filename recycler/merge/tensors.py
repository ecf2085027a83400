"""From a recipe and a pool to merged tensors, one after the other: the only way to the bytes.

Both targets (live and disk) consume `merged`, so what is evaluated is what is exported.
May import: errors, checkpoint, pool, recipe, protocols, registry, merge.methods, torch, safetensors.
"""

import hashlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recycler.checkpoint import DTYPES, Checkpoint, TensorSpec, tree_digest
from recycler.errors import BrokenCheckpoint, Incompatible
from recycler.merge.methods import METHODS
from recycler.pool import Pool
from recycler.protocols import MergeMethod
from recycler.recipe import Recipe
from recycler.registry import resolve

SAFETENSORS = {torch_name: name for name, (torch_name, _) in DTYPES.items()}


class Sources:
    """Memory-mapped tensors of a pool's checkpoints; files stay open until `close`."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._files: dict[tuple[str, str], Any] = {}

    def tensor(self, checkpoint: Checkpoint, name: str) -> Tensor:
        """A read-only view of the mapped file; no copy."""
        spec = checkpoint.tensors[name]
        key = (checkpoint.name, spec.file)
        try:
            if key not in self._files:
                self._files[key] = safe_open(str(checkpoint.path / spec.file), framework="pt")
            return self._files[key].get_tensor(name)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise BrokenCheckpoint(
                f"{checkpoint.path / spec.file}: tensor {name!r} can't be read ({error}).",
                hint="the file changed since the pool was opened; run `recycler pool check`.",
            ) from error

    def close(self) -> None:
        self._files.clear()

    def __enter__(self) -> "Sources":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Digest:
    """Collects the hash of each merged tensor; `value` equals a checkpoint's fingerprint."""

    def __init__(self) -> None:
        self._hashes: list[tuple[TensorSpec, str]] = []

    def add(self, spec: TensorSpec, tensor: Tensor) -> None:
        sha = hashlib.sha256(raw_bytes(tensor)).hexdigest()
        self._hashes.append((spec, sha))

    @property
    def value(self) -> str:
        return tree_digest(self._hashes)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in C order, without a copy where it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def output_specs(recipe: Recipe, pool: Pool) -> list[TensorSpec]:
    """Name, dtype, shape and size of each tensor the merge gives, sorted by name; offsets from 0."""
    specs = []
    for name, spec in sorted(pool.checkpoints[0].tensors.items()):
        code = SAFETENSORS[recipe.dtype] if _is_float(spec) else spec.dtype
        nbytes = spec.nbytes * DTYPES[code][1] // DTYPES[spec.dtype][1]
        specs.append(TensorSpec(name, code, spec.shape, "", 0, nbytes))
    return specs


def merged(
    recipe: Recipe, sources: Sources, device: str = "cpu"
) -> Iterator[tuple[TensorSpec, Tensor]]:
    """Each merged tensor in the recipe's dtype, in order of their names.

    Tensors that are not floats (position ids and the like) must be equal in all ingredients.

    Args:
        recipe: what to merge; its checkpoints are looked up in the pool by name.
        sources: the opened pool.
        device: torch device to merge on.

    Raises:
        Incompatible: a checkpoint lacks a tensor, or integer tensors differ.
    """
    pool = sources.pool
    method = find_method(recipe.method)
    checkpoints = [pool[item.name] for item in recipe.ingredients]
    weights = [item.weight for item in recipe.ingredients]
    base = pool[recipe.base.name] if recipe.base and method.needs_base else None
    for spec in output_specs(recipe, pool):
        inputs = [_input(sources, checkpoint, spec).to(device) for checkpoint in checkpoints]
        if not _is_float(spec):
            yield spec, _same(inputs, spec.name)
            continue
        anchor = _input(sources, base, spec).to(device) if base else None
        merge = method(inputs, weights, anchor, recipe.settings)
        yield spec, merge.to(getattr(torch, DTYPES[spec.dtype][0]))


def find_method(name: str) -> MergeMethod:
    """The merge method of that name: ours, or one that another package registers."""
    found: MergeMethod = resolve("merge method", name, METHODS)
    return found


def _input(sources: Sources, checkpoint: Checkpoint, spec: TensorSpec) -> Tensor:
    own = checkpoint.tensors.get(spec.name)
    if own is None or own.shape != spec.shape:
        raise Incompatible(
            f"{checkpoint.name!r}: tensor {spec.name!r} is {own or 'absent'}, expected {spec}.",
            hint="run `recycler pool check` on the folders.",
        )
    return sources.tensor(checkpoint, spec.name)


def _same(inputs: list[Tensor], name: str) -> Tensor:
    if any(not torch.equal(inputs[0], other) for other in inputs[1:]):
        raise Incompatible(
            f"tensor {name!r} holds whole numbers that differ between checkpoints.",
            hint="only tensors of floats can be merged.",
        )
    return inputs[0]


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("F", "BF"))
