"""Merge settings that vary over a model: scalars, gradients over layers, entries with filters.

The syntax and its meaning are mergekit's.

* `0.5`: one value for all tensors.
* `[0, 0.5, 1]`: a gradient, interpolated linearly from the first layer to the last. Tensors outside
  the layers (embeddings, final norm, head) take the first value. In a model with several stacks of
  layers (vision and text, encoder and decoder), each stack has the whole gradient.
* `[{filter: mlp, value: 0.5}, {layers: [0, 8], value: [0, 1]}, {value: 0.2}]`: the first entry that
  matches. A filter matches if it is part of the tensor's name, `layers` if [start, stop) contains its
  layer; a gradient inside `layers` runs over that range. Ranges count layers of the main stack (text
  or decoder) and are scaled to the depth of other stacks. Tensors before the first layer belong to
  the first range, tensors after the last layer to the last.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from recycler.errors import InvalidConfig

_STACKS = {"layers", "layer", "h", "block", "blocks", "resblocks", "transformer_layers"}
_BEFORE = (
    "embed",
    "wte",
    "wpe",
    "shared.weight",
)  # parts of names of tensors before the layers
# Parts of names of stacks other than the main one.
_ASIDE = ("vision", "visual", "image", "vit.", "audio", "speech", "encoder", "tower", "qformer")
_KEYS = {"filter", "layers", "value"}


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a tensor in its stack of layers.

    Attributes:
        tensor: name of the tensor.
        layer: layer number in the stack; -1 before the first layer, `layers` after the last.
        layers: number of layers in the stack.
        main: number of layers in the main stack, in which ranges are given; 0: `layers`.
    """

    tensor: str
    layer: int
    layers: int
    main: int = 0

    @property
    def inside(self) -> bool:
        return 0 <= self.layer < self.layers

    def own_range(self, start: int, stop: int) -> tuple[int, int]:
        """Scale layers [start, stop) of the main stack to the depth of the tensor's stack."""
        if not self.main:
            return start, stop
        first, last = start * self.layers, min(stop, self.main) * self.layers
        return -(-first // self.main), -(-last // self.main)


def places(names: Sequence[str]) -> dict[str, Place]:
    """Return the place of each tensor of a model; each stack counts its own layers."""
    found = {name: _layer(name) for name in names}
    if not any(found.values()):  # unusual names: any number counts
        found = {name: _layer(name, usual=False) for name in names}
    sizes: dict[str, int] = {}
    for stack, layer in filter(None, found.values()):
        sizes[stack] = max(sizes.get(stack, 0), layer + 1)
    main = _main(sizes)
    layers = sizes.get(main, 0)
    made = {}
    for name, place in found.items():
        stack = place[0] if place else _nearest(name, sizes, main)
        size = sizes.get(stack, 0)
        layer = place[1] if place else _outside(name, size)
        made[name] = Place(name, layer, size, 0 if size == layers else layers)
    return made


def layer_count(names: Sequence[str]) -> int:
    """Number of layers in a model's main stack; 0 if there is none."""
    return max((place.main or place.layers for place in places(names).values()), default=0)


def _layer(name: str, usual: bool = True) -> tuple[str, int] | None:
    """Return stack and number of a tensor's layer, from the first number in its name."""
    parts = name.split(".")
    for i, part in enumerate(parts[1:-1], start=1):
        if part.isdecimal() and (not usual or parts[i - 1] in _STACKS):
            return ".".join(parts[:i]), int(part)
    return None


def _main(sizes: Mapping[str, int]) -> str:
    """Return the stack of the text or decoder: the largest without another part's name."""
    ours = [s for s in sizes if not any(part in s for part in _ASIDE)] or list(sizes)
    return max(ours, key=lambda stack: sizes[stack], default="")


def _nearest(name: str, stacks: Iterable[str], main: str) -> str:
    """Return the stack of a tensor outside all layers: that with the longest common prefix."""

    def alike(stack: str) -> tuple[int, bool]:
        pairs = zip(name.split("."), stack.split("."), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), stack == main

    return max(stacks, key=alike, default="")


def _outside(name: str, layers: int) -> int:
    early = "embed_out" not in name and any(part in name for part in _BEFORE)
    return -1 if early else layers


def value_at(setting: Any, place: Place) -> Any:
    """Return the value of a setting for one tensor; None if no entry matches.

    Args:
        setting: a scalar (number, bool or string), a gradient or a list of entries.
        place: position of the tensor.
    """
    if not isinstance(setting, list | tuple):
        return setting
    if not any(isinstance(entry, Mapping) for entry in setting):
        return _gradient(setting, place, 0, place.layers)
    for entry in setting:
        start, stop = (0, place.layers)
        if "layers" in entry:
            start, stop = place.own_range(*entry["layers"])
        if _matches(entry, place, start, stop):
            value = entry["value"]
            if isinstance(value, list | tuple):
                return _gradient(value, place, start, stop)
            return value
    return None


def scalars(setting: Any) -> list[Any]:
    """Return all scalar values in a setting."""
    if isinstance(setting, Mapping):
        return scalars(setting["value"])
    if isinstance(setting, list | tuple):
        return [value for entry in setting for value in scalars(entry)]
    return [setting]


def varies(setting: Any) -> bool:
    """Whether a setting may differ between tensors."""
    return isinstance(setting, list | tuple)


def checked(setting: Any, where: str) -> Any:
    """Check a setting and return it as plain data: a scalar, a list of floats or of entries.

    Raises:
        InvalidConfig: the setting has none of the forms above; `where` names file and key.
    """
    if isinstance(setting, Mapping):  # a single entry, as mergekit allows
        setting = [setting]
    if not isinstance(setting, list | tuple):
        return _scalar(setting, where)
    if not setting:
        raise InvalidConfig(f"{where} is an empty list.", hint="give a number, or leave it out.")
    if not any(isinstance(entry, Mapping) for entry in setting):
        return [float(_number(entry, where)) for entry in setting]
    return [_entry(entry, where) for entry in setting]


def _entry(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or "value" not in entry or not set(entry) <= _KEYS:
        raise InvalidConfig(
            f"{where}: found the entry {entry!r}.",
            hint="each entry is `{filter: part-of-a-name, value: number or list}`; a list holds "
            "either numbers or entries.",
        )
    made = {"value": checked(entry["value"], where)}
    if any(isinstance(value, Mapping) for value in _listed(made["value"])):
        raise InvalidConfig(f"{where}: entries are nested.", hint="write them as one list.")
    if entry.get("filter") not in (None, "*"):
        made["filter"] = str(entry["filter"])
    if "layers" in entry:
        made["layers"] = layer_range(entry["layers"], where)
    return made


def layer_range(layers: Any, where: str) -> list[int]:
    """Check a range of layers and return it as [start, stop].

    Raises:
        InvalidConfig: it is not such a range; `where` names file and key.
    """
    whole = isinstance(layers, list | tuple) and [type(x) for x in layers] == [int, int]
    if not whole or not 0 <= layers[0] < layers[1]:
        raise InvalidConfig(
            f"{where}: layers {layers!r} is not a range.", hint="write `layers: [0, 8]`."
        )
    return list(layers)


def _matches(entry: Mapping[str, Any], place: Place, start: int, stop: int) -> bool:
    low = -1 if start == 0 else start
    high = place.layers + 1 if stop >= place.layers else stop
    return entry.get("filter", "") in place.tensor and low <= place.layer < high


def _gradient(values: Sequence[float], place: Place, start: int, stop: int) -> float:
    count = min(stop, place.layers) - start
    inner = (place.layer - start) / (count - 1) if count > 1 else 1.0
    t = inner if place.inside else 0.0
    at = t * (len(values) - 1)
    low = int(at)
    high, share = min(len(values) - 1, low + 1), at - low
    return (1 - share) * values[low] + share * values[high]


def _scalar(value: Any, where: str) -> Any:
    return value if isinstance(value, bool | str) else _number(value, where)


def _number(value: Any, where: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value):
        raise InvalidConfig(
            f"{where} holds {value!r}, expected a number.",
            hint="a number, a list of numbers (a gradient over the layers) or a list of "
            "`{filter, value}`.",
        )
    return float(value)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]
