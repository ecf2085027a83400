"""Settings that vary over a model: a number, a gradient over layers, or the first filter that fits.

The syntax is mergekit's, so that its files mean the same here.

* `0.5`: the same everywhere.
* `[0, 0.5, 1]`: a gradient, interpolated linearly from the first layer to the last; tensors outside
  the layers (embeddings, final norm, head) take its first value.
* `[{filter: mlp, value: 0.5}, {layers: [0, 8], value: [0, 1]}, {value: 0.2}]`: the first entry whose
  filter is part of the tensor's name and whose layers [start, stop) hold it; a gradient
  inside `layers` runs over those. Embeddings belong to the first layer's range, what follows the
  layers to the last one's.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recycler.errors import InvalidConfig

_LAYER = re.compile(r"\.(\d+)\.")
_BEFORE = ("embed", "wte", "wpe")  # what names of tensors ahead of the layers contain
_KEYS = {"filter", "layers", "value"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: its layer of so many; -1 before the layers, `layers` behind them."""

    tensor: str
    layer: int
    layers: int

    @property
    def inside(self) -> bool:
        return 0 <= self.layer < self.layers


def places(names: Sequence[str]) -> dict[str, Place]:
    """The place of each tensor of a model; the first number in a name is its layer."""
    found = {name: _LAYER.search(name) for name in names}
    layers = 1 + max((int(match[1]) for match in found.values() if match), default=-1)
    return {
        name: Place(name, int(match[1]) if match else _outside(name, layers), layers)
        for name, match in found.items()
    }


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
        start, stop = entry.get("layers", (0, place.layers))
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
