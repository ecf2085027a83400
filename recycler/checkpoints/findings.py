"""Findings of a check of checkpoints: one problem each, with what to do about it.

Codes, errors first: `not-found`, `unreadable`, `truncated`, `header`, `layout`, `dtype-unknown`,
`index`, `json`, `not-a-file`, `empty`, `nested`, `pickle`, `lfs-pointer`, `format`, `adapter`,
`cache`, `changed`, `tensor-twice`, `same-folder`, `quantised`, `vocabulary`, `architecture`,
`config`, `tensor-missing`, `tensor-extra`, `shape`, `integers`; a deep check adds `not-finite`.
Warnings: `config` and `vocabulary` (some), `dtype`, `tokenizer`, `chat-template`, `base-member`;
deep adds `duplicate`.
"""

from dataclasses import dataclass
from typing import Any

from recycler.errors import BrokenCheckpoint, RecyclerError

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem found by a check: where, what, what was expected and what to do."""

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
        """The finding for an error that was raised while a checkpoint was opened or read."""
        broken = isinstance(error, BrokenCheckpoint)
        return cls(
            code=error.finding if isinstance(error, BrokenCheckpoint) else "not-found",
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
    """Text from a file, safe for a terminal: control characters and broken Unicode are escaped."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def short(value: Any) -> str:
    """repr(), cut to fit one line of a table."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
