"""The merge methods: linear, SLERP, and the task-vector family (see `protocols.MergeMethod`).

Letters: n checkpoints x, w (n,) weights, b their base, δ = x - b, d density, λ factor.
Each method first decides numbers (`arithmetic`: a `Sum` or a `Change`), then one of two executors
computes the sums: plain torch in `merge.plain` (the definition, on any device) or `merge.kernels`
on the CPU, with the same bytes. Every product and sum is rounded separately in float32 (float64
where an input is); the caller rounds once to the output dtype.

Where implementations disagree, both conventions have a name:

* `rescale` of a sparse δ: `density` divides by d (the DARE paper: unbiased whatever the tensor),
  `l1` restores Σ|δ| (mergekit since 0.1.0: on small or heavy-tailed tensors the factor may be
  huge), `none`. DARE's default is `density` for that reason; a mergekit file means `l1`.
* `sign` of TIES: elected by the `weighted` task vectors (mergekit, and the default: a checkpoint
  of weight 0.01 should not outvote one of weight 1), the `plain` ones (PEFT, MergeBench; equal
  to `weighted` for equal weights) or by `count` of signs.
* `normalize` of TIES: divide by the agreeing `weights` (mergekit, default), by the `count` of
those
  who agree (PEFT, the paper's mean), or `none`.
* `scope` of TIES' trimming: the `tensor` (mergekit, default: no tensor is trimmed away whole) or
the
  whole `model` (MergeBench, FusionBench).
Reference: arXiv 2412.04144 § 3.2 (linear); Ilharco et al. 2022, arXiv 2212.04089 (task
arithmetic); Yadav et al. 2023, arXiv 2306.01708 (TIES); Yu et al. 2023, arXiv 2311.03099 (DARE).
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module as lazy  # torch: a merge on the CPU does without it
from typing import TYPE_CHECKING, Any

from recycler.errors import InvalidConfig
from recycler.merge.arithmetic import KEEP_ALL, Change, Facts, Sum, Terms, Trim
from recycler.protocols import MergeMethod
from recycler.registry import resolve

if TYPE_CHECKING:
    from torch import Tensor

NORMALIZE = ("none", "weights", "count")
RESCALE = ("none", "l1", "density")
SIGN = ("none", "weighted", "plain", "count")
SCOPE = ("tensor", "model")
_WORDS = {"normalize": NORMALIZE, "rescale": RESCALE, "sign": SIGN, "scope": SCOPE}
_COLINEAR = 0.9995  # |cosine| above which SLERP is linear, as everywhere


class Method(ABC):
    """Base of our own methods (abstract): decides numbers, and can run them on whole tensors."""

    needs_base = False
    defaults: Mapping[str, Any] = {}

    @abstractmethod
    def arithmetic(self, terms: Terms, facts: Facts) -> Sum | Change:
        """The step to compute at one tensor."""

    def __call__(
        self,
        inputs: "Sequence[Tensor]",
        weights: Sequence[float],
        base: "Tensor | None",
        settings: Mapping[str, Any],
    ) -> "Tensor":
        """Merge whole tensors (see `protocols.MergeMethod`); `settings` may omit defaults.

        `settings["keys"]`, (n,), are the keys of random masks; without them the seed and the
        position in the list give the keys.
        """
        filled = {**self.defaults, **settings}
        n, seed = len(inputs), filled.get("seed", 0)
        density = filled.get("density", 1.0)
        terms = Terms(
            tuple(weights),
            tuple(density) if isinstance(density, list | tuple) else (density,) * n,
            tuple(filled.get("keys") or (mask_key(seed, str(i), "") for i in range(n))),
            filled,
        )
        plain = lazy("recycler.merge.plain")
        step = self.arithmetic(terms, plain.TensorFacts(inputs, base))
        merged: Tensor = plain.run(step, inputs, base)
        return merged


class Linear(Method):
    """y = Σ wᵢ xᵢ, or Σ wᵢ xᵢ / Σ wᵢ with `normalize: weights` (arXiv 2412.04144, § 3.2).

    Invariants: w = (1) returns the input itself; affine in w.
    """

    defaults: Mapping[str, Any] = {"normalize": "none"}

    def arithmetic(self, terms: Terms, facts: Facts) -> Sum | Change:
        by = _choice(terms.settings, "normalize")
        if by == "none":
            return Sum(terms.weights)
        total = math.fsum(terms.weights) if by == "weights" else float(len(terms.weights))
        if total == 0:
            raise InvalidConfig(
                "the weights sum to 0, so they can't be normalized.",
                hint="set `normalize: false` or change a weight.",
            )
        return Sum(tuple(weight / total for weight in terms.weights))


class Slerp(Method):
    """Spherical interpolation of two checkpoints, tensor by tensor; w₁ : w₂ = 1-t : t.

    With θ the angle between the flattened tensors, y = (sin((1-t)θ) x₁ + sin(tθ) x₂) / sin θ;
    linear if |cos θ| > 0.9995 (Shoemake 1985; mergekit's `slerp`).
    """

    def arithmetic(self, terms: Terms, facts: Facts) -> Sum | Change:
        n, total = len(terms.weights), math.fsum(terms.weights)
        if n > 2 or total == 0:
            raise InvalidConfig(
                f"slerp got {n} checkpoints with weights that sum to {total:g}.",
                hint="slerp merges exactly two checkpoints with weights 1-t and t.",
            )
        shares = tuple(weight / total for weight in terms.weights)
        if n == 1:
            return Sum(shares)
        cosine = facts.cosine()
        if abs(cosine) > _COLINEAR:
            return Sum(shares)
        angle = math.acos(cosine)
        return Sum(tuple(math.sin(share * angle) / math.sin(angle) for share in shares))


class TaskVectors(Method):
    """y = b + λ · merge of sparse task vectors δ: task arithmetic, TIES and both kinds of DARE.

    Invariants: one checkpoint with weight 1, d = 1, λ = 1 returns the checkpoint itself; no weight
    returns the base; masks depend on (seed, fingerprint, tensor name) alone.
    """

    needs_base = True

    def __init__(self, sparsify: str, **defaults: Any) -> None:
        """Choose how δ is made sparse (`none`, `magnitude`, `random`) and the default settings."""
        self._sparsify = sparsify
        self.defaults = defaults

    def arithmetic(self, terms: Terms, facts: Facts) -> Sum | Change:
        settings, n = terms.settings, len(terms.weights)
        factor = float(settings["lambda"])
        by = _choice(settings, "normalize")
        sign = _choice(settings, "sign") if "sign" in settings else "none"
        divisor = {"none": 1.0, "weights": math.fsum(terms.weights), "count": float(n)}[by]
        divisor = divisor if abs(divisor) >= 1e-8 else 1.0
        dense = self._sparsify == "none" or min(terms.densities) >= 1
        if n == 1 and dense and factor * (terms.weights[0] / divisor) == 1:
            return Sum((1.0,))
        trims, limits = self._sparse(terms, facts)
        scales = self._scales(terms, facts, trims, limits)
        gain = factor / divisor if sign == "none" else factor
        return Change(terms.weights, scales, trims, terms.keys, limits, sign, by, gain)

    def _sparse(self, terms: Terms, facts: Facts) -> tuple[tuple[Trim, ...], tuple[int, ...]]:
        """What is kept of each task vector: by magnitude, or at random."""
        for density in terms.densities:
            require_setting("density", density, "density")
        everything = tuple(Trim() for _ in terms.densities)
        if self._sparsify == "random":
            return everything, tuple(round(d * KEEP_ALL) for d in terms.densities)
        keep_all = (KEEP_ALL,) * len(terms.densities)
        if self._sparsify == "none":
            return everything, keep_all
        scope = _choice(terms.settings, "scope")
        trims = [
            facts.trim(i, d, scope) if d < 1 else Trim() for i, d in enumerate(terms.densities)
        ]
        return tuple(trims), keep_all

    def _scales(
        self, terms: Terms, facts: Facts, trims: Sequence[Trim], limits: Sequence[int]
    ) -> tuple[float, ...]:
        if "rescale" not in terms.settings:
            return (1.0,) * len(terms.weights)
        rescale = _choice(terms.settings, "rescale")
        if rescale == "none":
            return (1.0,) * len(terms.weights)
        if rescale == "density":
            return tuple(1 / d for d in terms.densities)
        return tuple(
            facts.l1_ratio(i, trims[i], terms.keys[i], limits[i]) if d < 1 else 1.0
            for i, d in enumerate(terms.densities)
        )


def mask_key(seed: int, fingerprint: str, tensor: str) -> int:
    """64-bit key of a random mask, from seed, checkpoint bytes and tensor name alone."""
    text = f"{seed}\0{fingerprint}\0{tensor}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def require_setting(name: str, value: Any, where: str) -> None:
    """Raise InvalidConfig if a setting has a value that the methods do not understand.

    Args:
        name: name of the setting; settings of other packages' methods are not checked.
        value: its value at some tensor.
        where: file and key, for the message.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good, expected = True, ""
    if name in _WORDS:
        good, expected = _word(name, value) in _WORDS[name], f"one of {', '.join(_WORDS[name])}"
    elif name == "density":
        good, expected = number and 0 < value <= 1, "a share above 0 and at most 1"
    elif name == "lambda":
        good, expected = number and math.isfinite(value), "a number"
    elif name == "seed":
        good, expected = number and value % 1 == 0, "a whole number"
    if not good:
        raise InvalidConfig(
            f"{where} is {value!r}, expected {expected}.",
            hint=f"set `{name}` in the recipe's settings, or leave it out.",
        )


def _choice(settings: Mapping[str, Any], name: str) -> str:
    """A setting with a fixed set of values; true and false stand for the usual ones."""
    require_setting(name, settings[name], name)
    return _word(name, settings[name])


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool | float | int):
        return {"normalize": "weights", "rescale": "l1"}.get(name, "") if value else "none"
    return str(value)


METHODS: dict[str, MergeMethod] = {
    "linear": Linear(),
    "slerp": Slerp(),
    "task_arithmetic": TaskVectors("none", normalize="none", **{"lambda": 1.0}),
    "ties": TaskVectors(
        "magnitude",
        density=1.0,
        normalize="weights",
        rescale="none",
        sign="weighted",
        scope="tensor",
        **{"lambda": 1.0},
    ),
    "dare_linear": TaskVectors(
        "random", density=1.0, normalize="none", rescale="density", seed=0, **{"lambda": 1.0}
    ),
    "dare_ties": TaskVectors(
        "random",
        density=1.0,
        normalize="none",
        rescale="density",
        sign="weighted",
        seed=0,
        **{"lambda": 1.0},
    ),
}


def find_method(name: str) -> MergeMethod:
    """The merge method of that name: recycler's own, or one registered by another package."""
    found: MergeMethod = resolve("merge method", name, METHODS)
    return found
