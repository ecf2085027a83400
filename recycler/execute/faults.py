"""Who is to blame for a job without scores: the candidate, the environment or the set-up.

Every executor asks here, and nowhere else is it decided.
"""

import re
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace

from recycler.errors import BrokenCheckpoint, Mismatch, NotFinite, NotFound, RecyclerError
from recycler.nouns.evaluation import Failure, Fault


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: which exceptions, what they are counted as, whose fault they are.

    Attributes:
        fault: whose fault it is.
        kind: word to count by.
        types: classes whose instances fit.
        names: names of such classes in packages that are not imported here.
        words: pattern in the text of a RuntimeError, for what torch raises without a class.
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


# Read from the top; the first row that fits decides. What fits none is the candidate's.
RULES = (
    Rule(Fault.CANDIDATE, "not-finite", (NotFinite,)),
    Rule(Fault.ENVIRONMENT, "checkpoint", (BrokenCheckpoint, Mismatch), ("SafetensorError",)),
    Rule(Fault.ENVIRONMENT, "not-found", (NotFound,)),
    Rule(Fault.SETUP, "setup", (RecyclerError, ImportError)),
    # All merges of a study have the same shapes: if one does not fit, none does, or something else
    # took the memory.
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
    """An exception of a job as a Failure that says whose fault it is.

    * environment: a weight file that broke or vanished, any OSError (full disk, input/output,
      too many open files, lost connection, time-out), memory of machine or accelerator, the
      accelerator itself. So is what was raised `from` one of these, and a group with one in it.
    * setup: any other error of recycler's own, and packages that can't be imported.
    * candidate: scores that are not finite, and all other exceptions, such as those of a user's
      metric on this model's answers.

    KeyboardInterrupt and SystemExit are no failures; callers let them through.
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
    """A failure to make a worker's scorer: no candidate had a part in it.

    Args:
        failure: of `failure_of`.
        proven: whether these settings have made a scorer before in this run. Then they are right,
            and it is the environment's fault that they don't here; else a name or file that is
            not there, or an exception without a rule, is the set-up's.
    """
    wrong = failure.fault is not Fault.ENVIRONMENT or failure.kind == "not-found"
    fault = Fault.SETUP if wrong and not proven else Fault.ENVIRONMENT
    return replace(failure, fault=fault)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and the members of groups.

    A recycler error speaks for itself: its class was chosen where the cause was known.
    """
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes(member)
    if error.__cause__ is not None and not isinstance(error, RecyclerError):
        yield from _causes(error.__cause__)
