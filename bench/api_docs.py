"""docs/api.md, made from the docstrings of everything public.

`python bench/api_docs.py` prints it; `--write` writes docs/api.md. `tests/test_python_api.py` holds the file to
the docstrings.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recycler

FILE = Path(__file__).parent.parent / "docs" / "api.md"
# What public functions and attributes return, besides the names that `import recycler` has.
MORE = (
    ("recycler.front.results", "Results"),
    ("recycler.front.front", "Member"),
    ("recycler.front.decision", "Decision"),
    ("recycler.front.verdict", "Verdict"),
    ("recycler.front.verdict", "Rival"),
    ("recycler.front.paired", "Difference"),
    ("recycler.front.compare", "Comparison"),
    ("recycler.front.compare", "Change"),
    ("recycler.front.compare", "Items"),
    ("recycler.front.compare", "Item"),
    ("recycler.nouns.trial", "Trial"),
    ("recycler.nouns.evaluation", "Evaluation"),
    ("recycler.nouns.evaluation", "Score"),
    ("recycler.nouns.evaluation", "Outcomes"),
    ("recycler.nouns.plan", "Plan"),
    ("recycler.submit.config", "ExecutionSection"),
    ("recycler.client", "Client"),
    ("recycler.client.events", "Event"),
    ("recycler.nouns.operation", "Operation"),
)
_HEAD = """# Python API

Made from the docstrings by `python bench/api_docs.py --write`. `import recycler` loads nothing heavy; names are
imported when first used. *Scores* are raw, in the unit and direction of their objective; *gains* are
larger-is-better. Letters in shapes: n checkpoints, m objectives, k trials or members. Every error is a
`RecyclerError` with `message`, `hint` and a stable `code`.

"""


def document() -> str:
    """The whole page."""
    public = [(name, getattr(recycler, name)) for name in recycler.__all__]
    more = [(name, getattr(importlib.import_module(home), name)) for home, name in MORE]
    parts = [_HEAD, "## `recycler`\n\n", *(_entry(name, thing) for name, thing in public)]
    parts += ["## What they return\n\n", *(_entry(name, thing) for name, thing in more)]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).rstrip() + "\n"


def _entry(name: str, thing: Any) -> str:
    """A class with its public members, or a function."""
    if not inspect.isclass(thing):
        return f"### {name}\n\n```python\n{_signature(name, thing)}\n```\n\n{_text(thing)}\n"
    lines = [f"### {name}\n\n", f"`{thing.__module__}.{name}`\n\n", _text(thing), "\n"]
    made = thing.__dict__.get("__init__")
    if made is not None and not dataclasses.is_dataclass(thing) and inspect.getdoc(made):
        lines += [f"```python\n{_signature(name, made)}\n```\n\n{_text(made)}\n"]
    for label, member in _members(thing):
        lines.append(f"#### {name}.{label}\n\n")
        if isinstance(member, property):
            kind = inspect.signature(member.fget).return_annotation
            lines.append(
                f"Property: `{_plain(inspect.formatannotation(kind))}`\n\n{_text(member)}\n"
            )
        else:
            lines.append(f"```python\n{_signature(label, member)}\n```\n\n{_text(member)}\n")
    return "".join(lines)


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class and of its bases here that have a docstring."""
    own = {key: raw for base in reversed(thing.__mro__[:-1]) for key, raw in vars(base).items()
           if base.__module__.startswith("recycler")}  # fmt: skip
    for label, raw in own.items():
        member = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if hasattr(member, "func"):  # functools.cached_property
            member = property(member.func)
        known = isinstance(member, property) or inspect.isfunction(member)
        if known and not label.startswith("_") and inspect.getdoc(member):
            yield label, member


def _signature(name: str, function: Any) -> str:
    """One line, or one parameter a line; without `self`."""
    found = inspect.signature(function)
    kept = [p for key, p in found.parameters.items() if key not in ("self", "cls")]
    parts = [_plain(str(p)) for p in kept]
    first = next((i for i, p in enumerate(kept) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None and not any(p.kind is p.VAR_POSITIONAL for p in kept):
        parts.insert(first, "*")
    back = found.return_annotation
    end = "" if back in (found.empty, None) else f" -> {_plain(inspect.formatannotation(back))}"
    line = f"{name}({', '.join(parts)}){end}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def _plain(text: str) -> str:
    """An annotation without module names and quotes, and a default without an address."""
    text = re.sub(r"<function .*?<lambda> at 0x[0-9a-f]+>|<function (\w+)[^>]*>", "…", text)
    text = text.replace(
        "numpy.ndarray[tuple[typing.Any, ...], numpy.dtype[numpy.float64]]", "Array"
    )
    text = re.sub(r"\b(?:[a-z_0-9]+\.)+(?=[A-Z])", "", text)
    text = re.sub(r"'([\w.\[\], |]+)'(?= *(=|$))", r"\1", text)
    return text.replace("collections.abc.", "").replace("~", "")


def _text(thing: Any) -> str:
    """A docstring as markdown: its sections become lists."""
    lines, found, listed = (inspect.getdoc(thing) or "").splitlines(), list[str](), False
    for line in lines:
        if re.fullmatch(r"(Args|Attributes|Returns|Raises|Invariants):", line):
            found += ["", f"**{line[:-1]}**", ""]
            listed = line[:-1] in ("Args", "Attributes", "Raises")
        elif listed and re.match(r"    \S", line):
            label, _, rest = line.strip().partition(":")
            found.append(f"- `{label}`:{rest}")
        elif line.startswith("    "):
            found.append(("  " if listed else "") + line.strip())
        else:
            listed = False
            found.append(line)
    return "\n".join(found).strip() + "\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        FILE.write_text(document(), encoding="utf-8")
    else:
        print(document(), end="")


if __name__ == "__main__":
    main()
