"""The map in recycler/README.md lists every module once, with its docstring's first line."""

import ast
import re
from pathlib import Path

import recycler

PACKAGE = Path(recycler.__file__).parent
README = (PACKAGE / "README.md").read_text(encoding="utf-8")


def listed():
    (block,) = re.findall(r"^```map\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [tuple(line.split(maxsplit=1)) for line in block.splitlines()]


def present():
    """Module name -> first line of its docstring, for every file but the package's own."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[name] = text.partition("\n")[0]
    found.pop("")
    return found


def test_the_map_lists_every_module_exactly_once():
    names = [name for name, *_ in listed()]
    assert sorted(names) == sorted(present())


def test_the_map_says_what_the_docstrings_say():
    assert dict(listed()) == present()


def test_the_map_stands_in_one_column():
    (block,) = re.findall(r"^```map\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    columns = {re.match(r"\S+\s+", line).end() for line in block.splitlines()}
    assert len(columns) == 1


def test_every_module_has_a_first_line_that_is_a_sentence():
    for name, line in present().items():
        assert line.endswith((".", ":")), name
        assert len(line) <= 100, name
