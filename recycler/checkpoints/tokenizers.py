"""Tokenizers and chat templates of checkpoints, read as data and compared."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recycler.checkpoints.findings import WARNING, Finding, short
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import brief, open_regular, read_json
from recycler.errors import BrokenCheckpoint

TOKENIZER = "tokenizer.json"
_SLOW_TOKENIZER = ("tokenizer.model", "vocab.json", "merges.txt")  # without a tokenizer.json
_TOKENIZER_SETTINGS = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
)
_TEMPLATE_LIMIT = 1 << 18  # bytes of a template that are compared
_READ = 1 << 16  # bytes of two files compared at a time


class Tables:
    """Tokenizer files, each parsed once; empty if missing or unreadable."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, Any]] = {}

    def __getitem__(self, file: Path) -> dict[str, Any]:
        if file not in self._known:
            try:
                self._known[file] = read_json(file)
            except BrokenCheckpoint:
                self._known[file] = {}
        return self._known[file]


def tokens_of(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Number -> token of a tokenizer.json, including added tokens."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    tokens: dict[int, str] = {}
    if isinstance(vocabulary, dict):  # BPE, WordPiece
        tokens = {i: token for token, i in vocabulary.items() if type(i) is int}
    elif isinstance(vocabulary, list):  # Unigram: [token, score]
        pairs = enumerate(vocabulary)
        tokens = {i: str(pair[0]) for i, pair in pairs if isinstance(pair, list) and pair}
    for entry in added if isinstance(added, list) else []:
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            tokens[entry["id"]] = str(entry.get("content"))
    return tokens


def tokenizer_findings(first: Checkpoint, other: Checkpoint, tables: Tables) -> Iterator[Finding]:
    def finding(file: str, found: str, expected: str) -> Finding:
        return Finding(
            code="tokenizer",
            severity=WARNING,
            checkpoint=other.name,
            file=file,
            found=found,
            expected=f"{expected} as in {first.name!r}",
            hint="merges use the tokenizer of the first checkpoint; embedding rows must "
            "mean the same tokens everywhere.",
        )

    files = first.path / TOKENIZER, other.path / TOKENIZER
    if not same_file(*files) and (difference := _difference(*files, tables)):
        yield finding(TOKENIZER, *difference)
    if not all(os.path.lexists(file) for file in files):
        for name in _SLOW_TOKENIZER:
            if not same_file(first.path / name, other.path / name):
                yield finding(name, "another or no such file", "the same file")
    theirs, mine = (tables[c.path / "tokenizer_config.json"] for c in (first, other))
    for key in _TOKENIZER_SETTINGS:
        expected, found = _content(theirs.get(key)), _content(mine.get(key))
        if expected is not None and found is not None and expected != found:
            said = f"{key} {short(found)}", f"{key} {short(expected)}"
            yield finding("tokenizer_config.json", *said)


def _difference(first: Path, other: Path, tables: Tables) -> tuple[str, str] | None:
    """What another tokenizer.json has, and what was expected; None if only the layout differs."""
    if not (os.path.lexists(first) and os.path.lexists(other)):
        return (
            ("no such file", "a tokenizer") if os.path.lexists(first) else ("one", "no such file")
        )
    theirs, mine = tables[first], tables[other]
    if theirs == mine:
        return None
    if not mine:
        return "nothing that can be read", "a tokenizer"
    expected, found = tokens_of(theirs), tokens_of(mine)
    apart = [i for i in expected.keys() | found.keys() if expected.get(i) != found.get(i)]
    if apart:
        return _told(found, min(apart)), _told(expected, min(apart))
    parts = sorted(k for k in theirs.keys() | mine.keys() if theirs.get(k) != mine.get(k))
    return f"the same {len(found)} tokens with another {', '.join(parts)}", "the same"


def _told(tokens: Mapping[int, str], number: int) -> str:
    what = f"token {number} is {brief(tokens[number])}" if number in tokens else f"no {number}"
    return f"{len(tokens)} tokens, {what}"


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def template_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    (_, expected), (file, found) = template_of(first), template_of(other)
    if found != expected:
        yield Finding(
            code="chat-template",
            severity=WARNING,
            checkpoint=other.name,
            file=file,
            found=_line(found, expected),
            expected=f"{_line(expected, found)} as in {first.name!r}",
            hint="a merge uses the template of the first checkpoint, or of the donor "
            "of an export.",
        )


def template_of(checkpoint: Checkpoint) -> tuple[str, str]:
    """Where the chat template is and what it says, looked up as transformers does."""
    jinja = checkpoint.path / "chat_template.jinja"
    try:
        if os.path.lexists(jinja):
            with open_regular(jinja) as file:
                return jinja.name, file.read(_TEMPLATE_LIMIT).decode("utf-8", "replace")
        found = read_json(checkpoint.path / "tokenizer_config.json").get("chat_template")
    except BrokenCheckpoint:
        found = None
    text = found if isinstance(found, str) else repr(found) if found else ""
    return "tokenizer_config.json", text


def _line(text: str, other: str) -> str:
    """The first line of a template that another one lacks."""
    if not text:
        return "no chat template"
    mine, theirs = text.splitlines(), other.splitlines()
    pairs = enumerate(mine, start=1)
    number, line = next(
        ((i, line) for i, line in pairs if i > len(theirs) or theirs[i - 1] != line),
        (len(mine), mine[-1] if mine else ""),
    )
    return f"a chat template with line {number} {brief(line)}"


def same_file(a: Path, b: Path) -> bool:
    """Whether both are missing, or both are readable and have equal bytes."""
    present = [os.path.lexists(file) for file in (a, b)]
    if not all(present):
        return not any(present)
    try:
        with open_regular(a) as one, open_regular(b) as two:
            stats = [os.fstat(file.fileno()) for file in (one, two)]
            if os.path.samestat(*stats):  # links of the hub's cache to one file
                return True
            if stats[0].st_size != stats[1].st_size:
                return False
            while block := one.read(_READ):
                if block != two.read(_READ):
                    return False
            return True
    except (BrokenCheckpoint, OSError):
        return False
