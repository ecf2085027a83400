"""Writes a merge as safetensors shards with an index, tensor by tensor, in bounded memory.

Reference: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from recycler.checkpoints.header import TensorSpec
from recycler.files import write_synced
from recycler.merge.layout import output_specs
from recycler.merge.sources import Sources
from recycler.merge.stream import Digest, Loss, merges, raw_bytes
from recycler.nouns.recipe import Recipe

SHARD_BYTES = 5_000_000_000  # the shard size of transformers
INDEX = "model.safetensors.index.json"


def write_weights(
    recipe: Recipe,
    sources: Sources,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
    device: str = "cpu",
    threads: int = 1,
    loss: Loss | None = None,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> tuple[str, dict[str, str]]:
    """Stream a merge into `folder` in the layout that transformers reads.

    Args:
        recipe: the merge.
        sources: the opened pool.
        folder: must exist; only weight files of the same name are overwritten.
        shard_bytes: size that a shard does not exceed, if its tensors allow it [B].
        device: torch device to merge on.
        threads: number of threads that read and sum while this one hashes and writes.
        loss: collects what rounding takes from updates of a base.
        on_bytes: called with the bytes just written, for progress bars.

    Returns:
        The digest of the merged bytes, and the SHA-256 of each file as it was passed to the disk
        (reading it back is up to the caller).
    """
    shards = _plan(output_specs(recipe, sources), shard_bytes)
    digest, hashes = Digest(), {}
    tensors = merges([recipe], sources, device, threads, loss)
    for name, specs in shards.items():
        sha = hashlib.sha256()
        with (folder / name).open("wb") as file:
            _put(file, sha, _header(specs))
            for _ in specs:
                ((spec, held),) = next(tensors)
                digest.add(spec, held)
                on_bytes(_put(file, sha, raw_bytes(held)))
            file.flush()
            os.fsync(file.fileno())
        hashes[name] = sha.hexdigest()
    for _ in tensors:  # runs the generator to its end, where it checks whether a file changed
        raise AssertionError("more tensors than planned")
    if len(shards) > 1:
        _write_index(folder, shards)
    return digest.value, hashes


def _put(file: BinaryIO, sha: "hashlib._Hash", content: bytes | memoryview) -> int:
    sha.update(content)
    return file.write(content)


def _plan(specs: list[TensorSpec], shard_bytes: int) -> dict[str, list[TensorSpec]]:
    groups: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if groups[-1] and size + spec.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(spec)
        size += spec.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, start=1)
    }


def _header(specs: list[TensorSpec]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for spec, (start, stop) in zip(specs, _offsets(specs), strict=True):
        entry = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [start, stop]}
        table[spec.name] = entry
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _offsets(specs: list[TensorSpec]) -> Iterator[tuple[int, int]]:
    start = 0
    for spec in specs:
        yield start, start + spec.nbytes
        start += spec.nbytes


def _write_index(folder: Path, shards: dict[str, list[TensorSpec]]) -> None:
    index = {
        "metadata": {"total_size": sum(s.nbytes for specs in shards.values() for s in specs)},
        "weight_map": {spec.name: name for name, specs in shards.items() for spec in specs},
    }
    write_synced(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())
