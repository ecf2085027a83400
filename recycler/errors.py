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
└── NotFinite          a score is NaN or infinite
"""


class RecyclerError(Exception):
    """A mistake the user can mend: `message` states the fact, `hint` the next action."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InvalidConfig(RecyclerError):
    pass


class NotFound(RecyclerError):
    pass


class Conflict(RecyclerError):
    pass


class BrokenCheckpoint(RecyclerError):
    """`code`, `file` and `tensor` are those of the finding that the pool check makes of it."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "unreadable",
        file: str = "",
        tensor: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.file = file
        self.tensor = tensor


class Incompatible(RecyclerError):
    pass


class MissingExtra(RecyclerError):
    pass


class StudyFailed(RecyclerError):
    pass


class Mismatch(RecyclerError):
    pass


class NotFinite(RecyclerError):
    pass
