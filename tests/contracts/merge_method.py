"""Contract of merge methods (see `recycler.protocols.MergeMethod`).

To test your own method, subclass the suite in a test file and set the method:

    class TestMine(MergeMethodContract):
        method = MyMethod()
        settings = {"density": 0.5}
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from recycler.protocols import MergeMethod

FLOATS = ("float32", "bfloat16", "float16", "float64")


def tensors(n: int, shape: tuple[int, ...], dtype: str, seed: int = 0) -> list[torch.Tensor]:
    """Return tensors with seeded normal entries."""
    rng = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(n)]
    return [tensor.to(getattr(torch, dtype)) for tensor in made]


def bits(tensor: torch.Tensor) -> bytes:
    """Return the tensor's bytes: these tell -0.0 from 0.0 and one NaN from another."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class MergeMethodContract:
    """Subclass it and set `method` (and `settings`); pytest runs the suite.

    `most` is the largest number of inputs that the method takes. `one_hot` is False if settings such
    as a density below 1 change even a single input.
    """

    method: ClassVar[MergeMethod]
    settings: ClassVar[Mapping[str, Any]] = {}
    most: ClassVar[int] = 3
    one_hot: ClassVar[bool] = True

    def merge(self, inputs: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
        """Merge the first inputs, up to `most`, over a base that is not among them."""
        base = tensors(1, tuple(inputs[0].shape), "float64", seed=99)[0].to(inputs[0].dtype)
        return self.method(
            inputs[: self.most],
            weights[: self.most],
            base if self.method.needs_base else None,
            self.settings,
        )

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_weight_one_returns_the_input_bit_for_bit(self, dtype):
        if not self.one_hot:
            pytest.skip("its settings change a single input")
        (x,) = tensors(1, (5, 7), dtype)
        x[0, :4] = torch.tensor([-0.0, float("inf"), float("-inf"), float("nan")])
        out = self.merge([x], [1.0])
        assert bits(out.to(x.dtype)) == bits(x)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_equal_calls_give_equal_bytes(self, dtype):
        inputs, weights = tensors(3, (300, 1000), dtype), [0.2, 0.3, 0.5]
        torch.manual_seed(1)
        first = self.merge(inputs, weights)
        torch.manual_seed(2)  # a method may not draw from the global generator
        assert bits(self.merge(inputs, weights)) == bits(first)

    def test_inputs_and_settings_are_left_as_they_were(self):
        inputs = tensors(3, (64, 3), "float32")
        before, settings = [bits(x) for x in inputs], dict(self.settings)
        self.merge(inputs, [0.25, 0.25, 0.5])
        assert [bits(x) for x in inputs] == before
        assert dict(self.settings) == settings

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_sums_are_kept_in_float32_at_least(self, dtype):
        out = self.merge(tensors(2, (4,), dtype), [0.5, 0.5])
        assert out.dtype in (torch.float32, torch.float64)

    def test_float64_inputs_keep_their_precision(self):
        assert self.merge(tensors(2, (4,), "float64"), [0.5, 0.5]).dtype == torch.float64

    @pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)])
    def test_every_shape_is_kept(self, shape):
        out = self.merge(tensors(3, shape, "float32"), [0.5, 0.25, 0.25])
        assert tuple(out.shape) == shape

    def test_non_contiguous_inputs_merge_like_their_copies(self):
        views = [x.T for x in tensors(2, (40, 30), "float32")]
        copies = [x.contiguous() for x in views]
        assert bits(self.merge(views, [0.4, 0.6])) == bits(self.merge(copies, [0.4, 0.6]))
