"""Look up an implementation by name: in a table of built-in ones, then among entry points.

Third parties register under the entry-point group `recycler.samplers`, `recycler.merge_methods`,
`recycler.evaluators` or `recycler.executors`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from recycler.errors import InvalidConfig


def resolve(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return the implementation called `name`.

    Args:
        what: the kind, such as `merge method`; also gives the entry-point group.
        name: name as the user wrote it.
        table: built-in implementations; a string `module:attribute` is imported.

    Raises:
        InvalidConfig: no such name; the hint has the nearest and all known names.
    """
    if name in table:
        found = table[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = getattr(import_module(module), attribute)
        return found
    others = entry_points(group=f"recycler.{what.replace(' ', '_')}s")
    for entry in others:
        if entry.name == name:
            return entry.load()
    known = sorted({*table, *(entry.name for entry in others)})
    near = get_close_matches(name, known, n=1)
    raise InvalidConfig(
        f"{name!r} is not {'an' if what[0] in 'aeiou' else 'a'} {what}.",
        hint=(f"did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(known)}.",
    )
