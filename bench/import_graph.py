"""Graph of imports between the package's folders: `python bench/import_graph.py [--png FILE]`.

An arrow a -> b means that a module of a names a module of b: in any import (under TYPE_CHECKING too), in
`lazy("recycler.…")` or in a table of "recycler.module:name". The exit code is 1 if an arrow runs against the
order of the map in recycler/README.md, or if there is a cycle.
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from matplotlib.figure import Figure

PACKAGE = Path(__file__).parent.parent / "recycler"
SPELLED = r"recycler(\.\w+)+(:\w+)?"


def modules() -> dict[str, Path]:
    """Dotted name below `recycler` -> file."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def order() -> list[str]:
    """Return the modules in the order of the map."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```map\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.split()[0] for line in block.splitlines()]


def named(tree: ast.AST) -> set[str]:
    """Return the modules of the package that a source imports or names in a string."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(SPELLED, str(node.value)):
            found.add(node.value.partition(":")[0])
    return {name.removeprefix("recycler.") for name in found if name.startswith("recycler.")}


def arrows() -> dict[str, dict[str, set[str]]]:
    """Folder -> folder that it imports -> the importing modules."""
    known = modules()
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, file in known.items():
        if not name:  # the package itself is the table of public names
            continue
        for target in named(ast.parse(file.read_text(encoding="utf-8"))):
            while target and target not in known:
                target = target.rpartition(".")[0]
            here, there = name.split(".")[0], target.split(".")[0]
            if there and here != there:
                found[here][there].add(name)
    return found


def draw(rooms: list[str], found: dict[str, dict[str, set[str]]], file: Path) -> None:
    """Draw the folders in the order of the map; all arrows should point up."""
    figure = Figure(figsize=(9, 0.5 * len(rooms) + 1), dpi=120)
    axis = figure.subplots()
    for here, others in found.items():
        for there in others:
            a, b = rooms.index(here), rooms.index(there)
            axis.annotate(
                "", xy=(0, -b), xytext=(0, -a),
                arrowprops={"arrowstyle": "->", "color": "#0072B2" if b < a else "#D55E00", "alpha": 0.5,
                            "connectionstyle": f"arc3,rad={0.5 if b < a else -0.5}"},
            )  # fmt: skip
    for row, room in enumerate(rooms):
        axis.text(-0.06, -row, room, ha="right", va="center", fontsize=10)
    axis.set(xlim=(-1.2, 2.0), ylim=(-len(rooms), 1))
    axis.axis("off")
    figure.savefig(file)


def main() -> int:
    """Print the arrows; return 0 if all point up the map and there is no cycle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    rooms = list(dict.fromkeys(name.split(".")[0] for name in order()))
    found, wrong = arrows(), []
    for room in rooms:
        others = sorted(found.get(room, {}), key=rooms.index)
        print(f"{room:<14} -> {', '.join(others) or 'nothing'}")
        wrong += [(room, other) for other in others if rooms.index(other) > rooms.index(room)]
    for here, there in wrong:
        print(f"BACK UP: {here} -> {there} ({', '.join(sorted(found[here][there]))})")
    try:
        TopologicalSorter({room: set(others) for room, others in found.items()}).prepare()
        circle = []
    except CycleError as error:
        circle = error.args[1]
        print(f"CYCLE: {' -> '.join(circle)}")
    if arguments.png:
        draw(rooms, found, arguments.png)
    print(f"{len(rooms)} rooms, {sum(map(len, found.values()))} arrows, {len(wrong)} back up.")
    return 1 if wrong or circle else 0


if __name__ == "__main__":
    sys.exit(main())
