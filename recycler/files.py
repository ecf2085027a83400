"""Files and folders that appear whole or not at all, and never replace someone else's.

Names are exchanged by renameat2(2) if the system has it, so a name is never missing and an older
one is never lost.
"""

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recycler.errors import Conflict, RecyclerError

_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2  # linux/fs.h, fcntl.h
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}  # the system has no renameat2
PARTS, OLD = ".part", ".old"


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill and `publish`; it is deleted at the end unless published.

    It is locked while it is filled, so that `sweep` recognises the leftovers of killed processes.

    Raises:
        RecyclerError: the system refused to read or write; nothing is left behind.
    """
    work, handle = None, None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=PARTS, dir=out.parent))
        handle = _lock(work)[0]
        work.chmod(0o777 & ~_umask())
        yield work
    except OSError as error:
        file = str(error.filename or out)
        own = file.startswith((str(out), str(out.parent / f".{out.name}.")))
        raise RecyclerError(
            f"{out if own else file} can't be {'written' if own else 'read'}: "
            f"{error.strerror or error}.",
            hint="nothing is left behind; free some space or choose another folder, then try again.",
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def sweep(out: Path) -> list[str]:
    """Delete what killed processes left of writing `out`, and return what can't be deleted safely.

    Returns:
        Folders beside `out` that are kept: earlier contents of `out`, moved aside when a process
        was killed, and, on a file system without locks, whatever another process may still be
        writing.
    """
    kept = []
    pattern = re.compile(rf"\.{re.escape(out.name)}\.\w{{8}}\{PARTS}(\{OLD})?")
    for entry in sorted(out.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None or entry.is_symlink() or not entry.is_dir():
            continue
        handle, busy = (None, False) if match[1] else _lock(entry)
        if handle is not None:
            shutil.rmtree(entry, ignore_errors=True)
            os.close(handle)
        if entry.exists() and not busy:
            kept.append(str(entry))
    return kept


def publish(work: Path, out: Path, keeps: Callable[[Path], str] | None = None) -> None:
    """Give a finished folder its name, in one step.

    Args:
        work: the folder, on the same file system; afterwards it holds what had the name before, if
            anything.
        out: its new name.
        keeps: returns why a given path may not be replaced; empty if it may. It is asked again
            about what was moved off the name. None: nothing may be replaced.

    Raises:
        Conflict: the name belongs to something that may not be replaced and that is unchanged.
        OSError: the system refused; `out` is unchanged.
    """

    def require(place: Path) -> None:
        if why := keeps(place) if keeps else "appeared while it was written":
            raise Conflict(
                f"{out} {why}.",
                hint="it is unchanged, and the new folder is deleted; choose another folder.",
            )

    sync(work)
    try:
        _rename(work, out, _NOREPLACE)
        return _sync_name(out, lambda: out.rename(work))
    except FileExistsError:
        require(out)
    _rename(work, out, _EXCHANGE)
    try:
        require(work)  # it may have changed since the first check
        sync(out.parent)
    except BaseException:
        _rename(work, out, _EXCHANGE)
        raise


def _sync_name(out: Path, undo: Callable[[], object]) -> None:
    try:
        sync(out.parent)
    except OSError:
        undo()
        raise


def _rename(old: Path, new: Path, how: int) -> None:
    """renameat2(2), or the closest that other systems have."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), how) == 0:
            return
        code = ctypes.get_errno()
        if code not in _UNKNOWN:
            raise OSError(code, os.strerror(code), str(new))
    rename_in_steps(old, new, how == _EXCHANGE)


def rename_in_steps(old: Path, new: Path, exchange: bool) -> None:
    """The same with rename(2) alone, which replaces at most an empty folder.

    A process killed between the steps leaves what had the name `new` under `old`'s name with
    `.old`.
    """
    if not exchange:
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        old.rename(new)
        return
    aside = old.with_name(old.name + OLD)
    new.rename(aside)
    try:
        old.rename(new)
    except BaseException:
        aside.rename(new)
        raise
    aside.rename(old)


def write_whole(file: Path, content: bytes, mark: bytes = b"") -> None:
    """Write a file under a temporary name, then rename it: a reader sees the old or the new content.

    Args:
        file: its folder must exist; a link is followed, a device or pipe is written to.
        content: all of it.
        mark: text in the first 512 bytes of `content`; a file without it is not replaced.

    Raises:
        Conflict: something else has that name.
        RecyclerError: the system refused to write; a file of that name is unchanged.
    """
    file = file.resolve()
    if not file.parent.is_dir():
        raise RecyclerError(f"{file.parent} is not a folder.", hint="create it first.")
    with _refusals(file):
        if file.is_dir() or (file.is_file() and not _has(file, mark)):
            raise Conflict(
                f"{file} exists and is not what would be written there.",
                hint="choose another name, or remove it first.",
            )
        if file.exists() and not file.is_file():
            file.write_bytes(content)
            return
        _place(file, content, lambda work: work.replace(file))


def write_new(file: Path, content: bytes) -> None:
    """Write a file that must not exist yet: it appears whole, under a name that nobody else took.

    Raises:
        Conflict: something has that name, also if it appeared meanwhile; it is unchanged.
        RecyclerError: the system refused to write.
    """
    if not file.parent.is_dir():
        raise RecyclerError(f"{file.parent} is not a folder.", hint="create it first.")
    with _refusals(file):
        try:
            _place(file, content, lambda work: _rename(work, file, _NOREPLACE))
        except FileExistsError as error:
            raise taken(file) from error


def _place(file: Path, content: bytes, move: Callable[[Path], object]) -> None:
    """Write the content to a file beside its destination and move it there, on the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=PARTS, dir=file.parent)
    os.close(handle)
    work = Path(name)
    try:
        write_synced(work, content)
        work.chmod(0o666 & ~_umask())
        move(work)
        sync(file.parent)
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """Turn an error of the system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise RecyclerError(
            f"{file} can't be written: {error.strerror or error}.",
            hint="free some space or choose another folder, then try again.",
        ) from error


def taken(file: Path) -> Conflict:
    """The error for a name that belongs to something else."""
    return Conflict(
        f"{file} exists and is never overwritten.",
        hint="give another name with -o, or move that file away first.",
    )


def _has(file: Path, mark: bytes) -> bool:
    with file.open("rb") as stream:
        start = stream.read(512)
    return not start or mark in start


def write_synced(file: Path, content: bytes) -> None:
    """Write a file; returns when it is on the disk."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """Return when the names in a folder are on the disk, if the file system supports that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    finally:
        os.close(handle)


def mounted(path: Path) -> bool:
    """Whether something is mounted at a path; such a name can't be given to another folder."""
    if path.is_mount():
        return True
    with suppress(OSError):  # a bind mount within one file system looks like a folder
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        places = {line.split()[4] for line in table.splitlines()}
        return str(path).replace(" ", "\\040") in places
    return False


def _lock(folder: Path) -> tuple[int | None, bool]:
    """A handle that locks a folder until closed or until its process dies; else if it is busy."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        return None, isinstance(error, BlockingIOError)  # else the file system has no locks
    return handle, False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
