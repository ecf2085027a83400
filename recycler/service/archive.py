"""An exported folder as one tar stream whose bytes are known before any is sent.

The archive is uncompressed and deterministic, so a download that broke off goes on at any byte.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recycler.errors import NotFound

BLOCK = 512  # bytes of a tar block
PIECE = 1 << 18  # bytes sent at a time


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an archive: bytes, or a range of a file."""

    size: int
    data: bytes = b""
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """A folder as a tar stream.

    Attributes:
        name: name of the folder in it.
        parts: headers, contents and padding, in order.
    """

    name: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, folder: Path) -> "Archive":
        """The archive of a folder's regular files. Raises NotFound if it is gone."""
        if not folder.is_dir():
            raise NotFound(f"the export {folder.name} is gone.", hint="export the trial again.")
        parts: list[Part] = []
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            size = file.stat().st_size
            parts.append(_head(f"{folder.name}/{file.relative_to(folder)}", size))
            parts.append(Part(size, file=file))
            parts.append(_zeros(-size % BLOCK))
        parts.append(_zeros(2 * BLOCK))
        return cls(folder.name, tuple(part for part in parts if part.size))

    @property
    def size(self) -> int:
        """Bytes of the whole stream."""
        return sum(part.size for part in self.parts)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `stop`."""
        place = 0
        for part in self.parts:
            first, last = max(start, place), min(stop, place + part.size)
            if first < last:
                yield from _pieces(part, first - place, last - place)
            place += part.size


def _pieces(part: Part, start: int, stop: int) -> Iterator[bytes]:
    if part.file is None:
        yield part.data[start:stop]
        return
    with part.file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size != part.size:
            raise OSError(f"{part.file.name} changed while it was sent")
        opened.seek(start)
        while start < stop:
            piece = opened.read(min(PIECE, stop - start))
            if not piece:
                raise OSError(f"{part.file.name} ended early")
            start += len(piece)
            yield piece


def _head(name: str, size: int) -> Part:
    about = tarfile.TarInfo(name)
    about.size, about.mode = size, 0o644
    data = about.tobuf(tarfile.PAX_FORMAT)
    return Part(len(data), data)


def _zeros(count: int) -> Part:
    return Part(count, bytes(count))
