"""What can go wrong for a user, each with the next step. Leaf: imports nothing.

RecyclerError
├── InvalidConfig      a field of a YAML file, a recipe or an argument is wrong
├── NotFound           a pool, study, trial, file or name that does not exist
├── Conflict           it exists already, with other settings, or is busy
├── BrokenCheckpoint   a folder or file that is not a readable checkpoint
├── Incompatible       checkpoints that can't be merged with each other
├── MissingExtra       an optional package is not installed
├── StudyFailed        too many candidates of a study failed
├── Mismatch           bytes or scores differ from what the ledger says
├── Unavailable        a disk, database or cluster is away; later it may work
└── NotFinite          a score or a merged number is NaN or infinite
"""

from typing import ClassVar


class RecyclerError(Exception):
    """A mistake the user can mend: `message` states the fact, `hint` the next action.

    `code` names the kind of mistake for programs; it never changes.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, str]:
        """What a program is told: `{"error", "hint", "code"}`."""
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
    """`finding`, `file` and `tensor` are those of the finding that the pool check makes of it."""

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
