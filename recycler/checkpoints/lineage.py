"""What the files beside a checkpoint say about its training, the names it gives, and the base.

Read as data: trainer_state.json, the metadata of README.md (`base_model`, `datasets`, `tags`) and
config.json. A file that is missing or unreadable says nothing.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml

from recycler.checkpoints.folder import absolute, real_path
from recycler.checkpoints.header import open_regular, read_json
from recycler.errors import BrokenCheckpoint

_STEP = re.compile(r"(?:checkpoint|ckpt|global_step|step|iter)[-_]?(\d+)")
_SAYS_LITTLE = re.compile(r"(final|best|last|latest|model|hf|merged|weights|epoch[-_]?\d+)", re.I)
_HOLDERS = {"checkpoints", "ckpts", "models", "snapshots", "output", "outputs"}
_CARD = 1 << 16  # bytes of a README that are read
_MANY = 20  # values of a list that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a checkpoint's files say about its training.

    Attributes:
        about: metadata for a pool: run, step, epoch, best_metric, datasets, tags.
        parents: what it was trained from, by the files' own words: (file, path or name).
    """

    about: Mapping[str, Any]
    parents: tuple[tuple[str, str], ...] = ()


def lineage(folder: Path) -> Lineage:
    """Read what a folder's files say; nothing that is missing or broken is an error."""
    about: dict[str, Any] = {}
    state = _table(folder / "trainer_state.json")
    if state and _STEP.fullmatch(folder.name):
        about["run"] = _run(folder)
    for key, name in (("global_step", "step"), ("epoch", "epoch"), ("best_metric", "best_metric")):
        value = state.get(key)
        if isinstance(value, int | float) and math.isfinite(value) and value is not True:
            about[name] = value
    card = _card(folder / "README.md")
    about |= {key: _texts(card.get(key)) for key in ("datasets", "tags") if _texts(card.get(key))}
    parents = [("README.md", name) for name in _texts(card.get("base_model"))]
    parents += [
        ("config.json", n) for n in _texts(_table(folder / "config.json").get("_name_or_path"))
    ]
    return Lineage(about=about, parents=tuple(parents))


def names_of(folders: Sequence[Path]) -> list[str]:
    """A plain, unique name for each folder: `sft/checkpoint-30` becomes `sft-30`.

    A folder whose own name says little (`final`, `checkpoint-30`, a snapshot of the hub's cache) is
    named after the run above it. Equal names get the next folders above in front, then a number.
    """
    made: list[str] = []
    short = [_name(folder) for folder in folders]
    for folder, name in zip(folders, short, strict=True):
        above = [part for part in _above(folder) if part not in _HOLDERS]
        while short.count(name) > 1 and above:
            wider = f"{_plain(above.pop(0))}-{name}"
            if not name.startswith(wider.removesuffix(name)):
                name = wider
                if name not in short and name not in made:
                    break
        free, number = name, 2
        while free in made:
            free, number = f"{name}-{number}", number + 1
        made.append(free)
    return made


def origins(folders: Sequence[Path], found: Sequence[Lineage]) -> list[Path | str | None]:
    """What each checkpoint was trained from: a folder on this machine, else the name it gives."""
    places = [real_path(folder) for folder in folders]
    made: list[Path | str | None] = []
    for place, said in zip(places, found, strict=True):
        known = [(name, _find(name, place, places)) for _, name in said.parents]
        here = [folder for _, folder in known if folder not in (None, place)]
        told = [name for name, folder in known if folder != place]  # not its own folder
        made.append((here or told or [None])[0])
    return made


def guess_base(
    folders: Sequence[Path], found: Sequence[Lineage], parents: Sequence[Path | str | None]
) -> tuple[Path, str] | None:
    """The folder that most of the others say they were trained from, and the reason in words.

    It is among `folders`, or another folder on this machine (also in the hub's cache). A chain of
    stages is followed to its beginning. None if fewer than half of the others name one, or if two
    folders are named equally often.

    Args:
        folders: the checkpoints.
        found: what their files say.
        parents: their `origins`.
    """
    places = [real_path(folder) for folder in folders]
    pairs = zip(places, parents, strict=True)
    parent = {place: origin for place, origin in pairs if isinstance(origin, Path)}
    roots = Counter(_root(place, parent) for place in parent)
    if not roots:
        return None
    (base, votes), *others = roots.most_common()
    count = sum(place != base for place in places)
    if votes * 2 < count or any(votes == other for _, other in others):
        return None
    said = zip(places, found, strict=True)
    files = {file for place, one in said if place in parent for file, _ in one.parents}
    return base, f"{votes} of {count} checkpoints say so in {' and '.join(sorted(files))}"


def _find(name: str, child: Path, given: Sequence[Path]) -> Path | None:
    """The folder on this machine that a checkpoint's parent name stands for, if any."""
    starts = (Path.cwd(), child, child.parent, child.parent.parent)
    with suppress(OSError, ValueError):
        for place in (absolute(name), *(start / name for start in starts)):
            if (place / "config.json").is_file():
                return real_path(place)
    spoken = _name(Path(name))
    alike = [place for place in given if place != child and _name(place) == spoken]
    if len(alike) == 1:  # the folder was trained elsewhere, or is a copy of one on the hub
        return alike[0]
    with suppress(Exception):  # a name that the hub does not allow, or no cache
        cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return real_path(Path(cached).parent)
    return None


def _root(place: Path, parent: Mapping[Path, Path]) -> Path:
    seen = {place}
    while place in parent and parent[place] not in seen:
        place = parent[place]
        seen.add(place)
    return place


def _name(folder: Path) -> str:
    own = folder.name
    step = _STEP.fullmatch(own)
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return _plain(folder.parent.parent.name.split("--")[-1])
    if (step or _SAYS_LITTLE.fullmatch(own)) and _run(folder):
        return _plain(f"{_run(folder)}-{step[1] if step else own}")
    return _plain(own)


def _run(folder: Path) -> str:
    """The run that a checkpoint belongs to: the first folder above it that has a name of its own."""
    return next((part for part in _above(folder) if part not in _HOLDERS), "")


def _above(folder: Path) -> list[str]:
    return [part for part in reversed(folder.parts[:-1]) if part not in (folder.anchor, ".", "..")]


def _plain(name: str) -> str:
    """Letters, digits, `.`, `_` and `-`, so that it needs no quotes in YAML or on a command line."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "checkpoint"


def _table(file: Path) -> dict[str, Any]:
    if not os.path.lexists(file):
        return {}
    try:
        return read_json(file)
    except BrokenCheckpoint:
        return {}


def _card(file: Path) -> dict[str, Any]:
    """The metadata at the top of a README, between two lines `---`."""
    if not os.path.lexists(file):
        return {}
    try:
        with open_regular(file) as stream:
            text = stream.read(_CARD).decode("utf-8", "replace")
        head, _, rest = text.partition("\n")
        found = yaml.safe_load(rest.split("\n---", 1)[0]) if head.strip() == "---" else None
    except (BrokenCheckpoint, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _texts(value: Any) -> list[str]:
    """Text, or a list of texts, of sensible length; anything else says nothing."""
    listed = value if isinstance(value, list) else [value]
    return [t.strip() for t in listed[:_MANY] if isinstance(t, str) and 0 < len(t.strip()) <= 300]
