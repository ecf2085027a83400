"""Moves tasks between the lists of a study file as text, so that comments and order stay.

The result is read again and compared with the original before it replaces the file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recycler.errors import Conflict, InvalidConfig
from recycler.files import write_synced
from recycler.submit.config import StudyFile, parse_study

LISTS = ("objectives", "held_out", "candidates")


@dataclass(frozen=True, slots=True)
class _List:
    """One list of a study file: the lines it takes, and the lines of each item by its name."""

    start: int  # first line after the key's; for a list in brackets the key's own line
    stop: int  # line after the last
    dash: int  # column of the dashes
    items: dict[str, list[str]]
    key: str = ""  # for a list in brackets: the key's line without it


def write_objectives(file: str | os.PathLike[str], chosen: Sequence[str]) -> Path:
    """Search the chosen tasks of a study file and hold out the others; candidates stay there.

    Objectives with a floor and properties of the merge stay searched.

    Returns:
        The copy of the file as it was, beside it.

    Raises:
        InvalidConfig: the file has no task of a chosen name.
        Conflict: its form does not allow a clean edit, or it changed meanwhile; nothing is written.
    """
    path = Path(file)
    before = path.read_bytes()
    after = with_objectives(before.decode(), chosen).encode()
    part = path.with_name(f".{path.name}.part")
    try:
        write_synced(part, after)
        part.chmod(path.stat().st_mode & 0o777)
        if path.read_bytes() != before:
            raise Conflict(
                f"{path} was changed meanwhile.", hint="run `recycler scout` once more."
            )
        copy = _copy(path, before)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return copy


def with_objectives(text: str, chosen: Sequence[str]) -> str:
    """The text of a study file with the chosen tasks under `objectives:` (see `write_objectives`)."""
    old = parse_study(yaml.safe_load(text))
    wanted = _wanted(old, chosen)
    new = _moved(text, wanted)
    try:
        made = parse_study(yaml.safe_load(new))
    except (yaml.YAMLError, InvalidConfig) as error:
        raise _unclean(wanted) from error
    entries = {e.name: e for key in LISTS for e in getattr(old, key)}
    for key, names in wanted.items():
        if getattr(made, key) != [entries[name] for name in names]:
            raise _unclean(wanted)
    rest = set(StudyFile.model_fields) - set(LISTS)
    if made.model_dump(include=rest) != old.model_dump(include=rest):
        raise _unclean(wanted)
    return new


def _wanted(study: StudyFile, chosen: Sequence[str]) -> dict[str, list[str]]:
    """List -> names of its items afterwards, in the order of the file."""
    listed = {key: list(getattr(study, key)) for key in LISTS}
    known = [entry.name for entries in listed.values() for entry in entries]
    if unknown := [name for name in chosen if name not in known]:
        raise InvalidConfig(
            f"the study file has no task {unknown[0]!r}.", hint=f"it has {', '.join(known)}."
        )
    fixed = {
        entry.name
        for entry in listed["objectives"]
        if entry.floor is not None or entry.metric.startswith("merge.")
    }
    kept = [name for name in known if name in chosen or name in fixed]
    both = [entry.name for entry in (*listed["objectives"], *listed["held_out"])]
    return {
        "objectives": kept,
        "held_out": [name for name in both if name not in kept],
        "candidates": [e.name for e in listed["candidates"] if e.name not in kept],
    }


def _unclean(wanted: dict[str, list[str]]) -> Conflict:
    lists = "; ".join(f"{key}: {', '.join(names) or 'none'}" for key, names in wanted.items())
    return Conflict(
        "the lists of this study file can't be edited without losing something; it is unchanged.",
        hint=f"move the tasks by hand: {lists}.",
    )


def _moved(text: str, wanted: dict[str, list[str]]) -> str:
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    root: Any = yaml.compose(text)
    found = {k.value: _read(k, v, lines) for k, v in root.value if k.value in LISTS}
    if any(one is None for one in found.values()):
        raise _unclean(wanted)
    lists = {key: one for key, one in found.items() if one is not None}
    items = {n: (one.dash, rows) for one in lists.values() for n, rows in one.items.items()}
    if any(name not in items for names in wanted.values() for name in names):
        raise _unclean(wanted)
    added = []
    for key in ("held_out", "candidates"):
        if key not in lists and wanted[key]:
            added += [f"{key}:\n", *_rows(wanted[key], items, 2)]
    edits = []
    for key, one in lists.items():
        rows = _rows(wanted[key], items, one.dash)
        if one.key:
            rows = [f"{one.key}\n" if rows else one.key.replace(":", ": []", 1) + "\n", *rows]
        elif not rows:
            head = lines[one.start - 1].replace(f"{key}:", f"{key}: []", 1)
            edits.append((one.start - 1, one.stop, [head]))
            continue
        edits.append((one.start, one.stop, [*rows, *(added if key == "objectives" else ())]))
    for start, stop, rows in sorted(edits, reverse=True):
        lines[start:stop] = rows
    return "".join(lines)


def _rows(names: Sequence[str], items: dict[str, tuple[int, list[str]]], dash: int) -> list[str]:
    """Lines of some items, with their dashes in one column."""
    rows = []
    for name in names:
        column, lines = items[name]
        for line in lines:
            bare = line.lstrip(" ")
            rows.append(" " * max(0, len(line) - len(bare) + dash - column) + bare)
    return rows


def _read(key: Any, node: Any, lines: Sequence[str]) -> _List | None:
    """One list as lines; None if it is written in a way that can't be taken apart."""
    if not isinstance(node, yaml.SequenceNode) or any(_name(i) is None for i in node.value):
        return None
    if node.flow_style:
        return _bracketed(key, node, lines)
    if node.start_mark.line == key.start_mark.line:
        return None
    items, at = {}, key.start_mark.line + 1
    for item in node.value:
        stop = _last_line(item) + 1
        items[str(_name(item))] = list(lines[at:stop])
        at = stop
    return _List(key.start_mark.line + 1, at, node.start_mark.column, items)


def _bracketed(key: Any, node: Any, lines: Sequence[str]) -> _List | None:
    """A list in brackets; comments inside could not be told to belong to one item."""
    first, last = node.start_mark, node.end_mark
    inside = "".join(lines[first.line : last.line + 1])
    after = lines[last.line][last.column :].strip()
    if first.line != key.start_mark.line or "#" in inside.replace(after, "", 1):
        return None
    buffer = "".join(lines)
    items = {
        str(_name(i)): [f"  - {' '.join(buffer[i.start_mark.index : i.end_mark.index].split())}\n"]
        for i in node.value
    }
    head = f"{lines[first.line][: first.column].rstrip()} {after}".rstrip()
    return _List(first.line, last.line + 1, 2, items, head)


def _name(item: Any) -> str | None:
    if not isinstance(item, yaml.MappingNode):
        return None
    return next((str(v.value) for k, v in item.value if k.value == "name"), None)


def _last_line(node: Any) -> int:
    """The line that a node's last character is on; marks of blocks point behind blank lines."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        at = node.end_mark
        return int(at.line - 1 if at.column == 0 and at.line > node.start_mark.line else at.line)
    last = node.value[-1]
    return _last_line(last[1] if isinstance(node, yaml.MappingNode) else last)


def _copy(path: Path, content: bytes) -> Path:
    """A copy of the file's content under the first free name beside it."""
    number = 1
    while True:
        copy = path.with_name(f"{path.name}.before-scout{f'-{number}' if number > 1 else ''}")
        try:
            with copy.open("xb") as handle:
                handle.write(content)
        except FileExistsError:
            number += 1
            continue
        return copy
