"""Parts of a measure: digests of documents, code and tokenizers, and versions of packages.

No part depends on a path or a time: the same files in another folder give the same parts.
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recycler.checkpoints.header import open_regular
from recycler.evaluate.items import content_of

# Files of a checkpoint's folder that decide the tokens of a text.
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")
_MODELS = ("*.model", "*.tiktoken", "chat_template*")


def digest(*contents: str | bytes) -> str:
    """Digest of a sequence of texts, with their lengths."""
    sha = hashlib.sha256()
    for content in contents:
        held = content.encode() if isinstance(content, str) else content
        sha.update(len(held).to_bytes(8, "little") + held)
    return f"sha256:{sha.hexdigest()[:32]}"


def documents_digest(documents: Iterable[tuple[Any, Any]]) -> str:
    """Digest of ordered (id, document) pairs; the id is None where it does not matter."""
    return digest(*(f"{number}\0{content_of(document)}" for number, document in documents))


def versions(*packages: str) -> dict[str, str]:
    """Part name -> version, for each package that is installed."""
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
    return digest(*(part for name, file in named for part in (name, _content(file))))


def _content(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.read()


def model_digests(folder: str | Path) -> dict[str, str]:
    """Digests of the files besides the weights that decide the scores of a model in a folder."""
    configs = [Path(folder) / name for name in ("config.json", "generation_config.json")]
    parts = [(file.name, _content(file)) for file in configs if file.is_file()]
    return {
        "config": digest(*(part for pair in parts for part in pair)),
        "tokenizer": tokenizer_digest(folder),
    }


def sources(files: Iterable[Path], roots: Sequence[Path]) -> dict[str, str]:
    """Digest of Python files and of the local modules that they import, directly or not.

    Args:
        files: the Python files.
        roots: folders in which modules are looked up, besides that of the importing file.

    Returns:
        `helper NAME` -> digest; NAME is the path relative to the first root that contains it.
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
    """Return the files that a Python file imports from `homes`, by its import statements."""
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
    """Return the parts sorted by name, without empty ones."""
    return {name: parts[name] for name in sorted(parts) if parts[name] not in ("", None)}
