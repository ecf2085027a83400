"""The errors that users see, each with a hint what to do. Imports nothing.

RecyclerError
├── InvalidConfig      a field of a YAML file, a recipe or an argument is wrong
├── NotFound           a pool, study, trial, file or name does not exist
├── Conflict           something exists with other settings, or is in use
├── BrokenCheckpoint   a folder or file is not a readable checkpoint
├── Incompatible       checkpoints can't be merged with each other
├── MissingExtra       an optional package is not installed
├── StudyFailed        too many candidates of a study failed
├── Mismatch           bytes or scores differ from those in the ledger
├── Unavailable        a disk, database or cluster can't be reached now
└── NotFinite          a score or a merged number is NaN or infinite
"""

from typing import ClassVar


class RecyclerError(Exception):
    """Base of all errors: `message` states the fact, `hint` says what to do.

    `code` is a stable name of the class, for programs.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, str]:
        """Return `{"error", "hint", "code"}` for programs."""
        return {"error": self.message, "hint": self.hint, "code": self.code}

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InvalidConfig(RecyclerError):
    code = "invalid-config"


class NotFound(RecyclerError):
    code = "not-found"


class Conflict(RecyclerError):
    code = "conflict"


class BrokenCheckpoint(RecyclerError):
    """`finding`, `file` and `tensor` go into the finding that the pool check reports."""

    code = "broken-checkpoint"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        finding: str = "unreadable",
        file: str = "",
        tensor: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.finding = finding
        self.file = file
        self.tensor = tensor


class Incompatible(RecyclerError):
    code = "incompatible"


class MissingExtra(RecyclerError):
    code = "missing-extra"


class StudyFailed(RecyclerError):
    code = "study-failed"


class Mismatch(RecyclerError):
    code = "mismatch"


class Unavailable(RecyclerError):
    code = "unavailable"


class NotFinite(RecyclerError):
    code = "not-finite"
