"""What sets checkpoints apart: findings from headers, configs and tokenizers, no tensor read.

Codes, errors first: `not-found`, `unreadable`, `truncated`, `header`, `layout`, `dtype-unknown`,
`index`, `json`, `not-a-file`, `empty`, `pickle`, `lfs-pointer`, `format`, `adapter`, `changed`,
`tensor-twice`, `same-folder`, `quantised`, `vocabulary`, `architecture`, `config`, `tensor-missing`,
`tensor-extra`, `shape`; a deep check adds `not-finite` and `integers`. Warnings: `config` and
`vocabulary` (some), `dtype`, `tokenizer`, `chat-template`, `base-member`; deep adds `duplicate`.

May import: errors, checkpoint.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint, brief, open_regular, read_json
from recycler.errors import BrokenCheckpoint, RecyclerError

ERROR, WARNING = "error", "warning"
# Settings that change what the same tensors compute: they must agree.
_MUST_AGREE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "vocab_size",
)
_SHOULD_AGREE = (
    "architectures",
    "model_type",
    "rope_parameters",  # with rope_theta and rope_scaling, as older saves have it
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "sliding_window",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_TOKENIZER = "tokenizer.json"
_SLOW_TOKENIZER = ("tokenizer.model", "vocab.json", "merges.txt")  # where there is no other
_TOKENIZER_SETTINGS = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
)
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
_TEMPLATE_LIMIT = 1 << 18  # bytes of a template that are compared
_READ = 1 << 16  # bytes of two files compared at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing the check found: where, what, what was expected and what to do."""

    code: str
    severity: str
    checkpoint: str
    found: str
    expected: str
    hint: str
    file: str = ""
    tensor: str = ""

    @classmethod
    def of(cls, error: RecyclerError, checkpoint: str) -> "Finding":
        """The finding that an error while a checkpoint was opened or read amounts to."""
        broken = isinstance(error, BrokenCheckpoint)
        return cls(
            code=error.code if isinstance(error, BrokenCheckpoint) else "not-found",
            severity=ERROR,
            checkpoint=checkpoint,
            found=error.message.rstrip("."),
            expected="a readable safetensors checkpoint" if broken else "a folder",
            hint=error.hint,
            file=error.file if isinstance(error, BrokenCheckpoint) else "",
            tensor=error.tensor if isinstance(error, BrokenCheckpoint) else "",
        )

    def __str__(self) -> str:
        where = " · ".join(part for part in (self.checkpoint, self.file, self.tensor) if part)
        return printable(f"{where}: found {self.found}, expected {self.expected}")


def printable(text: str) -> str:
    """Text from a file, safe on a terminal: control characters and broken Unicode are escaped."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def compare(checkpoints: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Everything that would spoil a merge, each checkpoint held against the first."""
    first, tables = checkpoints[0], _Tables()
    for checkpoint in checkpoints:
        yield from _own_findings(checkpoint)
    yield from _vocabulary_findings(first, tables)
    for other in checkpoints[1:]:
        if not _same_file(first.path / _TOKENIZER, other.path / _TOKENIZER):
            yield from _vocabulary_findings(other, tables)
        strange = list(_architecture_findings(first, other))
        yield from strange or _config_findings(first, other)
        yield from _tensor_findings(first, other)
        yield from _tokenizer_findings(first, other, tables)
        yield from _template_findings(first, other)


class _Tables:
    """Tokenizer files, each parsed once; empty where it is missing or not readable."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, Any]] = {}

    def __getitem__(self, file: Path) -> dict[str, Any]:
        if file not in self._known:
            try:
                self._known[file] = read_json(file)
            except BrokenCheckpoint:
                self._known[file] = {}
        return self._known[file]


# --- one checkpoint ---


def _own_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    quantised = checkpoint.config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        yield Finding(
            code="quantised",
            severity=ERROR,
            checkpoint=checkpoint.name,
            file="config.json",
            found=f"weights quantised by {_short(method)}",
            expected="weights as they were trained",
            hint="quantised numbers can't be averaged; take the checkpoint from before.",
        )
    rows, size = _rows(checkpoint), _settings(checkpoint).get("vocab_size")
    if rows is not None and size is not None and size != rows:
        yield Finding(
            code="vocabulary",
            severity=ERROR,
            checkpoint=checkpoint.name,
            file="config.json",
            found=f"vocab_size {_short(size)}",
            expected=f"{rows}, the rows of its embedding",
            hint="such a model can't be loaded; restore the config.json that was saved with it.",
        )


def _vocabulary_findings(checkpoint: Checkpoint, tables: _Tables) -> Iterator[Finding]:
    rows, tokens = _rows(checkpoint), _tokens(tables[checkpoint.path / _TOKENIZER])
    beyond = [number for number in tokens if rows is not None and number >= rows]
    if beyond:
        yield Finding(
            code="vocabulary",
            severity=WARNING,
            checkpoint=checkpoint.name,
            file=_TOKENIZER,
            found=f"{len(beyond)} tokens without a row of the embedding, first "
            f"{brief(tokens[min(beyond)])} ({min(beyond)})",
            expected=f"tokens below {rows}",
            hint="a text with such a token fails; resize the embedding or remove the tokens.",
        )


def _rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the input embedding; None where it is not recognised."""
    for name, spec in checkpoint.tensors.items():
        if name.removesuffix(".weight").split(".")[-1] in _EMBEDDINGS and len(spec.shape) == 2:
            return spec.shape[0]
    return None


def _tokens(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Number -> token of a tokenizer.json, added tokens included."""
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


# --- two checkpoints ---


def _architecture_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    mine, theirs = _architecture(other), _architecture(first)
    if not any(a and b and _differ(a, b) for a, b in zip(mine, theirs, strict=True)):
        return
    specs = first.tensors.items()
    shared = sum(n in other.tensors and other.tensors[n].shape == s.shape for n, s in specs)
    yield Finding(
        code="architecture",
        severity=ERROR,
        checkpoint=other.name,
        file="config.json",
        found=f"{_called(mine)}, which shares {shared} of {len(first.tensors)} tensors",
        expected=f"{_called(theirs)} as in {first.name!r}",
        hint="only checkpoints of one architecture can be merged; take it out of the pool.",
    )


def _architecture(checkpoint: Checkpoint) -> tuple[Any, Any]:
    return checkpoint.config.get("architectures"), checkpoint.config.get("model_type")


def _called(architecture: tuple[Any, Any]) -> str:
    classes, kind = architecture
    named = isinstance(classes, list) and len(classes) == 1 and isinstance(classes[0], str)
    text = classes[0] if named and classes else _short(classes)
    return f"{text} ({_short(kind)})" if kind else str(text)


def _tensor_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    for name in sorted(first.tensors.keys() | other.tensors.keys()):
        expected, found = first.tensors.get(name), other.tensors.get(name)
        if expected is None or found is None:
            present = other if expected is None else first
            yield Finding(
                code="tensor-extra" if expected is None else "tensor-missing",
                severity=ERROR,
                checkpoint=other.name,
                file=(found or present.tensors[name]).file,
                tensor=name,
                found=str(found) if found else "no such tensor",
                expected=str(expected) if expected else f"no such tensor, as in {first.name!r}",
                hint="pool only checkpoints of one architecture, all tied or all untied.",
            )
        elif expected.shape != found.shape:
            yield Finding(
                code="shape",
                severity=ERROR,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="pool only checkpoints of one architecture and one vocabulary size.",
            )
        elif expected.dtype != found.dtype:
            yield Finding(
                code="dtype",
                severity=WARNING,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="merges are summed in float32 and rounded once, so this is allowed; set "
                "`merge.dtype` to choose the output.",
            )


def _config_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    mine, theirs = _settings(other), _settings(first)
    for key in (*_MUST_AGREE, *_SHOULD_AGREE):
        expected, found = theirs.get(key), mine.get(key)
        if not _differ(expected, found):
            continue
        silent = expected is None or found is None  # one leaves it to the architecture's default
        yield Finding(
            code="config",
            severity=ERROR if key in _MUST_AGREE and not silent else WARNING,
            checkpoint=other.name,
            file="config.json",
            found=f"{key} {_short(found)}",
            expected=f"{_short(expected)} as in {first.name!r}",
            hint="checkpoints with another setting compute something else with the same weights.",
        )


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config in one form: of a multimodal model its text part, and defaults that follow."""
    text = checkpoint.config.get("text_config")
    settings = {**(text if isinstance(text, dict) else {}), **checkpoint.config}
    heads, hidden = settings.get("num_attention_heads"), settings.get("hidden_size")
    if type(heads) is int and heads > 0:
        settings["num_key_value_heads"] = settings.get("num_key_value_heads") or heads
        if type(hidden) is int:
            settings["head_dim"] = settings.get("head_dim") or hidden // heads
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if isinstance(rope, dict) and (rope or "rope_theta" in settings):
        rope = {"rope_type": rope.get("type", "default"), **rope}
        rope.pop("type", None)
        if "rope_theta" in settings:
            rope.setdefault("rope_theta", settings["rope_theta"])
    settings["rope_parameters"] = rope or None
    return settings


def _differ(a: Any, b: Any) -> bool:
    return bool(a != b) and repr(a) != repr(b)  # NaN, which a config may hold, differs from itself


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


# --- tokenizers ---


def _tokenizer_findings(
    first: Checkpoint, other: Checkpoint, tables: _Tables
) -> Iterator[Finding]:
    def finding(file: str, found: str, expected: str) -> Finding:
        return Finding(
            code="tokenizer",
            severity=WARNING,
            checkpoint=other.name,
            file=file,
            found=found,
            expected=f"{expected} as in {first.name!r}",
            hint="merges use the tokenizer of the first checkpoint; rows of the embedding must "
            "mean the same tokens everywhere.",
        )

    files = first.path / _TOKENIZER, other.path / _TOKENIZER
    if not _same_file(*files) and (difference := _difference(*files, tables)):
        yield finding(_TOKENIZER, *difference)
    if not all(os.path.lexists(file) for file in files):
        for name in _SLOW_TOKENIZER:
            if not _same_file(first.path / name, other.path / name):
                yield finding(name, "another or no such file", "the same file")
    theirs, mine = (tables[c.path / "tokenizer_config.json"] for c in (first, other))
    for key in _TOKENIZER_SETTINGS:
        expected, found = _content(theirs.get(key)), _content(mine.get(key))
        if expected is not None and found is not None and expected != found:
            said = f"{key} {_short(found)}", f"{key} {_short(expected)}"
            yield finding("tokenizer_config.json", *said)


def _difference(first: Path, other: Path, tables: _Tables) -> tuple[str, str] | None:
    """What another tokenizer.json has and what was expected; None where only its layout differs."""
    if not (os.path.lexists(first) and os.path.lexists(other)):
        return (
            ("no such file", "a tokenizer") if os.path.lexists(first) else ("one", "no such file")
        )
    theirs, mine = tables[first], tables[other]
    if theirs == mine:
        return None
    if not mine:
        return "nothing that can be read", "a tokenizer"
    expected, found = _tokens(theirs), _tokens(mine)
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


def _template_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    (_, expected), (file, found) = _template(first), _template(other)
    if found != expected:
        yield Finding(
            code="chat-template",
            severity=WARNING,
            checkpoint=other.name,
            file=file,
            found=_line(found, expected),
            expected=f"{_line(expected, found)} as in {first.name!r}",
            hint="a merge is prompted with the template of the first checkpoint, or of the donor "
            "of an export.",
        )


def _template(checkpoint: Checkpoint) -> tuple[str, str]:
    """Where the chat template is and what it says, as transformers looks for it."""
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
    """The first line of a template that another lacks."""
    if not text:
        return "no chat template"
    mine, theirs = text.splitlines(), other.splitlines()
    pairs = enumerate(mine, start=1)
    number, line = next(
        ((i, line) for i, line in pairs if i > len(theirs) or theirs[i - 1] != line),
        (len(mine), mine[-1] if mine else ""),
    )
    return f"a chat template with line {number} {brief(line)}"


def _same_file(a: Path, b: Path) -> bool:
    """Whether both are missing, or both are readable and of equal bytes."""
    present = [os.path.lexists(file) for file in (a, b)]
    if not all(present):
        return not any(present)
    try:
        with open_regular(a) as one, open_regular(b) as two:
            stats = [os.fstat(file.fileno()) for file in (one, two)]
            if os.path.samestat(*stats):  # the hub's cache links to one file
                return True
            if stats[0].st_size != stats[1].st_size:
                return False
            while block := one.read(_READ):
                if block != two.read(_READ):
                    return False
            return True
    except (BrokenCheckpoint, OSError):
        return False
