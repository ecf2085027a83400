"""The checkpoints of a pool as merges read them: block by block, from files, in a fixed order.

Files are read with `pread` into buffers, not mapped: a file that is truncated while mapped kills
the process, and mapped pages count as its memory. All workers of a host share the page cache.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module as lazy  # torch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycler.beneath import open_beneath
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import DTYPES, TensorSpec
from recycler.checkpoints.naming import copied_from, shared_names
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint
from recycler.merge import kernels
from recycler.merge.arithmetic import NO_CUT, Trim, cosine_of, kept_of, ratio

Floats = NDArray[np.float32]
BLOCK_BYTES = 1 << 21  # of all rows together; 1 and 4 MB were measured to be a tenth slower
_NUMPY = {"F16": np.float16, "F64": np.float64}
_SAMPLE = 64  # bytes read at three places of each tensor to tell checkpoints apart


class Sources:
    """The tensors of a pool, cached facts about them, and the order of sums.

    The order of sums must depend neither on the order of the pool nor on names. Checkpoints are
    sorted by a sample of their bytes, which takes a few milliseconds where a fingerprint would
    take a full read; if two samples are equal, the fingerprints decide.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        named = shared_names(pool.everything)
        self._named = {c.name: table for c, table in zip(pool.everything, named, strict=True)}
        tables = self._named.values()
        self._common = {s.name: name for table in tables for name, s in table.items()}
        self._tied: dict[tuple[str, str], bool] = {}
        self._stamps = {c.name: c.stamp() for c in pool.everything}
        self._order: dict[str, tuple[str, str]] | None = None
        self.facts: dict[tuple[Any, ...], Any] = {}  # `FileFacts` results, for later merges

    def __enter__(self) -> "Sources":
        return self

    def __exit__(self, *_: object) -> None:
        self.facts.clear()

    def rank(self, checkpoint: str) -> tuple[str, str]:
        """Sort key of a checkpoint among the inputs of a sum."""
        if self._order is None:
            samples = {c.name: sample(c) for c in self.pool.everything}
            alike = {s for s in samples.values() if list(samples.values()).count(s) > 1}
            self._order = {
                c.name: (samples[c.name], c.fingerprint() if samples[c.name] in alike else "")
                for c in self.pool.everything
            }
        return self._order[checkpoint]

    def spec(self, checkpoint: Checkpoint, name: str) -> TensorSpec | None:
        """Where a checkpoint has a tensor; a tied tensor that is not stored lies at the embedding."""
        return self.own(checkpoint, name) or copied_from(checkpoint, name)

    def own(self, checkpoint: Checkpoint, name: str) -> TensorSpec | None:
        """Where a checkpoint stores a tensor, under its own name or the pool's common one."""
        named = self._named[checkpoint.name]
        return checkpoint.tensors.get(name) or named.get(self._common.get(name, name))

    def is_tied(self, checkpoint: Checkpoint, name: str) -> bool:
        """Whether a tensor is the embedding: tied, and not also stored with other bytes.

        transformers does not tie tensors that a folder stores with different bytes, whatever its
        config says.
        """
        own, source = self.own(checkpoint, name), copied_from(checkpoint, name)
        if own is None or source is None:
            return source is not None
        key = (checkpoint.name, name)
        if key not in self._tied:
            same = (own.dtype, own.shape) == (source.dtype, source.shape)
            self._tied[key] = same and np.array_equal(
                read_raw((checkpoint, own), own.shape), read_raw((checkpoint, source), own.shape)
            )
        return self._tied[key]

    def require_unchanged(self) -> None:
        """Raise BrokenCheckpoint if a file was touched since the pool was opened."""
        for checkpoint in self.pool.everything:
            if checkpoint.stamp() != self._stamps[checkpoint.name]:
                raise BrokenCheckpoint(
                    f"{checkpoint.path}: a weight file changed while it was merged.",
                    hint="wait until the writing process is done, then merge again.",
                )


class Files:
    """The same tensor in several checkpoints, with open files; reads count in elements, not bytes."""

    def __init__(self, where: Sequence[tuple[Checkpoint, TensorSpec]]) -> None:
        self.where = where
        self.kinds = [spec.dtype for _, spec in where]
        self._begins = [(spec.start, DTYPES[spec.dtype][1] // 8) for _, spec in where]
        self._handles: list[int] = []
        try:
            for checkpoint, spec in where:
                self._handles.append(open_beneath(checkpoint.path / spec.file))
        except OSError as error:
            self.close()
            raise BrokenCheckpoint(
                f"{checkpoint.path / spec.file} can't be read: {error.strerror}.",
                hint="the folder changed since the pool was opened; run `recycler pool check`.",
            ) from error

    def read(self, i: int, first: int, into: NDArray[Any]) -> None:
        """Fill a contiguous buffer with raw elements of the i-th file, from index `first` on."""
        start, width = self._begins[i]
        at, left = start + first * width, into.view(np.uint8).data
        while (got := os.preadv(self._handles[i], [left], at)) < len(left):
            if not got:
                checkpoint, spec = self.where[i]
                raise BrokenCheckpoint(
                    f"{checkpoint.path / spec.file} ended {len(left)} bytes early in tensor "
                    f"{spec.name!r}.",
                    hint="the file changed or was truncated while it was read; copy it again.",
                )
            at, left = at + got, left[got:]

    def read_all(self, first: int, rows: NDArray[np.uint16]) -> None:
        """Fill each row from its file, 16 bits a number, from index `first` on."""
        handles = np.array(self._handles, np.int32)
        offsets = np.array([start + first * width for start, width in self._begins])
        for i in range(kernels.read_rows(handles, offsets, rows), len(rows)):
            self.read(i, first, rows[i])  # of a short row: raises the error

    def wide(self, i: int, first: int, out: Floats, scratch: NDArray[np.uint8]) -> None:
        """Fill (c,) float32 with the i-th file's numbers, from index `first` on.

        `scratch` holds at least 8 c bytes.
        """
        kind = self.kinds[i]
        if kind == "F32":
            return self.read(i, first, out)
        raw = scratch[: len(out) * DTYPES[kind][1] // 8]
        self.read(i, first, raw)
        if kind == "BF16":
            kernels.widen_bf16(raw.view(np.uint16), out)
        elif kind in _NUMPY:
            out[:] = raw.view(_NUMPY[kind])
        else:
            lazy("recycler.merge.raw").widen(raw, kind, out)
        return None

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []


def read_raw(located: "Located", shape: Sequence[int]) -> NDArray[np.uint8]:
    """The bytes of a tensor, or of its first rows, in new memory."""
    raw = np.empty(math.prod(shape) * DTYPES[located[1].dtype][1] // 8, np.uint8)
    with opened([located]) as files:
        files.read(0, 0, raw)
    return raw


@contextmanager
def opened(where: Sequence[tuple[Checkpoint, TensorSpec]]) -> Iterator[Files]:
    """`Files`, closed at the end of the block."""
    files = Files(where)
    try:
        yield files
    finally:
        files.close()


def blocks(numel: int, rows: int, width: int = 2) -> list[tuple[int, int]]:
    """Ranges [start, stop) of a tensor's elements, for `rows` inputs of `width` bytes a number."""
    size = max(1 << 12, BLOCK_BYTES // (width * max(rows, 1)) & ~0xFFF)
    return [(start, min(numel, start + size)) for start in range(0, numel, size)]


class FileFacts:
    """`arithmetic.Facts` from files: exact, equal on every device, cached in Sources.

    Args of the constructor: the sources; the inputs of one tensor and their base as (checkpoint,
    spec); how many of the first elements count.
    """

    def __init__(
        self,
        sources: Sources,
        inputs: Sequence[tuple[Checkpoint, TensorSpec]],
        base: tuple[Checkpoint, TensorSpec] | None,
        numel: int,
    ) -> None:
        self._sources, self._inputs, self._base, self._numel = sources, inputs, base, numel

    def trim(self, i: int, density: float, scope: str) -> Trim:
        x, b = self._inputs[i], self._base
        assert b is not None, "a task vector needs a base"
        if scope == "model":
            return self._model_trim(x[0], b[0], density)[x[1].name, b[1].name]
        key = ("trim", *_names(x, b), self._numel, density)
        if key not in self._sources.facts:
            pairs = [(x, b, self._numel)]
            (self._sources.facts[key],) = _trims(pairs, density)
        found: Trim = self._sources.facts[key]
        return found

    def _model_trim(
        self, checkpoint: Checkpoint, base: Checkpoint, density: float
    ) -> dict[tuple[str, str], Trim]:
        """Trims for one threshold over the whole model, by names of the tensor and the base's.

        The two names differ if a head is tied in one of them and stored at its embedding.
        """
        key = ("model-trim", checkpoint.name, base.name, density)
        if key not in self._sources.facts:
            pairs = {}
            for name in sorted({*checkpoint.tensors, *base.tensors}):
                x, b = (self._sources.spec(c, name) for c in (checkpoint, base))
                if x and b and x.dtype.startswith(("F", "BF")):
                    numel = min(x.numel, b.numel)
                    pairs[x.name, b.name] = ((checkpoint, x), (base, b), numel)
            found = _trims(list(pairs.values()), density)
            self._sources.facts[key] = dict(zip(pairs, found, strict=True))
        trims: dict[tuple[str, str], Trim] = self._sources.facts[key]
        return trims

    def l1_ratio(self, i: int, trim: Trim, key: int, limit: int) -> float:
        assert self._base is not None, "a task vector needs a base"
        known = ("l1", *_names(self._inputs[i], self._base), self._numel, trim, key, limit)
        if known not in self._sources.facts:
            sums = np.zeros(2)
            for first, x, b in _pairs(self._inputs[i], self._base, self._numel):
                kernels.sums_of(
                    x,
                    b,
                    first,
                    np.uint32(trim.tau),
                    trim.cut,
                    np.uint64(key),
                    np.uint64(limit),
                    sums,
                )
            self._sources.facts[known] = ratio(float(sums[0]), float(sums[1]))
        return float(self._sources.facts[known])

    def cosine(self) -> float:
        known = ("cosine", *_names(*self._inputs), self._numel)
        if known not in self._sources.facts:
            sums = np.zeros(3)
            for _, x, y in _pairs(self._inputs[0], self._inputs[1], self._numel):
                kernels.products(x, y, sums)
            self._sources.facts[known] = cosine_of(*(float(s) for s in sums))
        return float(self._sources.facts[known])


Located = tuple[Checkpoint, TensorSpec]


def _names(*located: Located) -> tuple[str, ...]:
    """Tensors of a pool, each by checkpoint and name."""
    return tuple(name for checkpoint, spec in located for name in (checkpoint.name, spec.name))


def _trims(pairs: Sequence[tuple[Located, Located, int]], density: float) -> list[Trim]:
    """Trims of tensors that share one threshold, in two or three reads.

    The upper half of the threshold's bits comes from counting all magnitudes, the lower half from
    counting those that share the upper half: exact, without sorting.

    Args:
        pairs: (tensor, base, elements) of each.
        density: share of all their elements together that is kept.
    """
    total = sum(numel for _, _, numel in pairs)
    if not total:
        return [Trim() for _ in pairs]
    keep = kept_of(density, total)
    counts = np.zeros(1 << 15, np.int64)
    for x, b, numel in pairs:
        for _, rows, anchor in _pairs(x, b, numel):
            kernels.count_high(rows, anchor, counts)
    high, keep = _bin(counts, keep)
    counts = np.zeros(1 << 16, np.int64)
    for x, b, numel in pairs:
        for _, rows, anchor in _pairs(x, b, numel):
            kernels.count_low(rows, anchor, high, counts)
    low, keep = _bin(counts, keep)
    tau, ties = (high << 16) | low, int(counts[low])
    return [_cut(pair, tau, keep == ties, left) for pair, left in _ties(pairs, tau, keep, ties)]


def _bin(counts: NDArray[np.int64], keep: int) -> tuple[int, int]:
    """The bin that holds the keep-th largest number, and its rank from the top of that bin."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, keep))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, keep - before


def _ties(
    pairs: Sequence[tuple[Located, Located, int]], tau: int, keep: int, ties: int
) -> Iterator[tuple[tuple[Located, Located, int], int]]:
    """Each tensor with the number of its ties that are kept, first tensors first."""
    left = keep
    for pair in pairs:
        yield pair, left
        if keep < ties and len(pairs) > 1 and left > 0:
            x, b, numel = pair
            seen = sum(
                kernels.find_tie(rows, anchor, np.uint32(tau), numel + 1)[1]
                for _, rows, anchor in _pairs(x, b, numel)
            )
            left = max(0, left - seen)


def _cut(pair: tuple[Located, Located, int], tau: int, all_kept: bool, left: int) -> Trim:
    """Trim of a tensor of which the first `left` magnitudes equal to tau are kept."""
    if all_kept:
        return Trim(tau, NO_CUT)
    if left == 0:
        return Trim(tau, -1)
    x, b, numel = pair
    for first, rows, anchor in _pairs(x, b, numel):
        place, seen = kernels.find_tie(rows, anchor, np.uint32(tau), left)
        if place >= 0:
            return Trim(tau, first + place)
        left -= seen
    return Trim(tau, NO_CUT)


def _pairs(x: Located, y: Located, numel: int) -> Iterator[tuple[int, Floats, Floats]]:
    """(first index, block of x, block of y) in float32, block by block."""
    ranges = blocks(numel, 2, 4)
    if not ranges:
        return
    size = ranges[0][1]
    a, b = np.empty(size, np.float32), np.empty(size, np.float32)
    scratch = np.empty(8 * size, np.uint8)
    with opened([x, y]) as files:
        for start, stop in ranges:
            for i, row in enumerate((a, b)):
                files.wide(i, start, row[: stop - start], scratch)
            yield start, a[: stop - start], b[: stop - start]


def sample(checkpoint: Checkpoint) -> str:
    """Hash of each tensor's spec and of a few of its bytes at the start, the middle and the end."""
    sha = hashlib.sha256()
    handles: dict[str, int] = {}
    try:
        for spec in checkpoint.tensors.values():
            if spec.file not in handles:
                handles[spec.file] = open_beneath(checkpoint.path / spec.file)
            sha.update(f"{spec.name}\0{spec}\0".encode())
            for at in (spec.start, (spec.start + spec.stop) // 2, spec.stop - _SAMPLE):
                start = max(spec.start, at)
                sha.update(os.pread(handles[spec.file], min(_SAMPLE, spec.stop - start), start))
    except OSError as error:
        raise BrokenCheckpoint(
            f"{checkpoint.path} can't be read: {error.strerror}.",
            hint="the folder changed since the pool was opened; run `recycler pool check`.",
        ) from error
    finally:
        for handle in handles.values():
            os.close(handle)
    return sha.hexdigest()
