"""From recipes and a pool to merged tensors, one after the other: the only way to the bytes.

Both targets (live and disk) consume `merges`: what is evaluated is what is exported. On the CPU the
sums run block by block through `merge.kernels`, without torch, whose import would take longer than
many a merge; elsewhere, for float64 inputs and for methods of other packages, on whole tensors. May
import: errors, checkpoint, pool, recipe, protocols, registry, schedule, merge.methods,
merge.sources, merge.kernels, numpy; merge.plain through `lazy`.

Letters: n inputs of a tensor, r recipes merged in one pass.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module as lazy  # torch
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recycler.checkpoints.folder import DTYPES, Checkpoint, TensorSpec, tree_digest
from recycler.checkpoints.pool import Pool
from recycler.errors import Incompatible, InvalidConfig
from recycler.merge import kernels
from recycler.merge.methods import (
    METHODS,
    NORMALIZE,
    SIGN,
    Change,
    Method,
    Sum,
    Terms,
    mask_key,
)
from recycler.merge.sources import FileFacts, Located, Sources, blocks, opened, read_raw
from recycler.nouns.layers import Place, places, value_at
from recycler.nouns.recipe import Recipe
from recycler.protocols import MergeMethod
from recycler.registry import resolve

if TYPE_CHECKING:
    from torch import Tensor

    Held = NDArray[np.uint8] | Tensor  # a merged tensor: its bytes in C order, or a torch tensor

SAFETENSORS = {torch_name: name for name, (torch_name, _) in DTYPES.items()}
_AHEAD = 64  # tensors whose thresholds and scales are looked for ahead of their sums
# How numpy holds what the kernels give; bfloat16 as its bits.
_KINDS = {"F32": np.float32, "BF16": np.uint16, "F16": np.float16, "F64": np.float64}
Rank = Callable[[str], tuple[str, str]]  # checkpoint -> what to sort it by
_Specs = tuple[TensorSpec, ...]  # of the r merges of one tensor


class Digest:
    """Collects the hash of each merged tensor; `value` equals a checkpoint's fingerprint."""

    def __init__(self) -> None:
        self._hashes: list[tuple[TensorSpec, str]] = []

    def add(self, spec: TensorSpec, held: "Held") -> None:
        sha = hashlib.sha256(raw_bytes(held)).hexdigest()
        self._hashes.append((spec, sha))

    @property
    def value(self) -> str:
        return tree_digest(self._hashes)


class Loss:
    """What rounding to the output dtype took from the update of a base: bf16 swallows small ones."""

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
        """What is lost; None where nothing was changed.

        `lost` is the share of the changed numbers that are the base's again, `relative_error` the
        norm of what rounding changed over the norm of the update.
        """
        changed, swallowed, error, update = (float(x) for x in self._sums)
        if not changed or not update:
            return None
        return {"lost": swallowed / changed, "relative_error": math.sqrt(error / update)}


def raw_bytes(held: "Held") -> memoryview:
    """The bytes of a merged tensor in C order, without a copy where they lie so on the CPU."""
    if isinstance(held, np.ndarray):
        return held.data
    found: memoryview = lazy("recycler.merge.plain").bytes_of(held).data
    return found


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
    code = SAFETENSORS[recipe.dtype] if _is_float(found[0]) else found[0].dtype
    nbytes = int(np.prod(shape)) * DTYPES[code][1] // 8
    return TensorSpec(name, code, shape, "", 0, nbytes)


@dataclass(frozen=True, slots=True)
class _Part:
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
        return int(np.prod(self.spec.shape))

    @property
    def is_copy(self) -> bool:
        """Whether the bytes of one checkpoint are the result."""
        return (
            len(self.inputs) == 1
            and isinstance(self.step, Sum)
            and self.step.weights == (1.0,)
            and self.inputs[0][1].dtype == self.spec.dtype
        )


def merged(
    recipe: Recipe, sources: Sources, device: str = "cpu", threads: int = 1
) -> "Iterator[tuple[TensorSpec, Tensor]]":
    """Each merged tensor as torch's, in order of their names; see `merges`."""
    for ((spec, held),) in merges([recipe], sources, device, threads):
        yield spec, lazy("recycler.merge.plain").as_tensor(held, spec, device)


def merges(
    recipes: Sequence[Recipe],
    sources: Sources,
    device: str = "cpu",
    threads: int = 1,
    loss: Loss | None = None,
) -> "Iterator[list[tuple[TensorSpec, Held]]]":
    """For each tensor, in order of their names, its r merges in the recipes' dtype.

    One pass over the pool; the bytes are those of each recipe alone. Tensors that are not floats
    (position ids and the like) must be equal in all ingredients.

    Args:
        recipes: r recipes that give tensors of the same names and shapes; their checkpoints are
            looked up in the pool by name.
        sources: the opened pool.
        device: torch device to merge on.
        threads: that read and sum at the same time, on the CPU.
        loss: told what rounding takes from updates of a base, where sums run block by block.

    Raises:
        Incompatible: a checkpoint lacks a tensor, or integer tensors differ.
        BrokenCheckpoint: a file changed meanwhile.
    """
    specs = [output_specs(recipe, sources) for recipe in recipes]
    if len({tuple((s.name, s.shape) for s in each) for each in specs}) > 1:
        raise InvalidConfig(
            "the recipes give tensors of different names or shapes.", hint="merge them one by one."
        )
    where = places([spec.name for spec in specs[0]])
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None

        def parts_of(together: _Specs) -> list[_Part]:
            return [
                _part(recipe, sources, spec, where[spec.name])
                for recipe, spec in zip(recipes, together, strict=True)
            ]

        waiting: Callable[[], list[tuple[TensorSpec, Held]]] | None = None
        for parts in _in_order(parts_of, list(zip(*specs, strict=True)), pool):
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
    function: Callable[[_Specs], list[_Part]],
    arguments: Sequence[_Specs],
    pool: ThreadPoolExecutor | None,
) -> Iterator[list[_Part]]:
    """Map, some calls ahead in the pool's threads where there is one."""
    if pool is None:
        yield from map(function, arguments)
        return
    futures: deque[Future[list[_Part]]] = deque()
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


# --- what to compute at one tensor ---


def _part(recipe: Recipe, sources: Sources, spec: TensorSpec, place: Place) -> _Part:
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
    if not weighed or not _is_float(spec):
        step = Sum((1.0,))
    elif isinstance(method, Method) and not _has_doubles(inputs, base):
        numel = int(np.prod(spec.shape))
        step = method.arithmetic(terms, FileFacts(sources, inputs, base, numel))
    return _Part(spec, method, inputs, base, terms, step)


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


# --- doing it ---


def _start(
    parts: Sequence[_Part],
    rank: Rank,
    device: str,
    pool: ThreadPoolExecutor | None,
    threads: int,
    loss: Loss | None,
) -> "Callable[[], list[tuple[TensorSpec, Held]]]":
    """Begin a tensor's merges; what is returned waits for them and gives them."""
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


def _is_blockwise(part: _Part, device: str) -> bool:
    summed = part.step is not None and part.spec.dtype in _KINDS and not part.is_copy
    return summed and device.partition(":")[0] == "cpu"


def _whole(part: _Part, device: str) -> "Held":
    """A tensor that is held as a whole: bytes that are taken over, or torch's sums."""
    if part.is_copy or not _is_float(part.spec):
        alike = (*part.inputs, *([part.base] if part.base and not part.is_copy else []))
        found = [read_raw(located, part.spec.shape) for located in alike]
        if any(not np.array_equal(found[0], other) for other in found[1:]):
            raise Incompatible(
                f"tensor {part.spec.name!r} holds whole numbers that differ between checkpoints.",
                hint="only tensors of floats can be merged.",
            )
        return found[0]
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
    return rounded


class _Blocks:
    """The block-by-block work of r recipes at one tensor; inputs that they share are read once."""

    def __init__(
        self,
        parts: Sequence[_Part],
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
        """Merge some ranges of the tensor's elements; may run in several threads at once."""
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
                    if self._loss and isinstance(part.step, Change) and part.base:
                        self._loss.add(made, rows[self._place(part.base)], out[start:stop])

    def _row_weights(self, part: _Part, chosen: list[Any]) -> NDArray[np.float32]:
        """Of a `Sum`, a weight a row; rows that are not chosen have 0, where the order is theirs."""
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

    def _place(self, located: Located) -> int | None:
        """The row of an input, None where it has none yet."""
        for i, (checkpoint, spec) in enumerate(self.inputs):
            if checkpoint is located[0] and spec is located[1]:
                return i
        return None


def _combine(step: Change, rows: Any, base: Any, first: int, out: Any) -> None:
    """One block of a `Change` by the kernel."""
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
        with np.errstate(over="ignore"):  # float16 has no number as large: inf
            out[:] = wide


def _has_doubles(inputs: Sequence[Located], base: Located | None) -> bool:
    return any(x and x[1].dtype == "F64" for x in (*inputs, base))


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("F", "BF"))
