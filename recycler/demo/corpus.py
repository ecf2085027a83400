"""Texts and generated exercises for training and testing the demo pool.

The texts are real: Python source code (`code`), the language reference and the docstrings of the
standard library (`prose`), and the C headers of CPython (`headers`, for tests only). All come
with the running Python under the licence of the Python Software Foundation (PSF-2.0,
https://docs.python.org/3/license.html). The exercises are drawn from seeded generators.

Training and test texts are disjoint: a source file or topic belongs to one side by a hash of its
name, and no test chunk shares a run of 47 bytes with the training side. An exercise whose prompt
is a test item is never drawn for training. Nothing here needs torch.
"""

import ast
import hashlib
import inspect
import json
import random
import string
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

TEXTS = ("code", "prose")
CHUNK = 128
TEXT_ITEMS = 1000
EXERCISE_ITEMS = 1600
RECALL_VALUES = "12345"
_TEST_SHARE = 0.2
_WINDOW = 40
_SKIPPED = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
    "turtledemo",
    "ensurepip",
    "__pycache__",
}


@dataclass(frozen=True, slots=True)
class Exercise:
    """One generated item: the prompt the model sees and the answer it should write."""

    prompt: str
    answer: str


def arithmetic(rng: random.Random) -> Exercise:
    """Draw an addition or subtraction of numbers below 100 with a non-negative result."""
    a, b = rng.randrange(100), rng.randrange(100)
    if rng.random() < 0.5:
        return Exercise(f"{a}+{b}=", str(a + b))
    a, b = max(a, b), min(a, b)
    return Exercise(f"{a}-{b}=", str(a - b))


def _recall(rng: random.Random, pairs: int) -> Exercise:
    """Draw `pairs` letters, each followed by its digit, and ask for the digit of one letter.

    The answer continues with the pairs that follow, wrapping round to the one that was asked for.
    """
    keys = rng.sample(string.ascii_lowercase, pairs)
    shown = [key + rng.choice(RECALL_VALUES) for key in keys]
    asked = rng.randrange(pairs)
    answer = "".join(shown[asked:] + shown[:asked])
    return Exercise(f"{' '.join(shown)}?{answer[0]}", answer[1:])


def recall(rng: random.Random) -> Exercise:
    """Draw a look-up among four to seven pairs."""
    return _recall(rng, rng.randint(4, 7))


def recall_long(rng: random.Random) -> Exercise:
    """Draw a look-up among 14 to 16 pairs, twice as many as any training item has."""
    return _recall(rng, rng.randint(14, 16))


def brackets(rng: random.Random) -> Exercise:
    """Draw an unfinished bracket expression; the answer closes what is still open."""
    while True:
        shown, closers = "", ""
        for _ in range(rng.randint(12, 24)):
            if closers and rng.random() < 0.48:
                shown, closers = shown + closers[0], closers[1:]
            else:
                opener, closer = rng.choice(("()", "[]", "{}", "<>"))
                shown, closers = shown + opener, closer + closers
        if 1 <= len(closers) <= 8:
            return Exercise(f"{shown}?", closers)


def sorting(rng: random.Random) -> Exercise:
    """Draw seven different letters; the answer has them in alphabetical order."""
    letters = rng.sample(string.ascii_lowercase, 7)
    return Exercise("".join(letters) + ">", "".join(sorted(letters)))


EXERCISES: dict[str, Callable[[random.Random], Exercise]] = {
    "arithmetic": arithmetic,
    "recall": recall,
    "brackets": brackets,
    "sorting": sorting,
}
_TEST_EXERCISES = {**EXERCISES, "recall-long": recall_long}
_CHOICES = {"recall": RECALL_VALUES, "recall-long": RECALL_VALUES, "brackets": ")]}>"}


def exercise_items(name: str) -> tuple[Exercise, ...]:
    """Return the `EXERCISE_ITEMS` test items of one exercise, always the same."""
    rng = random.Random(f"test {name}")
    items: dict[str, Exercise] = {}
    while len(items) < EXERCISE_ITEMS:
        item = _TEST_EXERCISES[name](rng)
        items[item.prompt] = item
    return tuple(items.values())


def training_exercises(name: str, seed: int) -> Iterator[Exercise]:
    """Yield training items of one exercise without end, none of them a test item."""
    taken = {item.prompt for item in exercise_items(name)}
    rng = random.Random(f"train {name} {seed}")
    while True:
        item = EXERCISES[name](rng)
        if item.prompt not in taken:
            yield item


def _is_test(name: str) -> bool:
    """Tell whether the source called `name` belongs to the test side."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4]) < _TEST_SHARE * 2**32


@cache
def _modules() -> dict[str, str]:
    """Return the source text of the standard library's modules by path."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _SKIPPED.isdisjoint(name.parts) and not name.name.startswith("_sysconfig"):
            found[name.as_posix()] = path.read_text(encoding="utf-8", errors="ignore")
    return found


def _docstrings(tree: ast.Module) -> list[ast.Constant]:
    """Return the docstring nodes of a module, its classes and its functions."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found: list[ast.Constant] = []
    for node in ast.walk(tree):
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.append(value)
    return found


def _code_and_docs(source: str) -> tuple[str, str]:
    """Split a module into its code without docstrings and its longer docstrings."""
    lines = source.splitlines()
    docs: list[str] = []
    for node in _docstrings(ast.parse(source)):
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[number] = ""
        text = inspect.cleandoc(str(node.value))
        if len(text) >= 200:
            docs.append(text)
    return "\n".join(line for line in lines if line.strip()), "\n\n".join(docs)


def _plain(text: str) -> str:
    """Return the text with printable ASCII only, without rulers and runs of empty lines."""
    kept: list[str] = []
    for line in text.splitlines():
        clean = "".join(c for c in line.rstrip() if c in string.printable)
        if len(clean) > 3 and len(set(clean.strip())) == 1:
            continue
        if clean or (kept and kept[-1]):
            kept.append(clean)
    return "\n".join(kept)


@cache
def _sources(kind: str) -> dict[str, str]:
    """Return the clean texts of one kind (`code`, `prose` or `headers`) by source name."""
    if kind == "headers":
        root = Path(sysconfig.get_path("include"))
        paths = (path for path in sorted(root.rglob("*.h")) if path.name != "pyconfig.h")
        return {p.as_posix(): _plain(p.read_text("utf-8", "ignore")) for p in paths}
    part = TEXTS.index(kind)
    found = {name: _plain(_code_and_docs(text)[part]) for name, text in _modules().items()}
    if kind == "prose":
        found |= {f"topic {name}": _plain(text) for name, text in topics.items()}
    return found


def training_text(kind: str) -> bytes:
    """Return the training side of one kind of text, its sources joined by an empty line."""
    return "\n\n".join(
        text for name, text in _sources(kind).items() if text and not _is_test(name)
    ).encode("ascii")


@cache
def _training_windows() -> frozenset[str]:
    """Return every `_WINDOW`-byte piece of the training texts that starts at a multiple of 8."""
    return frozenset(
        text[start : start + _WINDOW]
        for text in (training_text(kind).decode("ascii") for kind in TEXTS)
        for start in range(0, len(text) - _WINDOW + 1, 8)
    )


def _is_fresh(chunk: str) -> bool:
    """Tell whether `chunk` shares no run of `_WINDOW` + 7 bytes with the training texts."""
    seen = _training_windows()
    return all(chunk[i : i + _WINDOW] not in seen for i in range(len(chunk) - _WINDOW + 1))


def text_items(kind: str) -> tuple[str, ...]:
    """Return the test chunks of one kind of text: `TEXT_ITEMS` pieces of `CHUNK` bytes."""
    chunks: set[str] = set()
    for name, text in _sources(kind).items():
        if kind == "headers" or _is_test(name):
            chunks |= {text[i : i + CHUNK] for i in range(0, len(text) - CHUNK + 1, CHUNK)}
    ordered = sorted(chunks)
    random.Random(f"test {kind}").shuffle(ordered)
    return tuple(islice(filter(_is_fresh, ordered), TEXT_ITEMS))


def _row(name: str, item: Exercise) -> dict[str, str | int]:
    """Return one line of a task's items; a multiple choice has the index of its answer."""
    if name not in _CHOICES:
        return {"prompt": item.prompt, "answer": item.answer}
    return {"prompt": item.prompt, "label": _CHOICES[name].index(item.answer[0])}


def write_items(folder: Path) -> None:
    """Write the items of every task as `<task>.jsonl` into `folder`."""
    rows: dict[str, list[dict[str, str | int]]] = {
        kind: [{"text": text} for text in text_items(kind)] for kind in (*TEXTS, "headers")
    }
    for name in _TEST_EXERCISES:
        rows[name] = [_row(name, item) for item in exercise_items(name)]
    folder.mkdir(parents=True, exist_ok=True)
    for task, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")
