"""Whose fault a failed job is: the candidate's, the environment's or the setup's.

Every executor uses this table; nothing else decides it.
"""

import re
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace

from recycler.errors import BrokenCheckpoint, Mismatch, NotFinite, NotFound, RecyclerError
from recycler.nouns.evaluation import Failure, Fault


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: which exceptions, their kind, whose fault they are.

    Attributes:
        fault: whose fault it is.
        kind: word by which failures are counted.
        types: exception classes; their instances match.
        names: names of exception classes in packages that are not imported here.
        words: pattern in the text of a RuntimeError, for errors that torch raises without a class.
    """

    fault: Fault
    kind: str
    types: tuple[type[BaseException], ...] = ()
    names: tuple[str, ...] = ()
    words: str = ""

    def fits(self, error: BaseException) -> bool:
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, self.types) or names & set(self.names):
            return True
        told = bool(self.words) and isinstance(error, RuntimeError)
        return told and re.search(self.words, str(error)) is not None


# The first row that matches decides. An exception without a row is the candidate's fault.
RULES = (
    Rule(Fault.CANDIDATE, "not-finite", (NotFinite,)),
    Rule(Fault.ENVIRONMENT, "checkpoint", (BrokenCheckpoint, Mismatch), ("SafetensorError",)),
    Rule(Fault.ENVIRONMENT, "not-found", (NotFound,)),
    Rule(Fault.SETUP, "setup", (RecyclerError, ImportError)),
    # All merges of a study have the same shapes: if one does not fit into memory, none does, or
    # something else took the memory.
    Rule(
        Fault.ENVIRONMENT,
        "out-of-memory",
        (MemoryError,),
        ("OutOfMemoryError",),
        r"(?i)out of memory|can't allocate memory|not enough memory|_STATUS_ALLOC_FAILED",
    ),
    Rule(
        Fault.ENVIRONMENT,
        "device",
        (),
        ("AcceleratorError",),
        r"(?i)\b(CUDA|HIP|NCCL|XPU|cuDNN) (driver )?error|CU(BLAS|DNN|SPARSE|SOLVER)_STATUS|"
        r"NVIDIA driver|device-side assert",
    ),
    Rule(
        Fault.ENVIRONMENT,
        "system",
        (OSError, BrokenExecutor),
        ("OperationalError", "TransportError", "APIConnectionError", "RateLimitError"),
        r"can't start new thread|unable to (mmap|open)|DataLoader worker .* (killed|exited)",
    ),
)


def failure_of(error: Exception, details: str = "") -> Failure:
    """Turn an exception of a job into a Failure that says whose fault it is.

    * environment: a weight file that broke or vanished, any OSError (full disk, input/output, too
    many
      open files, lost connection, time-out), lack of memory, accelerator errors. Also an exception
      raised `from` one of these, and a group that contains one.
    * setup: any other error of recycler's own, and packages that can't be imported.
    * candidate: non-finite scores, and all other exceptions, such as those of a user's metric on
    this
      model's answers.

    KeyboardInterrupt and SystemExit are not failures; callers let them through.
    """
    rule = next((rule for cause in _causes(error) for rule in RULES if rule.fits(cause)), None)
    known = error if isinstance(error, RecyclerError) else None
    return Failure(
        kind=rule.kind if rule else "exception",
        message=known.message if known else f"{type(error).__name__}: {error}",
        details=details,
        fault=rule.fault if rule else Fault.CANDIDATE,
        hint=known.hint if known else "",
    )


def at_start(failure: Failure, proven: bool) -> Failure:
    """Classify a failure to make a worker's scorer, which no candidate caused.

    Args:
        failure: from `failure_of`.
        proven: whether these settings have made a scorer earlier in this run. Then the settings
            are right and the environment is at fault. If not, a missing name or file, or an
            exception without a row, is the setup's fault.
    """
    wrong = failure.fault is not Fault.ENVIRONMENT or failure.kind == "not-found"
    fault = Fault.SETUP if wrong and not proven else Fault.ENVIRONMENT
    return replace(failure, fault=fault)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, the exceptions it was raised from, and the members of groups.

    A recycler error hides its cause: its class was chosen by code that knew the cause.
    """
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes(member)
    if error.__cause__ is not None and not isinstance(error, RecyclerError):
        yield from _causes(error.__cause__)
