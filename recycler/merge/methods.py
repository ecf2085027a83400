"""The merge methods, each a pure function of tensors (see `protocols.MergeMethod`).

Letters: n inputs, w (n,) weights. Sums are kept in float32 (float64 where an input is float64) and
rounded once by the caller. May import: errors, protocols, torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recycler.errors import InvalidConfig
from recycler.protocols import MergeMethod

_CHUNK = 1 << 17  # elements summed at once: two float32 chunks stay in the second-level cache


class Linear:
    """y = Σ wᵢ xᵢ, or Σ wᵢ xᵢ / Σ wᵢ with `normalize: true` (arXiv 2412.04144, § 3.2).

    Invariants: w = (1) returns the input itself; affine in w; the order of summation is the
    order of the inputs, which the recipe sorts by fingerprint.
    """

    needs_base = False

    def __call__(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[float],
        base: Tensor | None,
        settings: Mapping[str, Any],
    ) -> Tensor:
        """Weighted sum.

        Args:
            inputs: n tensors of one shape, any float dtypes.
            weights: (n,) unitless, none of them 0.
            base: not used.
            settings: `normalize` (default false).

        Returns:
            A tensor of the inputs' shape in float32 (float64 where an input is), or the input
            itself where its weight is 1 and it is alone.
        """
        if settings.get("normalize", False):
            total = sum(weights)
            if total == 0:
                raise InvalidConfig(
                    "the weights sum to 0, so they can't be normalized.",
                    hint="set `normalize: false` or change a weight.",
                )
            weights = [weight / total for weight in weights]
        if len(inputs) == 1 and weights[0] == 1.0:
            return inputs[0]
        wide = torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32
        out = torch.empty(inputs[0].shape, dtype=wide, device=inputs[0].device)
        flat, rows = out.view(-1), [x.reshape(-1) for x in inputs]
        buffer = torch.empty(min(_CHUNK, flat.numel()), dtype=wide, device=out.device)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            # the first term is not added to 0.0, which would turn -0.0 into 0.0
            part.copy_(rows[0][start : start + _CHUNK]).mul_(weights[0])
            for row, weight in zip(rows[1:], weights[1:], strict=True):
                term = buffer[: part.numel()].copy_(row[start : start + _CHUNK])
                part.add_(term, alpha=weight)
        return out


METHODS: dict[str, MergeMethod] = {"linear": Linear()}
