"""Whose fault a failure is: one table of exceptions, as the parts of a job raise them."""

import errno
import sqlite3
import subprocess
import urllib.error
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import sqlalchemy.exc
import torch
from safetensors import SafetensorError

from recycler import errors
from recycler.execute.faults import at_start, failure_of
from recycler.nouns.evaluation import Failure, Fault

CANDIDATE, ENVIRONMENT, SETUP = Fault.CANDIDATE, Fault.ENVIRONMENT, Fault.SETUP


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def while_handling(error: Exception, other: BaseException) -> Exception:
    error.__context__ = other
    return error


def device_error() -> Exception:
    """As torch raises it: a RuntimeError of its own class."""
    made: Exception = torch.AcceleratorError.__new__(torch.AcceleratorError)
    made.args = ("CUDA error: an illegal memory access was encountered",)
    return made


TABLE = [
    (errors.NotFinite("it is NaN", hint="h"), CANDIDATE, "not-finite"),
    (ZeroDivisionError("in the user's metric"), CANDIDATE, "exception"),
    (KeyError("x"), CANDIDATE, "exception"),
    (ValueError("CUDA error: only a text of the user's"), CANDIDATE, "exception"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), CANDIDATE, "exception"),
    (subprocess.CalledProcessError(1, "a.py"), CANDIDATE, "exception"),
    (while_handling(ValueError("no answer"), FileNotFoundError("cache")), CANDIDATE, "exception"),
    (errors.BrokenCheckpoint("cut short", hint="h"), ENVIRONMENT, "checkpoint"),
    (errors.Mismatch("other bytes", hint="h"), ENVIRONMENT, "checkpoint"),
    (SafetensorError("InvalidHeader"), ENVIRONMENT, "checkpoint"),
    (errors.NotFound("no data file", hint="h"), ENVIRONMENT, "not-found"),
    *[
        (OSError(number, "x"), ENVIRONMENT, "system")
        for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE)
    ],
    (FileNotFoundError(errno.ENOENT, "gone"), ENVIRONMENT, "system"),
    (ConnectionResetError("peer"), ENVIRONMENT, "system"),
    (TimeoutError("no place in the queue"), ENVIRONMENT, "system"),
    (urllib.error.URLError("unreachable"), ENVIRONMENT, "system"),
    (sqlite3.OperationalError("database or disk is full"), ENVIRONMENT, "system"),
    (sqlalchemy.exc.OperationalError("SELECT", {}, OSError()), ENVIRONMENT, "system"),
    (BrokenProcessPool("a child was killed"), ENVIRONMENT, "system"),
    (RuntimeError("can't start new thread"), ENVIRONMENT, "system"),
    (MemoryError("full"), ENVIRONMENT, "out-of-memory"),
    (torch.OutOfMemoryError("CUDA out of memory."), ENVIRONMENT, "out-of-memory"),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
        ),
        ENVIRONMENT,
        "out-of-memory",
    ),
    (device_error(), ENVIRONMENT, "device"),
    (RuntimeError("CUDA error: device-side assert triggered"), ENVIRONMENT, "device"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), ENVIRONMENT, "device"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), ENVIRONMENT, "out-of-memory"),
    (raised_from(RuntimeError("scoring failed"), OSError(28, "full")), ENVIRONMENT, "system"),
    (ExceptionGroup("two", [ValueError(), OSError(5, "disk")]), ENVIRONMENT, "system"),
    (errors.InvalidConfig("no such task", hint="h"), SETUP, "setup"),
    (errors.MissingExtra("no psycopg", hint="h"), SETUP, "setup"),
    (errors.Incompatible("shapes", hint="h"), SETUP, "setup"),
    (raised_from(errors.InvalidConfig("x", hint="h"), OSError(2, "y")), SETUP, "setup"),
    (ModuleNotFoundError("No module named 'nltk'"), SETUP, "setup"),
]


@pytest.mark.parametrize(
    ("error", "fault", "kind"),
    TABLE,
    ids=[f"{type(row[0]).__name__}-{i}" for i, row in enumerate(TABLE)],
)
def test_every_exception_has_one_to_blame(error: Exception, fault: Fault, kind: str) -> None:
    failure = failure_of(error, "trace")
    assert (failure.fault, failure.kind, failure.details) == (fault, kind, "trace")
    known = isinstance(error, errors.RecyclerError)
    assert failure.message == (error.message if known else f"{type(error).__name__}: {error}")
    assert failure.hint == ("h" if known else "")


@pytest.mark.parametrize(
    ("kind", "fault", "proven", "then"),
    [
        ("exception", CANDIDATE, False, SETUP),  # no candidate was asked yet
        ("exception", CANDIDATE, True, ENVIRONMENT),  # the same settings worked elsewhere
        ("setup", SETUP, False, SETUP),
        ("setup", SETUP, True, ENVIRONMENT),
        ("not-found", ENVIRONMENT, False, SETUP),  # a task that there is not
        ("not-found", ENVIRONMENT, True, ENVIRONMENT),  # a folder that vanished
        ("system", ENVIRONMENT, False, ENVIRONMENT),
    ],
)
def test_no_candidate_is_to_blame_for_a_worker_that_can_not_be_made(kind, fault, proven, then):
    failure = Failure(kind, "why", fault=fault)
    assert at_start(failure, proven) == replace(failure, fault=then)
