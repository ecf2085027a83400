"""The arithmetic of one tensor of a merge: a sum, or a change of the base, given as numbers alone.

`merge.methods` decides the numbers; `merge.kernels` and `merge.plain` compute with them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

KEEP_ALL = 1 << 24  # threshold of the random mask that drops nothing
NO_CUT = 1 << 62


@dataclass(frozen=True, slots=True)
class Trim:
    """Which magnitudes |δ| of one tensor are kept: above `tau`, and equal to it up to `cut`.

    Attributes:
        tau: bits of a float32 as an integer (magnitudes are compared in float32).
        cut: index in the tensor, C order; of equal magnitudes those at the lowest indices are
            kept.
    """

    tau: int = 0
    cut: int = NO_CUT


class Facts(Protocol):
    """What a method may ask about the i-th input of one tensor; the files give the answers."""

    def trim(self, i: int, density: float, scope: str) -> Trim: ...

    def l1_ratio(self, i: int, trim: Trim, key: int, limit: int) -> float:
        """Σ|δ| / Σ|kept δ|; 1 if either is below 1e-7."""
        ...

    def cosine(self) -> float:
        """Cosine between the first and the second input; 0 if one of them is zero."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """A recipe's numbers at one tensor.

    Attributes:
        weights: (n,) none is 0.
        densities: (n,) share of each task vector that is kept.
        keys: (n,) keys of the random masks, 64 bits.
        settings: the method's other settings with defaults filled in.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    keys: tuple[int, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sum:
    """y = Σ wᵢ xᵢ, summed in the order of the inputs; w = (1) returns the input, bit for bit."""

    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """y = b + gain · (elected part of Σ wᵢ · sᵢ · sparse(δᵢ)).

    Attributes:
        weights, scales, trims, keys, limits: one entry for each input.
        sign: one of SIGN: how signs are elected; `none` sums everything.
        divide: one of NORMALIZE: what the sum at each place is divided by if signs are elected.
        gain: λ; divided by the sum of weights or the count if no signs are elected.
    """

    weights: tuple[float, ...]
    scales: tuple[float, ...]
    trims: tuple[Trim, ...]
    keys: tuple[int, ...]
    limits: tuple[int, ...]
    sign: str
    divide: str
    gain: float


def kept_of(density: float, numel: int) -> int:
    """Number of elements of a tensor that trimming keeps: ⌊d · numel⌋, at least one."""
    return max(1, int(density * numel))


def ratio(whole: float, kept: float) -> float:
    """Σ|δ| / Σ|kept δ| in float32; 1 if either is below 1e-7."""
    return 1.0 if whole < 1e-7 or kept < 1e-7 else float(np.float32(whole / kept))


def cosine_of(aa: float, bb: float, ab: float) -> float:
    """Cosine from Σa², Σb² and Σab; 0 if a vector is (almost) zero."""
    if math.sqrt(aa) <= 1e-8 or math.sqrt(bb) <= 1e-8:
        return 0.0
    return min(1.0, max(-1.0, ab / math.sqrt(aa) / math.sqrt(bb)))
