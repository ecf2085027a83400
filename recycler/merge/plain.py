"""The merge methods in plain torch on whole tensors: their definition, on any device.

`merge.kernels` computes the same bytes on the CPU, block by block. This module runs only what the
kernels can't (other devices, float64 and float8, methods of other packages), so that a merge on
the CPU does not have to import torch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycler.checkpoints.header import DTYPES, TensorSpec
from recycler.merge.arithmetic import KEEP_ALL, Change, Sum, Trim, cosine_of, kept_of, ratio
from recycler.merge.raw import tensor_of
from recycler.merge.sources import Located, read_raw


def as_tensor(held: NDArray[np.uint8] | Tensor, spec: TensorSpec, device: str) -> Tensor:
    """An item of `merges` as a tensor on a device."""
    made = held if isinstance(held, Tensor) else tensor_of(held, spec.dtype, spec.shape)
    return made.to(device)


def read(located: Located, shape: Sequence[int], device: str = "cpu") -> Tensor:
    """A tensor of a checkpoint, or its first rows, copied into new memory."""
    return tensor_of(read_raw(located, shape), located[1].dtype, shape).to(device)


def rounded(wide: Tensor, dtype: str) -> Tensor:
    """The one rounding of the result; `dtype` as safetensors names it."""
    return wide.to(getattr(torch, DTYPES[dtype][0]))


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor Inf."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return bool(torch.isfinite(wide).all())


def bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """A tensor's bytes in C order, without a copy if it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def run(step: Sum | Change, inputs: Sequence[Tensor], base: Tensor | None) -> Tensor:
    """Compute a step on whole tensors of one shape, on their device.

    Returns:
        float32 (float64 if an input is), or the input itself for `Sum((1.0,))`.
    """
    if isinstance(step, Sum) and step.weights == (1.0,):
        return inputs[0]
    wide = _wide(inputs, base)
    rows = [x.to(wide) for x in inputs]
    if isinstance(step, Sum):
        total = rows[0] * step.weights[0]
        for row, weight in zip(rows[1:], step.weights[1:], strict=True):
            total = total + row * weight
        return total
    assert base is not None, "a change needs a base"
    anchor = base.to(wide)
    return anchor + _change(step, [row - anchor for row in rows]) * step.gain


def _wide(inputs: Sequence[Tensor], base: Tensor | None) -> torch.dtype:
    """The dtype of sums: float64 if an input or the base is, else float32."""
    every = (*inputs, *([base] if base is not None else []))
    return torch.float64 if any(x.dtype == torch.float64 for x in every) else torch.float32


def _change(step: Change, deltas: Sequence[Tensor]) -> Tensor:
    terms = [
        (sparse(delta, step.trims[i], step.keys[i], step.limits[i]) * step.scales[i])
        * step.weights[i]
        for i, delta in enumerate(deltas)
    ]
    if step.sign == "none":
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
    up = _vote(step, terms) >= 0
    total, share = torch.zeros_like(terms[0]), torch.zeros_like(terms[0])
    for term, weight in zip(terms, step.weights, strict=True):
        turned = step.sign == "plain" and weight < 0  # the unweighted sign must agree
        agrees = torch.where(up != turned, term > 0, term < 0)
        total = total + torch.where(agrees, term, 0.0)
        share = share + agrees.to(total.dtype) * (weight if step.divide == "weights" else 1.0)
    return total if step.divide == "none" else total / torch.where(share != 0, share, 1.0)


def _vote(step: Change, terms: Sequence[Tensor]) -> Tensor:
    vote = torch.zeros_like(terms[0])
    for term, weight in zip(terms, step.weights, strict=True):
        if step.sign == "plain":
            term = term * (1 / weight)  # not divided: CUDA would multiply by the inverse
        vote = vote + (torch.sign(term) if step.sign == "count" else term)
    return vote


def sparse(delta: Tensor, trim: Trim, key: int, limit: int) -> Tensor:
    """A task vector with trimmed or dropped elements set to 0."""
    places = torch.arange(delta.numel(), device=delta.device)
    bits = _magnitude_bits(delta)
    kept = (bits > trim.tau) | ((bits == trim.tau) & (places <= trim.cut))
    if limit < KEEP_ALL:
        kept &= random24(key, places) < limit
    return torch.where(kept.reshape(delta.shape), delta, 0.0)


def _magnitude_bits(delta: Tensor) -> Tensor:
    """(numel,) the bits of |δ| in float32 as integers, which sort like the magnitudes."""
    return delta.to(torch.float32).reshape(-1).view(torch.int32).to(torch.int64) & 0x7FFFFFFF


def random24(key: int, places: Tensor) -> Tensor:
    """24 random bits for each index: the top of SplitMix64's output (Steele et al. 2014).

    A counter-based generator: index j of key k is the same number on every device and in every
    order.
    """

    def signed(word: int) -> int:  # torch's 64-bit integers are signed and wrap
        return word - (1 << 64) if word >= 1 << 63 else word

    def shifted(z: Tensor, by: int) -> Tensor:
        return (z >> by) & ((1 << (64 - by)) - 1)

    z = (places + 1) * signed(0x9E3779B97F4A7C15) + signed(key)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return shifted(z ^ shifted(z, 31), 40)


class TensorFacts:
    """Facts about whole tensors in memory; `merge.sources` computes the same from files."""

    def __init__(self, inputs: Sequence[Tensor], base: Tensor | None) -> None:
        self._inputs, self._base = inputs, base

    def trim(self, i: int, density: float, scope: str) -> Trim:
        """Trim by sorting; with `scope: model` the tensor counts as the whole model."""
        bits = _magnitude_bits(self._delta(i))
        keep = kept_of(density, bits.numel())
        if not bits.numel():
            return Trim()
        tau = int(bits.sort(descending=True).values[keep - 1])
        ties = (bits == tau).nonzero().reshape(-1)
        return Trim(tau, int(ties[keep - int((bits > tau).sum()) - 1]))

    def l1_ratio(self, i: int, trim: Trim, key: int, limit: int) -> float:
        delta = self._delta(i)
        return ratio(
            float(delta.double().abs().sum()),
            float(sparse(delta, trim, key, limit).double().abs().sum()),
        )

    def cosine(self) -> float:
        a, b = (x.double().reshape(-1) for x in self._inputs[:2])
        return cosine_of(float(a @ a), float(b @ b), float(a @ b))

    def _delta(self, i: int) -> Tensor:
        assert self._base is not None, "a task vector needs a base"
        wide = _wide(self._inputs, self._base)  # as `run` does, so that the same numbers are kept
        return self._inputs[i].to(wide) - self._base.to(wide)
