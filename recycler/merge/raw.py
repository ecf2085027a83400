"""Raw bytes of tensors as torch sees them, for dtypes that numpy lacks."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recycler.checkpoints.header import DTYPES


def tensor_of(raw: NDArray[np.uint8], dtype: str, shape: Sequence[int]) -> Tensor:
    """Bytes in C order as a tensor that shares their memory; `dtype` as safetensors names it."""
    kind = getattr(torch, DTYPES[dtype][0])
    if not len(raw):
        return torch.empty(tuple(shape), dtype=kind)
    return torch.from_numpy(raw).view(kind).reshape(tuple(shape))


def widen(raw: NDArray[np.uint8], dtype: str, out: NDArray[np.float32]) -> None:
    """Fill (c,) float32 with raw numbers of a dtype that numpy lacks."""
    torch.from_numpy(out).copy_(tensor_of(raw, dtype, out.shape))
