"""The arithmetic of one tensor of a merge: a sum, or a change of the base, as numbers alone.

Methods decide it (`merge.methods`); kernels and plain torch do it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

KEEP_ALL = 1 << 24  # random threshold that drops nothing
NO_CUT = 1 << 62


@dataclass(frozen=True, slots=True)
class Trim:
    """Which magnitudes |δ| of one tensor are kept: above `tau`, and equal to it up to place `cut`.

    Attributes:
        tau: bits of a float32 as a whole number (magnitudes are compared in float32).
        cut: place in the tensor, C order; ties go to the lowest places.
    """

    tau: int = 0
    cut: int = NO_CUT


class Facts(Protocol):
    """What a method may ask about the i-th input of one tensor; answers come from the files."""

    def trim(self, i: int, density: float, scope: str) -> Trim: ...

    def l1_ratio(self, i: int, trim: Trim, key: int, limit: int) -> float:
        """Σ|δ| / Σ|kept δ|, 1 where either is below 1e-7."""
        ...

    def cosine(self) -> float:
        """Cosine between the first and the second input, 0 where one is zero."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """A recipe's numbers at one tensor.

    Attributes:
        weights: (n,) none 0.
        densities: (n,) share of each task vector that is kept.
        keys: (n,) of the random masks, 64 bits.
        settings: the method's other settings with defaults filled in.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    keys: tuple[int, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sum:
    """y = Σ wᵢ xᵢ, summed in the order of the inputs; w = (1) is the input itself, bit for bit."""

    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """y = b + gain · (what the signs leave of Σ wᵢ · sᵢ · sparse(δᵢ)).

    Attributes:
        weights, scales, trims, keys, limits: one entry an input.
        sign: one of SIGN; `none` sums everything.
        divide: one of NORMALIZE: what each place's sum is divided by, where signs are elected.
        gain: λ, over the sum of weights or the count where no signs are elected.
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
    """How many of a tensor's numbers trimming keeps: ⌊d · numel⌋, at least one."""
    return max(1, int(density * numel))


def ratio(whole: float, kept: float) -> float:
    """Σ|δ| / Σ|kept δ| in float32; 1 where either is below 1e-7."""
    return 1.0 if whole < 1e-7 or kept < 1e-7 else float(np.float32(whole / kept))


def cosine_of(aa: float, bb: float, ab: float) -> float:
    """Cosine from Σa², Σb² and Σab; 0 where a vector is (almost) zero."""
    if math.sqrt(aa) <= 1e-8 or math.sqrt(bb) <= 1e-8:
        return 0.0
    return min(1.0, max(-1.0, ab / math.sqrt(aa) / math.sqrt(bb)))
