"""Which folders a process may read checkpoints from: asked of open files, so no link leads elsewhere.

A service reads what its users name. A path that was fine when it was looked at can be a link to
another place when it is opened. So the kernel is asked where each open file lies.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from recycler.errors import BrokenCheckpoint

ROOTS = "RECYCLER_ROOTS"  # folders as JSON, for this process and those that it starts; empty: any


def confine(folders: Sequence[str | os.PathLike[str]]) -> None:
    """From now on this process and its children read checkpoints only below these folders."""
    os.environ[ROOTS] = json.dumps([str(Path(folder).resolve()) for folder in folders])


def open_beneath(file: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a file or folder; returns its descriptor, which is not inherited.

    Raises:
        BrokenCheckpoint: it lies elsewhere than this process may read.
        OSError: it can't be opened.
    """
    descriptor = os.open(file, flags | os.O_CLOEXEC)
    try:
        _require(descriptor, file)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def listed(folder: str | os.PathLike[str]) -> list[str]:
    """Names in a folder, sorted.

    Raises:
        BrokenCheckpoint, OSError: see `open_beneath`.
    """
    descriptor = open_beneath(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)


@contextmanager
def pinned(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder for libraries that open files by themselves, with the files as they are now.

    Where any folder may be read it is the folder itself. Else it is a private one with links to
    open files, which no one can exchange; subfolders are left out.

    Raises:
        BrokenCheckpoint, OSError: see `open_beneath`.
    """
    if not os.environ.get(ROOTS):
        yield Path(folder)
        return
    made = Path(tempfile.mkdtemp(prefix="recycler-pinned-"))
    with ExitStack() as opened:
        opened.callback(shutil.rmtree, made, ignore_errors=True)
        for name in listed(folder):
            place = Path(folder) / name
            if not place.is_file():  # neither folders nor pipes
                continue
            descriptor = open_beneath(place, os.O_RDONLY | os.O_NONBLOCK)
            opened.callback(os.close, descriptor)
            (made / name).symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield made


def _require(descriptor: int, file: str | os.PathLike[str]) -> None:
    allowed = os.environ.get(ROOTS)
    if not allowed:
        return
    where = os.readlink(f"/proc/self/fd/{descriptor}")
    if not any(Path(where).is_relative_to(root) for root in _parsed(allowed)):
        raise BrokenCheckpoint(
            f"{file} lies outside the folders that this service may read, or is a link that leads "
            "out of them.",
            hint="put the checkpoint below one of them; `checkpoints` in the service's settings "
            "lists them.",
            finding="outside",
            file=Path(file).name,
        )


@lru_cache(maxsize=4)
def _parsed(folders: str) -> tuple[str, ...]:
    return tuple(json.loads(folders))
