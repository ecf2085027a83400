"""Settings that vary over a model: a number, a gradient over layers, or the first filter that fits.

The syntax is mergekit's, so that its files mean the same here.

* `0.5`: the same everywhere.
* `[0, 0.5, 1]`: a gradient, interpolated linearly from the first layer to the last; tensors outside
  the layers (embeddings, final norm, head) take its first value. A model with several stacks of
  layers (vision and text, encoder and decoder) has the whole gradient in each of them.
* `[{filter: mlp, value: 0.5}, {layers: [0, 8], value: [0, 1]}, {value: 0.2}]`: the first entry whose
  filter is part of the tensor's name and whose layers [start, stop) hold it; a gradient inside
  `layers` runs over those. Layers are counted in the main stack, that of the text (of the decoder);
  another stack has the range that is the same share of its layers. Embeddings belong to the first
  layer's range, what follows the layers to the last one's.
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
)  # what names of tensors ahead of the layers have
# What names of stacks that are not the main one have.
_ASIDE = ("vision", "visual", "image", "vit.", "audio", "speech", "encoder", "tower", "qformer")
_KEYS = {"filter", "layers", "value"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: its layer of so many; -1 before the layers, `layers` behind them.

    Attributes:
        tensor: its name.
        layer: number in its own stack.
        layers: of its own stack.
        main: layers of the model's main stack, in which ranges are given; 0 means `layers`.
    """

    tensor: str
    layer: int
    layers: int
    main: int = 0

    @property
    def inside(self) -> bool:
        return 0 <= self.layer < self.layers

    def own_range(self, start: int, stop: int) -> tuple[int, int]:
        """Layers [start, stop) of the main stack in the tensor's own stack, as a share of it."""
        if not self.main:
            return start, stop
        first, last = start * self.layers, min(stop, self.main) * self.layers
        return -(-first // self.main), -(-last // self.main)


def places(names: Sequence[str]) -> dict[str, Place]:
    """The place of each tensor of a model, each stack of layers counted by itself."""
    found = {name: _layer(name) for name in names}
    if not any(found.values()):  # no usual name of layers: the first number in a name is one
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
    """Layers of a model's main stack; 0 where none is recognised."""
    return max((place.main or place.layers for place in places(names).values()), default=0)


def _layer(name: str, usual: bool = True) -> tuple[str, int] | None:
    """The stack and number of the layer that holds a tensor: the first number in its name."""
    parts = name.split(".")
    for i, part in enumerate(parts[1:-1], start=1):
        if part.isdecimal() and (not usual or parts[i - 1] in _STACKS):
            return ".".join(parts[:i]), int(part)
    return None


def _main(sizes: Mapping[str, int]) -> str:
    """The stack of the text, or of the decoder: the largest that is not called another."""
    ours = [s for s in sizes if not any(part in s for part in _ASIDE)] or list(sizes)
    return max(ours, key=lambda stack: sizes[stack], default="")


def _nearest(name: str, stacks: Iterable[str], main: str) -> str:
    """The stack that a tensor outside of all layers belongs to: the one with the nearest name."""

    def alike(stack: str) -> tuple[int, bool]:
        pairs = zip(name.split("."), stack.split("."), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), stack == main

    return max(stacks, key=alike, default="")


def _outside(name: str, layers: int) -> int:
    early = "embed_out" not in name and any(part in name for part in _BEFORE)
    return -1 if early else layers


def value_at(setting: Any, place: Place) -> Any:
    """What a setting is for one tensor; None where no entry matches.

    Args:
        setting: a scalar (number, truth value or word), a gradient or a list of entries.
        place: the tensor.
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
    """Every value that a setting has somewhere."""
    if isinstance(setting, Mapping):
        return scalars(setting["value"])
    if isinstance(setting, list | tuple):
        return [value for entry in setting for value in scalars(entry)]
    return [setting]


def varies(setting: Any) -> bool:
    """Whether it is more than one scalar for all tensors."""
    return isinstance(setting, list | tuple)


def checked(setting: Any, where: str) -> Any:
    """The setting in plain form (lists of floats or entries, numbers as they are).

    Raises:
        InvalidConfig: it is none of the forms above; `where` names file and key.
    """
    if isinstance(setting, Mapping):  # one entry alone, as mergekit allows
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
        raise InvalidConfig(f"{where}: an entry lies in an entry.", hint="write them as one list.")
    if entry.get("filter") not in (None, "*"):
        made["filter"] = str(entry["filter"])
    if "layers" in entry:
        made["layers"] = layer_range(entry["layers"], where)
    return made


def layer_range(layers: Any, where: str) -> list[int]:
    """Layers [start, stop) as a list of the two.

    Raises:
        InvalidConfig: it is no such range; `where` names file and key.
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
