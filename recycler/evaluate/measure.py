"""What decides a score, as short parts that can be compared: digests of data, code and versions.

No part holds a path or a time: the same files elsewhere give the same parts.
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recycler.evaluate.items import content_of

# Files of a checkpoint's folder that decide what a text's tokens are.
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")
_MODELS = ("*.model", "*.tiktoken", "chat_template*")


def digest(*contents: str | bytes) -> str:
    """One digest over texts, each told apart from the next."""
    sha = hashlib.sha256()
    for content in contents:
        held = content.encode() if isinstance(content, str) else content
        sha.update(len(held).to_bytes(8, "little") + held)
    return f"sha256:{sha.hexdigest()[:32]}"


def documents_digest(documents: Iterable[tuple[Any, Any]]) -> str:
    """Digest of (id, document) pairs in their order; where no id matters it is None."""
    return digest(*(f"{number}\0{content_of(document)}" for number, document in documents))


def versions(*packages: str) -> dict[str, str]:
    """Part name -> version of each package that is installed."""
    found = {}
    for package in packages:
        try:
            found[f"version of {package}"] = version(package)
        except PackageNotFoundError:
            continue
    return found


def tokenizer_digest(folder: str | Path) -> str:
    """Digest of the tokenizer's files in a checkpoint's folder."""
    files = {file for pattern in (*_TOKENIZER, *_MODELS) for file in Path(folder).glob(pattern)}
    named = sorted((file.name, file) for file in files if file.is_file())
    return digest(*(part for name, file in named for part in (name, file.read_bytes())))


def sources(files: Iterable[Path], roots: Sequence[Path]) -> dict[str, str]:
    """Digest of each Python file, and of every module beside it or in `roots` that it imports.

    Args:
        files: where to begin.
        roots: folders that names of modules are looked up in, besides that of each file.

    Returns:
        `helper NAME` -> digest; the name is relative to the first root that holds the file.
    """
    homes = [root.resolve() for root in roots]
    waiting, seen = [file.resolve() for file in files], set[Path]()
    while waiting:
        file = waiting.pop()
        if file in seen or file.suffix != ".py":
            continue
        seen.add(file)
        waiting += _imported(file, [file.parent, *homes])
    named: dict[str, list[str]] = {}
    for file in sorted(seen):
        home = next((root for root in homes if file.is_relative_to(root)), file.parent)
        named.setdefault(file.relative_to(home).as_posix(), []).append(digest(file.read_bytes()))
    return {f"helper {name}": digest(*found) for name, found in named.items()}


def _imported(file: Path, homes: Sequence[Path]) -> list[Path]:
    """Files that a Python file imports from some folders, as far as its text tells."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, places = [alias.name for alias in node.names], homes
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]
            up = max(node.level - 1, 0)
            places = [[file.parent, *file.parents[1:]][up]] if node.level else homes
        else:
            continue
        for name in filter(None, names):
            steps = name.split(".")
            paths = [home.joinpath(*steps[: k + 1]) for home in places for k in range(len(steps))]
            found += [p.with_suffix(".py") for p in paths if p.with_suffix(".py").is_file()]
            found += [p / "__init__.py" for p in paths if (p / "__init__.py").is_file()]
    return found


def plain(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts in the order of their names, without those that are empty."""
    return {name: parts[name] for name in sorted(parts) if parts[name] not in ("", None)}
