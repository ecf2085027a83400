"""Paths that requests may name: below the folders that the service's settings list, links resolved.

A path is opened and the kernel is asked where the open file lies, so a link that is swapped after a
look can't lead elsewhere. `beneath` does the same with every file that an operation reads.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from recycler.errors import InvalidConfig, NotFound
from recycler.service.config import ServiceConfig
from recycler.service.problems import Forbidden

MOST = 4096  # characters of a path
_OPENAT2, _AT_FDCWD, _NO_MAGICLINKS = 437, -100, 0x02  # linux/openat2.h


class Roots:
    """Folders below which paths of requests may lie.

    Args:
        folders: absolute folders; those that do not exist hold nothing.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        self.folders = tuple(Path(folder).absolute() for folder in folders)

    def resolve(self, path: str, what: str = "path") -> Path:
        """The absolute path of something that exists below a root.

        Args:
            path: absolute, or relative to one of the roots; it is taken as it is, without decoding
                `%2e`, `~` or variables.
            what: what the path is of, in messages.

        Raises:
            Forbidden: it lies elsewhere, or a link leads elsewhere.
            NotFound: nothing is there.
            InvalidConfig: it is no path.
        """
        self._require_plain(path, what)
        given = Path(path)
        places = [given] if given.is_absolute() else [root / given for root in self.folders]
        allowed = [place for place in places if any(map(place.is_relative_to, self._named()))]
        if not allowed:
            raise self._outside(path, what)
        for place in allowed:
            found = where(place)
            if found is None:
                continue
            if not any(map(found.is_relative_to, self._real())):
                raise self._outside(path, what)
            return place
        raise NotFound(
            f"{what} {path!r} is not there.",
            hint=f"name a folder below {self._listed()}; a relative path starts at one of them.",
        )

    def _named(self) -> list[Path]:
        """The roots as they are written and as they are without links."""
        return [*self.folders, *self._real()]

    def _real(self) -> list[Path]:
        return [found for found in map(where, self.folders) if found]

    def _require_plain(self, path: str, what: str) -> None:
        if not path or len(path) > MOST or not path.isprintable():
            raise InvalidConfig(
                f"{what} {path[:80]!r} is no path: it is empty, has more than {MOST} characters or "
                "has characters that are not printable.",
                hint=f"give a folder below {self._listed()}.",
            )
        if ".." in Path(path).parts:
            raise Forbidden(
                f"{what} {path!r} has a step `..`.", hint="give the path without such steps."
            )

    def _outside(self, path: str, what: str) -> Forbidden:
        return Forbidden(
            f"{what} {path!r} is not below a folder of this service, or a link leads out of it.",
            hint=f"allowed: {self._listed()}. `checkpoints` in the service's settings lists them.",
        )

    def _listed(self) -> str:
        return ", ".join(map(str, self.folders)) or "no folder at all"


def roots_of(config: ServiceConfig) -> Roots:
    """The folders of checkpoints, and the exports, which are checkpoints too."""
    return Roots((*config.checkpoints, config.exports))


def where(path: Path) -> Path | None:
    """Where the file or folder behind a path lies, without any link; None if there is none.

    The answer is the kernel's about an open file, so it belongs to one moment.
    """
    try:
        descriptor = _opened(path)
    except (OSError, ValueError):
        return None
    try:
        found = os.readlink(f"/proc/self/fd/{descriptor}")
        return Path(found) if found.startswith("/") else None
    finally:
        os.close(descriptor)


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def _opened(path: Path) -> int:
    """A descriptor that only names the file; links of /proc are refused where the kernel can."""
    flags = os.O_PATH | os.O_CLOEXEC
    how = _How(flags, 0, _NO_MAGICLINKS)
    call = ctypes.CDLL(None, use_errno=True).syscall
    found = int(
        call(_OPENAT2, _AT_FDCWD, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    )
    if found >= 0:
        return found
    code = ctypes.get_errno()
    if code in (38, 1):  # ENOSYS, EPERM: an older kernel, or one that filters new calls
        return os.open(path, flags)
    raise OSError(code, os.strerror(code), str(path))
