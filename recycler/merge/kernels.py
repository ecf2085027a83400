"""The arithmetic of the merge methods on blocks of numbers, as fused numba loops for the CPU.

`merge.plain` defines each method in plain torch; these loops compute the same bytes (a test
compares each pair). Every product and sum is rounded separately, in float32, in the order of the
rows, so blocks, threads and devices change no bit. The loops release the GIL.

Letters: n rows (checkpoints), c numbers in a block.
Reference: Yadav et al. 2023, arXiv 2306.01708 (TIES); Yu et al. 2023, arXiv 2311.03099 (DARE);
Steele et al. 2014 (SplitMix64).
"""

from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_PIECE = 2048  # numbers processed at a time: a row of them stays in the first-level cache
KEEP_ALL = np.uint64(1 << 24)  # threshold of the random mask that drops nothing
SIGN_NONE, SIGN_WEIGHTED, SIGN_PLAIN, SIGN_COUNT = 0, 1, 2, 3
DIVIDE_NONE, DIVIDE_WEIGHTS, DIVIDE_COUNT = 0, 1, 2
_jit: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_inline: Any = numba.njit(inline="always")


def _float_of_bits(context: Any, x: Any) -> Any:
    def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), build


def _bits_of_float(context: Any, x: Any) -> Any:
    def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), build


_as_float: Any = intrinsic(_float_of_bits)  # uint32 -> float32 of the same bits
_as_bits: Any = intrinsic(_bits_of_float)  # float32 -> uint32 of the same bits


def _pointer_of_address(context: Any, address: Any) -> Any:
    def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uintp), build


_as_pointer: Any = intrinsic(_pointer_of_address)
_pread: Any = types.ExternalFunction(
    "pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64)
)


@_jit
def read_rows(
    handles: NDArray[np.int32], offsets: NDArray[np.int64], rows: NDArray[np.uint16]
) -> int:
    """Fill (n, c) rows, each from its file, without holding the GIL.

    Args:
        handles: (n,) open files.
        offsets: (n,) where each row begins [B].
        rows: filled in place.

    Returns:
        Number of full rows; reading stops at the first short one.
    """
    size = rows.shape[1] * rows.itemsize
    for i in range(rows.shape[0]):
        got = _pread(handles[i], _as_pointer(rows[i].ctypes.data), np.uintp(size), offsets[i])
        if got != size:
            return i
    return len(rows)


@_jit
def widen_bf16(halves: NDArray[np.uint16], out: Floats) -> None:
    """(c,) bfloat16 bits to float32."""
    for j in range(halves.shape[0]):
        out[j] = _as_float(np.uint32(halves[j]) << np.uint32(16))


@_jit
def round_bf16(wide: Floats, out: NDArray[np.uint16]) -> None:
    """(c,) float32 to the nearest bfloat16, ties to even; every NaN becomes 0x7fc0."""
    for j in range(wide.shape[0]):
        bits = _as_bits(wide[j])
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        nearest = np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[j] = np.uint16(np.uint32(0x7FC0) if nan else nearest)


@_jit
def _has_bits(numbers: NDArray[Any], mask: Any) -> bool:
    found = 0
    for j in range(numbers.shape[0]):
        found += (numbers[j] & mask) == mask
    return found > 0


_EXPONENTS: dict[
    Any, Any
] = {  # dtype -> bits that are all set in NaN and Inf; uint16 are bfloat16's bits
    np.dtype(np.float64): np.uint64(0x7FF << 52),
    np.dtype(np.float32): np.uint32(0x7F800000),
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(np.uint16): np.uint16(0x7F80),
}


def is_finite(numbers: NDArray[Any]) -> bool:
    """Whether (c,) floats, or uint16 holding bfloat16 bits, are all finite."""
    mask = _EXPONENTS[numbers.dtype]
    return not _has_bits(numbers.view(mask.dtype), mask)


@_jit
def _linear_bf16(rows: NDArray[np.uint16], weights: Floats, out: Floats) -> None:
    n, c = rows.shape
    for start in range(0, c, _PIECE):
        size, first = min(c, start + _PIECE) - start, True
        part = out[start : start + size]
        for i in range(n):
            row, w = rows[i][start : start + size], weights[i]
            if w == 0:
                continue
            if first:  # not added to 0.0, which would turn -0.0 into 0.0
                for j in range(size):
                    part[j] = w * _as_float(np.uint32(row[j]) << np.uint32(16))
                first = False
            else:
                for j in range(size):
                    part[j] = part[j] + w * _as_float(np.uint32(row[j]) << np.uint32(16))
        if first:
            part[:] = 0


@_jit
def _linear_f32(rows: Floats, weights: Floats, out: Floats) -> None:
    n, c = rows.shape
    for start in range(0, c, _PIECE):
        size, first = min(c, start + _PIECE) - start, True
        part = out[start : start + size]
        for i in range(n):
            row, w = rows[i][start : start + size], weights[i]
            if w == 0:
                continue
            if first:
                for j in range(size):
                    part[j] = w * row[j]
                first = False
            else:
                for j in range(size):
                    part[j] = part[j] + w * row[j]
        if first:
            part[:] = 0


def linear(rows: NDArray[Any], weights: Floats, out: Floats) -> None:
    """Weighted sum of rows, in their order.

    Args:
        rows: (n, c) float32, or uint16 that are bfloat16 bits.
        weights: (n,) unitless; a zero skips its row, even if the row holds inf.
        out: (c,) filled in place, with 0 if all weights are 0 (as 1e-60 is in float32).
    """
    (_linear_bf16 if rows.dtype == np.uint16 else _linear_f32)(rows, weights, out)


@_inline
def _random24(key: Any, index: Any) -> Any:
    """The top 24 bits of number `index` of the SplitMix64 sequence with this key."""
    z = np.uint64(key + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    z = np.uint64((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    z = np.uint64((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64((z ^ (z >> np.uint64(31))) >> np.uint64(40))


@_jit
def _sparse_delta(
    row: Floats,
    base: Floats,
    first: int,
    tau: np.uint32,
    cut: int,
    key: np.uint64,
    limit: np.uint64,
    out: Floats,
) -> None:
    """(c,) row - base where it is kept, else 0.

    Kept are magnitudes above `tau` (float32 bits) and those equal to it up to index `cut`; of
    these, those whose random 24 bits are below `limit`. `first` is the index of the block in its
    tensor.
    """
    for j in range(row.shape[0]):
        delta = row[j] - base[j]
        bits = _as_bits(delta) & np.uint32(0x7FFFFFFF)
        kept = (bits > tau) | ((bits == tau) & (first + j <= cut))
        out[j] = delta if kept else np.float32(0.0)
    if limit < KEEP_ALL:
        for j in range(row.shape[0]):
            if _random24(key, np.uint64(first + j)) >= limit:
                out[j] = np.float32(0.0)


@_jit
def combine(
    rows: Floats,
    base: Floats,
    first: int,
    weights: Floats,
    inverses: Floats,
    scales: Floats,
    taus: NDArray[np.uint32],
    cuts: NDArray[np.int64],
    keys: NDArray[np.uint64],
    limits: NDArray[np.uint64],
    sign: int,
    divide: int,
    gain: np.float32,
    out: Floats,
) -> None:
    """Task vectors: sparsify, scale, weight, elect signs, sum, divide, add to the base.

    Args:
        rows: (n, c) checkpoints.
        base: (c,) their ancestor.
        first: index of the block in its tensor.
        weights: (n,) unitless, none is 0.
        inverses: (n,) 1 / weights.
        scales: (n,) factor of each sparse task vector.
        taus: (n,) magnitude threshold, see `arithmetic.Trim`.
        cuts: (n,) index up to which magnitudes equal to tau are kept.
        keys: (n,) keys of the random masks.
        limits: (n,) thresholds of the random masks; KEEP_ALL drops nothing.
        sign: how signs are elected (SIGN_*).
        divide: what the sum at each place is divided by if signs are elected (DIVIDE_*).
        gain: factor of the whole change.
        out: (c,) filled in place.
    """
    n, c = rows.shape
    terms = np.empty((n, _PIECE), np.float32)
    vote = np.empty(_PIECE, np.float32)
    share = np.empty(_PIECE, np.float32)
    for start in range(0, c, _PIECE):
        size = min(c, start + _PIECE) - start
        part, anchor = out[start : start + size], base[start : start + size]
        for i in range(n):
            term = terms[i, :size]
            _sparse_delta(
                rows[i, start : start + size], anchor, first + start,
                taus[i], cuts[i], keys[i], limits[i], term,
            )  # fmt: skip
            scale, w = scales[i], weights[i]
            for j in range(size):
                term[j] = w * (scale * term[j])
        if sign == SIGN_NONE:
            for j in range(size):
                part[j] = terms[0, j]
            for i in range(1, n):
                for j in range(size):
                    part[j] = part[j] + terms[i, j]
            for j in range(size):
                part[j] = anchor[j] + gain * part[j]
            continue
        _ballot(terms, inverses, sign, size, vote)
        for j in range(size):
            part[j] = np.float32(0.0)
            share[j] = np.float32(0.0)
        for i in range(n):
            w = weights[i] if divide == DIVIDE_WEIGHTS else np.float32(1.0)
            turned = sign == SIGN_PLAIN and weights[i] < 0
            for j in range(size):
                term = terms[i, j]
                agrees = (term > 0) if (vote[j] >= 0) != turned else (term < 0)
                part[j] = part[j] + (term if agrees else np.float32(0.0))
                share[j] = share[j] + (w if agrees else np.float32(0.0))
        for j in range(size):
            by = share[j] if (divide != DIVIDE_NONE and share[j] != 0) else np.float32(1.0)
            part[j] = anchor[j] + gain * (part[j] / by)


@_jit
def _ballot(terms: Floats, inverses: Floats, sign: int, size: int, vote: Floats) -> None:
    """(size,) the sum whose sign is elected: of terms, of task vectors, or of their signs."""
    for j in range(size):
        vote[j] = np.float32(0.0)
    for i in range(terms.shape[0]):
        inverse = inverses[i]
        for j in range(size):
            term = terms[i, j]
            if sign == SIGN_PLAIN:
                term = term * inverse
            elif sign == SIGN_COUNT:
                term = np.float32(1.0 if term > 0 else (-1.0 if term < 0 else 0.0))
            vote[j] = vote[j] + term


@_jit
def count_high(row: Floats, base: Floats, counts: NDArray[np.int64]) -> None:
    """Count the magnitudes |row - base| by the upper half of their bits, into (32768,) counts."""
    for j in range(row.shape[0]):
        bits = _as_bits(row[j] - base[j]) & np.uint32(0x7FFFFFFF)
        counts[bits >> np.uint32(16)] += 1


@_jit
def count_low(row: Floats, base: Floats, high: int, counts: NDArray[np.int64]) -> None:
    """Count the magnitudes with that upper half by their lower half, into (65536,) counts."""
    for j in range(row.shape[0]):
        bits = _as_bits(row[j] - base[j]) & np.uint32(0x7FFFFFFF)
        if np.int64(bits >> np.uint32(16)) == high:
            counts[bits & np.uint32(0xFFFF)] += 1


@_jit
def find_tie(row: Floats, base: Floats, tau: np.uint32, wanted: int) -> tuple[int, int]:
    """Index in the block of the `wanted`-th magnitude equal to tau, or -1; and their number."""
    seen = 0
    for j in range(row.shape[0]):
        if (_as_bits(row[j] - base[j]) & np.uint32(0x7FFFFFFF)) == tau:
            seen += 1
            if seen == wanted:
                return j, seen
    return -1, seen


@_jit
def sums_of(
    row: Floats,
    base: Floats,
    first: int,
    tau: np.uint32,
    cut: int,
    key: np.uint64,
    limit: np.uint64,
    sums: NDArray[np.float64],
) -> None:
    """Add to (2,) sums: Σ|task vector| and Σ|kept part of it|."""
    kept = np.empty(_PIECE, np.float32)
    for start in range(0, row.shape[0], _PIECE):
        size = min(row.shape[0], start + _PIECE) - start
        x, b = row[start : start + size], base[start : start + size]
        _sparse_delta(x, b, first + start, tau, cut, key, limit, kept)
        whole = part = 0.0
        for j in range(size):
            whole += abs(np.float64(x[j] - b[j]))
            part += abs(np.float64(kept[j]))
        sums[0] += whole
        sums[1] += part


@_jit
def products(a: Floats, b: Floats, sums: NDArray[np.float64]) -> None:
    """Add to (3,) sums: Σ a·a, Σ b·b, Σ a·b."""
    for j in range(a.shape[0]):
        x, y = np.float64(a[j]), np.float64(b[j])
        sums[0] += x * x
        sums[1] += y * y
        sums[2] += x * y


@_jit
def add_loss(wide: Floats, base: Floats, rounded: Floats, sums: NDArray[np.float64]) -> None:
    """Add to (4,) sums what rounding took from an update.

    They are: how many numbers differ from the base before rounding; how many of these equal the
    base after it; Σ (rounded - wide)²; Σ (wide - base)².
    """
    changed = swallowed = 0
    error = update = 0.0
    for j in range(wide.shape[0]):
        step = np.float64(wide[j]) - np.float64(base[j])
        miss = np.float64(rounded[j]) - np.float64(wide[j])
        changed += step != 0
        swallowed += (step != 0) & (rounded[j] == base[j])
        error += miss * miss
        update += step * step
    sums[0] += changed
    sums[1] += swallowed
    sums[2] += error
    sums[3] += update
