"""The deep check of a pool: reads every tensor once, in bounded memory, and writes nothing.

It finds NaN and Inf, checkpoints of equal bytes, and the norms and cosines of the task vectors.
Letters: n checkpoints.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import torch
from torch import Tensor

from recycler.checkpoints.findings import ERROR, WARNING, Finding
from recycler.checkpoints.folder import Checkpoint, ended_early
from recycler.checkpoints.header import DTYPES, TensorSpec, open_regular, tree_digest
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint

STACK_LIMIT = 1 << 22  # elements of all checkpoints held at the same time, in float64: 32 MB
_BLOCK, _FEWEST = 1 << 16, 1 << 10  # elements of one checkpoint read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Result of a deep check.

    Attributes:
        reference: what task vectors are differences from, in words: the base, or the mean.
        names: the n checkpoints with the tensor names and shapes of the first; others have no
            task vector.
        fingerprints: name -> hash of all tensors, as `Checkpoint.fingerprint` gives it; with base.
        norms: (n,) Euclidean norms of the task vectors, in the unit of the weights.
        cosines: (n, n) cosines between task vectors; None if one of them is zero.
        findings: what is wrong.
        read_bytes: bytes read in all.
        seconds: wall clock [s].
    """

    reference: str
    names: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    norms: tuple[float, ...] = ()
    cosines: tuple[tuple[float | None, ...], ...] = ()
    findings: tuple[Finding, ...] = ()
    read_bytes: int = 0
    seconds: float = 0.0


def read(pool: Pool, on_bytes: Callable[[int], object] = lambda count: None) -> Reading:
    """Read every tensor of a pool once.

    Task vectors are differences from the base or, without one, from the mean of the checkpoints,
    over all float tensors. Checkpoints (and a base) whose tensor names or shapes differ from the
    first's are left out. Sums are in float64; non-finite numbers are counted and taken as zero. At
    most `STACK_LIMIT` numbers are held at the same time, whatever the size of a tensor, and there
    are no more threads than processors.

    Args:
        pool: its headers may disagree.
        on_bytes: called with the number of bytes just read, for progress bars.

    Returns:
        The reading; without fingerprints and norms if a file changed or broke meanwhile.
    """
    started = time.monotonic()
    work = _Pass(pool, on_bytes)
    names = tuple(checkpoint.name for checkpoint in work.members)
    reference = (
        f"the base {pool.base.name!r}"
        if pool.base and work.from_base
        else (f"the mean of {len(names)} checkpoints")
    )
    try:
        with ExitStack() as stack:
            for checkpoint in pool.everything:
                stack.enter_context(_blaming(checkpoint))
                stack.enter_context(checkpoint.unchanged())
            work.run(stack.enter_context(ThreadPoolExecutor(_threads(pool))))
    except _Stopped as stopped:
        return Reading(
            reference=reference, names=names, findings=(*work.findings, stopped.finding)
        )
    fingerprints = {name: tree_digest(hashes.items()) for name, hashes in work.hashes.items()}
    norms = work.gram.diagonal().clamp(min=0).sqrt()
    lengths = torch.outer(norms, norms)
    cosines = (work.gram / lengths).clamp(-1, 1)
    return Reading(
        reference=reference,
        names=names,
        fingerprints=fingerprints,
        norms=tuple(norms.tolist()),
        cosines=tuple(
            tuple(c if length > 0 else None for c, length in zip(*row, strict=True))
            for row in zip(cosines.tolist(), lengths.tolist(), strict=True)
        ),
        findings=(*work.findings, *_equal_findings(pool, fingerprints)),
        read_bytes=sum(checkpoint.nbytes for checkpoint in pool.everything),
        seconds=time.monotonic() - started,
    )


class _Stopped(Exception):
    """Reading can't continue, for the reason that `finding` states."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@contextmanager
def _blaming(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except BrokenCheckpoint as error:
        raise _Stopped(Finding.of(error, checkpoint.name)) from error


def _threads(pool: Pool) -> int:
    return min(len(pool.everything), len(os.sched_getaffinity(0)))


class _Column:
    """One tensor of one checkpoint, read block by block from its first byte to its last."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: TensorSpec,
        file: BinaryIO,
        buffer: bytearray,
        row: Tensor,
    ) -> None:
        """Read into `buffer`, and convert into `row` (float64) if the tensor holds floats."""
        self.checkpoint, self.spec = checkpoint, spec
        self.sha = hashlib.sha256()
        self.nan = self.inf = 0
        self.first = -1  # index of the first non-finite element
        self._file, self._buffer, self._row, self._read = file, buffer, row, 0

    def block(self, elements: int) -> int:
        """Read the next block of at most this many elements; non-finite ones become zero in the row.

        Returns:
            Bytes read.
        """
        size = DTYPES[self.spec.dtype][1] // 8
        count = min(elements * size, self.spec.nbytes - self._read)
        view, got = memoryview(self._buffer)[:count], 0
        with _blaming(self.checkpoint):
            while got < count:
                offset = self.spec.start + self._read + got
                more = os.preadv(self._file.fileno(), [view[got:]], offset)
                if not more:
                    missing = self.spec.nbytes - self._read - got
                    raise ended_early(self.checkpoint, self.spec, missing)
                got += more
        self.sha.update(view)
        if count and self.spec.is_float:
            dtype = getattr(torch, DTYPES[self.spec.dtype][0])
            numbers = self._row[: count // size]
            numbers.copy_(torch.frombuffer(self._buffer, dtype=dtype, count=count // size))
            self._mind(numbers, self._read // size)
        self._read += count
        return count

    def _mind(self, numbers: Tensor, start: int) -> None:
        if torch.isfinite(numbers.sum()):
            return
        wrong = ~torch.isfinite(numbers)  # may be empty: a float64 sum can overflow
        nan = int(numbers.isnan().sum())
        self.nan, self.inf = self.nan + nan, self.inf + int(wrong.sum()) - nan
        if self.first < 0 and wrong.any():
            self.first = start + int(wrong.nonzero()[0])
        numbers[wrong] = 0.0

    def findings(self) -> Iterator[Finding]:
        if self.first < 0:
            return
        index: list[int] = []
        rest = self.first
        for length in reversed(self.spec.shape):
            rest, place = divmod(rest, length)
            index.insert(0, place)
        yield Finding(
            code="not-finite",
            severity=ERROR,
            checkpoint=self.checkpoint.name,
            file=self.spec.file,
            tensor=self.spec.name,
            found=f"{self.nan} NaN and {self.inf} Inf, the first at {index}",
            expected="finite numbers",
            hint="training diverged or the file is damaged; use the checkpoint before it.",
        )


class _Pass:
    """One pass over a pool, tensor by tensor, all checkpoints side by side."""

    def __init__(self, pool: Pool, on_bytes: Callable[[int], object]) -> None:
        everything, shapes = pool.everything, _shapes(pool.checkpoints[0])
        alike = [_shapes(checkpoint) == shapes for checkpoint in everything]
        self.members = tuple(c for c, same in zip(pool.checkpoints, alike, strict=False) if same)
        self.from_base = pool.base is not None and alike[-1]
        self.findings: list[Finding] = []
        self.hashes: dict[str, dict[TensorSpec, str]] = {c.name: {} for c in everything}
        self.gram = torch.zeros(len(self.members), len(self.members), dtype=torch.float64)
        self._alike = torch.tensor(alike)
        self._pool, self._on_bytes = pool, on_bytes
        self._block = min(max(STACK_LIMIT // len(everything), _FEWEST), _BLOCK)
        self._rows = torch.zeros(len(everything), self._block, dtype=torch.float64)
        self._buffers = [bytearray(8 * self._block) for _ in everything]

    def run(self, threads: ThreadPoolExecutor) -> None:
        """Read everything.

        Raises:
            _Stopped: a file changed or broke.
        """
        everything = self._pool.everything
        for name in sorted({name for checkpoint in everything for name in checkpoint.tensors}):
            with ExitStack() as files:
                self._tensor(self._columns(name, files), threads)

    def _columns(self, name: str, files: ExitStack) -> list[_Column]:
        columns = []
        places = zip(self._pool.everything, self._buffers, self._rows, strict=True)
        for checkpoint, buffer, row in places:
            spec = checkpoint.tensors.get(name)
            if spec is not None:
                with _blaming(checkpoint):
                    file = files.enter_context(open_regular(checkpoint.path / spec.file))
                columns.append(_Column(checkpoint, spec, file, buffer, row))
        return columns

    def _tensor(self, columns: Sequence[_Column], threads: ThreadPoolExecutor) -> None:
        first = columns[0]
        numbers = [c for c in columns if c.spec.is_float]
        shared = first.checkpoint is self.members[0] and len(numbers) == len(columns)
        left = True
        while left:
            counts = list(threads.map(lambda column: column.block(self._block), columns))
            self._on_bytes(sum(counts))
            if shared and counts[0]:
                self._add(counts[0] * 8 // DTYPES[first.spec.dtype][1])
            left = any(counts)
        for column in columns:
            self.hashes[column.checkpoint.name][column.spec] = column.sha.hexdigest()
            self.findings += column.findings()
        if not numbers:
            self.findings += self._integer_findings(columns)

    def _add(self, elements: int) -> None:
        """Add one block's products to the Gram matrix of the task vectors; overwrites the rows."""
        rows = self._rows[:, :elements]
        rows = rows if self._alike.all() else rows[self._alike]
        n = len(self.members)
        rows -= rows[n:].clone() if self.from_base else rows.mean(0)
        self.gram += rows[:n] @ rows[:n].T

    def _integer_findings(self, columns: Sequence[_Column]) -> Iterator[Finding]:
        first = columns[0]
        for column in columns[1:]:
            if column.spec.shape == first.spec.shape and column.sha.digest() != first.sha.digest():
                yield Finding(
                    code="integers",
                    severity=ERROR,
                    checkpoint=column.checkpoint.name,
                    file=column.spec.file,
                    tensor=column.spec.name,
                    found="other whole numbers",
                    expected=f"the same as in {first.checkpoint.name!r}",
                    hint="only float tensors can be averaged; make these equal first.",
                )


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in checkpoint.tensors.items()}


def _equal_findings(pool: Pool, fingerprints: Mapping[str, str]) -> Iterator[Finding]:
    """Findings for checkpoints of equal bytes, whatever their files are."""
    for number, checkpoint in enumerate(pool.checkpoints):
        own = fingerprints[checkpoint.name]
        twin = next((c for c in pool.checkpoints[:number] if fingerprints[c.name] == own), None)
        if twin is not None:
            yield Finding(
                code="duplicate",
                severity=WARNING,
                checkpoint=checkpoint.name,
                found=f"the very tensors of {twin.name!r}",
                expected="each checkpoint once",
                hint="the two share one weight; remove one of them.",
            )
        base = pool.base
        if base and base.path != checkpoint.path and fingerprints[base.name] == own:
            yield Finding(
                code="base-member",
                severity=WARNING,
                checkpoint=checkpoint.name,
                found=f"the very tensors of the base {base.name!r}",
                expected="checkpoints trained from the base",
                hint="its task vector is zero, so its weight changes nothing; remove it.",
            )
