"""From recipes and a pool to merged tensors, one after the other: the only source of merged bytes.

The resident model and the folder both consume `merges`, so what is evaluated is what is exported.
On the CPU the sums run block by block in `merge.kernels`, without importing torch, which would
take longer than many a merge. On other devices, for float64 inputs and for methods of other
packages they run on whole tensors in `merge.plain`.

Letters: n inputs of a tensor, r recipes merged in one pass.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module as lazy  # torch
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recycler.checkpoints.header import DTYPES, TensorSpec, tree_digest
from recycler.errors import Incompatible, InvalidConfig, NotFinite
from recycler.merge import kernels
from recycler.merge.arithmetic import Change, Sum
from recycler.merge.layout import layout_of
from recycler.merge.methods import NORMALIZE, SIGN, Method
from recycler.merge.parts import Part, parts_of
from recycler.merge.sources import Located, Sources, blocks, opened, read_raw
from recycler.nouns.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    Held = NDArray[np.uint8] | Tensor  # a merged tensor: its bytes in C order, or a torch tensor

_AHEAD = 64  # how many tensors ahead thresholds and scales are computed
# numpy's dtype for what the kernels return; bfloat16 as its bits.
_KINDS = {"F32": np.float32, "BF16": np.uint16, "F16": np.float16, "F64": np.float64}
Rank = Callable[[str], tuple[str, str]]  # checkpoint -> its sort key
_Specs = tuple[TensorSpec, ...]  # one for each of the r merges of a tensor


class Digest:
    """Hashes merged tensors; `value` is comparable to a checkpoint's fingerprint."""

    def __init__(self) -> None:
        self._hashes: list[tuple[TensorSpec, str]] = []

    def add(self, spec: TensorSpec, held: "Held") -> None:
        sha = hashlib.sha256(raw_bytes(held)).hexdigest()
        self._hashes.append((spec, sha))

    @property
    def value(self) -> str:
        return tree_digest(self._hashes)


class Loss:
    """What rounding to the output dtype took from a base's update; bfloat16 loses small ones."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)
        self._lock = Lock()

    def add(self, wide: NDArray[np.float32], base: NDArray[np.float32], out: NDArray[Any]) -> None:
        """Count one block: its sum, the base and the rounded result."""
        sums, rounded = np.zeros(4), np.empty_like(wide)
        if out.dtype == np.uint16:
            kernels.widen_bf16(out, rounded)
        else:
            rounded[:] = out
        kernels.add_loss(wide, base, rounded, sums)
        with self._lock:
            self._sums += sums

    def to_json(self) -> dict[str, float] | None:
        """The loss as data; None if nothing differs from the base.

        `lost` is the share of the changed numbers that equal the base again, `relative_error` the
        norm of the rounding error over the norm of the update.
        """
        changed, swallowed, error, update = (float(x) for x in self._sums)
        if not changed or not update:
            return None
        return {"lost": swallowed / changed, "relative_error": math.sqrt(error / update)}


def raw_bytes(held: "Held") -> memoryview:
    """The bytes of a merged tensor in C order, without a copy if it is contiguous on the CPU."""
    if isinstance(held, np.ndarray):
        return held.data
    found: memoryview = lazy("recycler.merge.plain").bytes_of(held).data
    return found


def merged(
    recipe: Recipe, sources: Sources, device: str = "cpu", threads: int = 1
) -> "Iterator[tuple[TensorSpec, Tensor]]":
    """Each merged tensor as a torch tensor, sorted by name; see `merges`."""
    for ((spec, held),) in merges([recipe], sources, device, threads):
        yield spec, lazy("recycler.merge.plain").as_tensor(held, spec, device)


def merges(
    recipes: Sequence[Recipe],
    sources: Sources,
    device: str = "cpu",
    threads: int = 1,
    loss: Loss | None = None,
) -> "Iterator[list[tuple[TensorSpec, Held]]]":
    """Yield each tensor, sorted by name, with its r merges in the recipes' dtype.

    One pass over the pool; the bytes are the same as for each recipe alone. Tensors that are not
    floats (position ids and the like) must be equal in all ingredients.

    Args:
        recipes: r recipes whose merges have the same tensor names and shapes; their checkpoints
            are looked up in the pool by name.
        sources: the opened pool.
        device: torch device to merge on.
        threads: number of threads that read and sum, on the CPU.
        loss: collects what rounding takes from updates of a base, if sums run block by block.

    Raises:
        Incompatible: a checkpoint lacks a tensor, or integer tensors differ.
        NotFinite: an input holds NaN or Inf, or a sum exceeds the range of the output's dtype.
        BrokenCheckpoint: a file changed meanwhile.
    """
    layouts = [layout_of(recipe, sources) for recipe in recipes]
    if len({tuple((s.name, s.shape) for s in each.specs) for each in layouts}) > 1:
        raise InvalidConfig(
            "the recipes give tensors of different names or shapes.", hint="merge them one by one."
        )
    makers = [
        parts_of(recipe, sources, layout) for recipe, layout in zip(recipes, layouts, strict=True)
    ]
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None

        def made(together: _Specs) -> list[Part]:
            return [make(spec) for make, spec in zip(makers, together, strict=True)]

        waiting: Callable[[], list[tuple[TensorSpec, Held]]] | None = None
        for parts in _in_order(made, list(zip(*(x.specs for x in layouts), strict=True)), pool):
            started = _start(parts, sources.rank, device, pool, threads, loss)
            if pool is None:
                yield started()
                continue
            if waiting:
                yield waiting()
            waiting = started
        if waiting:
            yield waiting()
    sources.require_unchanged()


def _in_order(
    function: Callable[[_Specs], list[Part]],
    arguments: Sequence[_Specs],
    pool: ThreadPoolExecutor | None,
) -> Iterator[list[Part]]:
    """Map in order, some calls ahead in the pool's threads if there is a pool."""
    if pool is None:
        yield from map(function, arguments)
        return
    futures: deque[Future[list[Part]]] = deque()
    try:
        for argument in arguments:
            futures.append(pool.submit(function, argument))
            if len(futures) > _AHEAD:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def _start(
    parts: Sequence[Part],
    rank: Rank,
    device: str,
    pool: ThreadPoolExecutor | None,
    threads: int,
    loss: Loss | None,
) -> "Callable[[], list[tuple[TensorSpec, Held]]]":
    """Start a tensor's merges; the returned function waits for them and returns them."""
    blockwise = [part for part in parts if _is_blockwise(part, device)]
    outs = {id(part): np.empty(part.spec.nbytes, np.uint8) for part in blockwise}
    futures: list[Future[None]] = []
    if blockwise and blockwise[0].numel:
        views = [outs[id(part)].view(_KINDS[part.spec.dtype]) for part in blockwise]
        work = _Blocks(blockwise, views, rank, loss)
        ranges = blocks(blockwise[0].numel, len(work.inputs))
        if pool is None or len(ranges) == 1:
            work.run(ranges)
        else:
            futures = [
                pool.submit(work.run, ranges[first::threads])
                for first in range(min(threads, len(ranges)))
            ]

    def finish() -> "list[tuple[TensorSpec, Held]]":
        for future in futures:
            future.result()
        return [(p.spec, outs[id(p)] if id(p) in outs else _whole(p, device)) for p in parts]

    return finish


def _is_blockwise(part: Part, device: str) -> bool:
    summed = part.step is not None and part.spec.dtype in _KINDS and part.is_summed
    return summed and device.partition(":")[0] == "cpu"


def _whole(part: Part, device: str) -> "Held":
    """A tensor that is computed as a whole: copied bytes, or torch's sums."""
    if not part.is_summed:
        return _copied(part)
    plain = lazy("recycler.merge.plain")
    inputs = [plain.read(located, part.spec.shape, device) for located in part.inputs]
    base = plain.read(part.base, part.spec.shape, device) if part.base else None
    step = part.step
    if step is None and isinstance(part.method, Method):  # float64 inputs
        if part.terms.settings.get("scope") == "model":
            raise InvalidConfig(
                f"tensor {part.spec.name!r} is float64, and `scope: model` compares in float32.",
                hint="save the checkpoints as float32, or trim with `scope: tensor`.",
            )
        step = part.method.arithmetic(part.terms, plain.TensorFacts(inputs, base))
    if step is not None:
        made = plain.run(step, inputs, base)
    else:
        made = part.method(inputs, part.terms.weights, base, part.terms.settings)
    rounded: Tensor = plain.rounded(made, part.spec.dtype)
    if made is inputs[0] and part.inputs[0][1].dtype == part.spec.dtype:
        return rounded  # one checkpoint, unchanged
    swallowing = [] if isinstance(step, Sum) else [*inputs, *([] if base is None else [base])]
    if not all(plain.is_finite(tensor) for tensor in (rounded, *swallowing)):
        raise _not_finite(part)
    return rounded


def _copied(part: Part) -> NDArray[np.uint8]:
    """The bytes that all inputs share; for a buffer, those of the first input that has it."""
    alike = (*part.inputs, *([part.base] if part.base and not part.is_copy else []))
    found = [read_raw(located, part.spec.shape) for located in alike]
    differ = any(not np.array_equal(found[0], other) for other in found[1:])
    if differ and not part.spec.is_float:
        raise Incompatible(
            f"tensor {part.spec.name!r} holds whole numbers that differ between checkpoints.",
            hint="only float tensors can be merged.",
        )
    return found[0]


def _not_finite(part: Part) -> NotFinite:
    """The error for NaN or Inf in a merged tensor: it names the input, or the range of the dtype."""
    name, kind = part.spec.name, DTYPES[part.spec.dtype][0]
    for checkpoint, spec in (*part.inputs, *([part.base] if part.base else [])):
        with opened([(checkpoint, spec)]) as files:
            for start, stop in blocks(part.numel, 1, 4):
                block = np.empty(stop - start, np.float32)
                files.wide(0, start, block, np.empty(8 * len(block), np.uint8))
                if not kernels.is_finite(block):
                    return NotFinite(
                        f"{checkpoint.name!r}: tensor {spec.name!r} in {checkpoint.path / spec.file} "
                        "holds NaN or Inf.",
                        hint="training diverged or the file is damaged; use the checkpoint before "
                        "it, or give it weight 0.",
                    )
    return NotFinite(
        f"tensor {name!r} of the merge holds numbers beyond the range of {kind}.",
        hint="merge in `dtype: bfloat16` or `float32`, or with weights that sum to 1.",
    )


class _Blocks:
    """The block-by-block work of r recipes at one tensor; shared inputs are read once."""

    def __init__(
        self,
        parts: Sequence[Part],
        outs: Sequence[NDArray[Any]],
        rank: Rank,
        loss: Loss | None,
    ) -> None:
        self._parts, self._outs, self._loss = parts, outs, loss
        self.inputs: list[Located] = []
        inputs = sorted((x for p in parts for x in p.inputs), key=lambda x: rank(x[0].name))
        for located in (*inputs, *(p.base for p in parts if p.base)):
            if self._place(located) is None:
                self.inputs.append(located)
        self._rows: list[list[Any]] = [[self._place(x) for x in part.inputs] for part in parts]
        only_sums = all(isinstance(part.step, Sum) for part in parts)
        self._raw = only_sums and {spec.dtype for _, spec in self.inputs} == {"BF16"}
        self._weights = [
            self._row_weights(part, rows) for part, rows in zip(parts, self._rows, strict=True)
        ]

    def run(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Merge some ranges of the tensor's elements; several threads may call it at once."""
        largest = max(stop - start for start, stop in ranges)
        scratch = np.empty(8 * largest, np.uint8)
        rows: NDArray[Any] = np.empty((0, 0))
        made = np.empty(0, np.float32)
        with opened(self.inputs) as files:
            for start, stop in ranges:
                if rows.shape[1] != stop - start:
                    kind = np.uint16 if self._raw else np.float32
                    rows = np.empty((len(self.inputs), stop - start), kind)
                    made = np.empty(stop - start, np.float32)
                if self._raw:
                    files.read_all(start, rows)
                else:
                    for i, row in enumerate(rows):
                        files.wide(i, start, row, scratch)
                for number, (part, out) in enumerate(zip(self._parts, self._outs, strict=True)):
                    self._merge(number, rows, start, made)
                    _round(made, out[start:stop])
                    if not (kernels.is_finite(out[start:stop]) and self._is_sound(number, rows)):
                        raise _not_finite(part)
                    if self._loss and isinstance(part.step, Change) and part.base:
                        self._loss.add(made, rows[self._place(part.base)], out[start:stop])

    def _row_weights(self, part: Part, chosen: list[Any]) -> NDArray[np.float32]:
        """A weight for each row of a `Sum`, 0 if unused; of used rows only if rows are reordered."""
        if not isinstance(part.step, Sum):
            return np.empty(0, np.float32)
        if chosen != sorted(chosen):
            return np.array(part.step.weights, np.float32)
        weights = np.zeros(len(self.inputs), np.float32)
        weights[chosen] = part.step.weights
        return weights

    def _merge(self, number: int, rows: NDArray[Any], start: int, out: Any) -> None:
        part, chosen = self._parts[number], self._rows[number]
        if isinstance(part.step, Sum):
            picked = rows if chosen == sorted(chosen) else rows[chosen]
            kernels.linear(picked, self._weights[number], out)
            return
        assert isinstance(part.step, Change), "a blockwise part has a step"
        assert part.base is not None, "a change needs a base"
        leading = chosen == list(range(len(chosen)))
        picked = rows[: len(chosen)] if leading else rows[chosen]
        _combine(part.step, picked, rows[self._place(part.base)], start, out)

    def _is_sound(self, number: int, rows: NDArray[Any]) -> bool:
        """Whether no input of a `Change` is NaN, which elected signs or masks would hide."""
        part = self._parts[number]
        if not isinstance(part.step, Change):
            return True
        used = [*self._rows[number], *([self._place(part.base)] if part.base else [])]
        return all(kernels.is_finite(rows[row]) for row in used)

    def _place(self, located: Located) -> int | None:
        """The row of an input; None if it has none yet."""
        for i, (checkpoint, spec) in enumerate(self.inputs):
            if checkpoint is located[0] and spec is located[1]:
                return i
        return None


def _combine(step: Change, rows: Any, base: Any, first: int, out: Any) -> None:
    """Compute one block of a `Change` with the kernel."""
    kernels.combine(
        rows,
        base,
        first,
        np.array(step.weights, np.float32),
        np.array([1 / weight for weight in step.weights], np.float32),
        np.array(step.scales, np.float32),
        np.array([trim.tau for trim in step.trims], np.uint32),
        np.array([trim.cut for trim in step.trims], np.int64),
        np.array(step.keys, np.uint64),
        np.array(step.limits, np.uint64),
        SIGN.index(step.sign),
        NORMALIZE.index(step.divide),
        np.float32(step.gain),
        out,
    )


def _round(wide: NDArray[np.float32], out: NDArray[Any]) -> None:
    """The one rounding: (c,) float32 to the output's dtype."""
    if out.dtype == np.uint16:
        kernels.round_bf16(wide, out)
    else:
        with np.errstate(over="ignore"):  # float16 overflows to inf
            out[:] = wide
