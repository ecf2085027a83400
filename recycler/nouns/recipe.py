"""A recipe: everything that decides the bytes of one merge, and the content id made from it.

Letters: n checkpoints.
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recycler.errors import InvalidConfig

DTYPES = ("float32", "bfloat16", "float16", "float64")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_PLAIN: Mapping[str, Any] = {}  # settings of most ingredients; one for all
MODEL = "model"  # the method of a recipe that merges nothing: one folder, loaded as it is


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One checkpoint in a recipe.

    Attributes:
        fingerprint: content hash of the checkpoint.
        name: name for messages; not part of the id.
        weight: weight of all its tensors, unitless.
        settings: parameters of the method for this checkpoint alone, such as `density`; `weight` here
            is a factor of the weight that may vary over tensors (see `layers`).
    """

    fingerprint: str
    name: str
    weight: float
    settings: Mapping[str, Any] = field(default_factory=dict)


def require_dtype(dtype: str) -> None:
    """Raise InvalidConfig unless merges can be written in a dtype; empty means that of the inputs."""
    if dtype and dtype not in DTYPES:
        raise InvalidConfig(
            f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.",
            hint="set `merge.dtype`, or leave it out: each tensor keeps its dtype.",
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Method, ingredients, settings and output dtype of one merge.

    Ingredients are sorted by fingerprint (equal ones by weight and settings) and zero weights are
    dropped, so equal merges have equal recipes in whatever order the pool is.

    Attributes:
        method: name of a merge method.
        ingredients: the checkpoints with a nonzero weight.
        dtype: torch name of the output dtype; empty: each tensor keeps the dtype of its inputs.
        base: the base checkpoint of task-vector methods.
        id: content id, equal for equal merges; independent of checkpoint names.
        settings: parameters of the method, each a scalar or varying over layers (see `layers`); also
            what to do with `missing` tensors (tied, refuse, base, skip) and with different
            `vocabulary` sizes (refuse, common).
    """

    method: str
    ingredients: tuple[Ingredient, ...]
    dtype: str
    base: Ingredient | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for ingredient in self.ingredients:
            if not math.isfinite(ingredient.weight):
                raise InvalidConfig(
                    f"weight of {ingredient.name!r} is {ingredient.weight}, expected a number.",
                    hint="give every checkpoint a finite weight.",
                )
        require_dtype(self.dtype)
        kept = sorted(
            (
                item
                if type(item.weight) is float
                else Ingredient(item.fingerprint, item.name, float(item.weight), item.settings)
                for item in self.ingredients
                if item.weight != 0.0
            ),
            key=lambda i: (
                i.fingerprint,
                i.weight,
                canonical(i.settings) if i.settings else "{}",
                i.name,
            ),
        )
        if not kept and self.base is None:
            raise InvalidConfig(
                "a recipe needs at least one weight other than zero.", hint="give weights."
            )
        object.__setattr__(self, "ingredients", tuple(kept))
        object.__setattr__(self, "id", self._content_id())

    def _content_id(self) -> str:
        content = {
            "method": self.method,
            "weights": [
                [item.fingerprint, item.weight.hex(), *([item.settings] if item.settings else [])]
                for item in self.ingredients
            ],
            "base": self.base.fingerprint if self.base else None,
            "settings": self.settings,
            "dtype": self.dtype,
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]

    @property
    def is_model(self) -> bool:
        """Whether it stands for a model that is no merge of the pool (see `of_model`)."""
        return self.method == MODEL

    @classmethod
    def of_model(cls, name: str, fingerprint: str, digests: Mapping[str, str]) -> "Recipe":
        """The recipe of a model that is loaded from its folder, with its own tokenizer.

        Args:
            name: name for messages.
            fingerprint: content hash of its tensors.
            digests: of the other files that decide its scores (see `evaluate.measure.model_digests`).
                They are part of the id, so scores are never shared between tokenizers.
        """
        whole = (Ingredient(fingerprint, name, 1.0),)
        return cls(method=MODEL, ingredients=whole, dtype="", settings=dict(digests))

    @property
    def weights(self) -> dict[str, float]:
        """Checkpoint name -> nonzero weight, largest first."""
        by_size = sorted(self.ingredients, key=lambda item: (-item.weight, item.name))
        return {item.name: item.weight for item in by_size}

    def vector(self, names: Sequence[str]) -> tuple[float, ...]:
        """(n,) weights in the order of `names`; 0.0 for names not in the recipe."""
        weights = self.weights
        return tuple(weights.get(name, 0.0) for name in names)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON data, the inverse of `from_json`."""
        return {
            "method": self.method,
            "weights": self.weights,
            "fingerprints": {item.name: item.fingerprint for item in self.ingredients},
            "dtype": self.dtype,
            "base": [self.base.fingerprint, self.base.name] if self.base else None,
            "settings": dict(self.settings),
            "per_checkpoint": {i.name: dict(i.settings) for i in self.ingredients if i.settings},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        base, own = data.get("base"), data.get("per_checkpoint", {})
        return cls(
            method=data["method"],
            ingredients=tuple(
                # ledgers hold the same texts thousands of times: memory holds them once
                Ingredient(
                    sys.intern(data["fingerprints"][name]),
                    sys.intern(name),
                    float(weight),
                    own.get(name, _PLAIN),
                )
                for name, weight in data["weights"].items()
            ),
            dtype=data["dtype"],
            base=Ingredient(base[0], base[1], 1.0) if base else None,
            settings=data.get("settings", {}),
        )


def canonical(data: Any) -> str:
    """Return canonical JSON: keys sorted, no spaces."""
    return _ENCODER.encode(data)
