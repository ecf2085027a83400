"""Downloads of exports: a tar stream that goes on where it broke, and a proof of what arrived."""

import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module as lazy  # a client that only asks loads no arithmetic
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from recycler.client.transport import Transport
from recycler.errors import Conflict, Mismatch, NotFound, RecyclerError, Unavailable
from recycler.files import publish, sweep, sync, unfinished
from recycler.nouns.operation import Operation, OperationState

OnBytes = Callable[[int, int], object]  # bytes that just arrived, bytes of the whole
ATTEMPTS, PAUSE = 60, 2.0  # attempts without one new byte, and seconds between them
PIECE = 1 << 20


def download(
    transport: Transport, operation: Operation, out: Path, force: bool, on_bytes: OnBytes
) -> dict[str, Any]:
    """Bring an export here (see `Client.download`)."""
    done = _finished(operation)
    out, rules = out.expanduser().absolute(), lazy("recycler.export")
    rules.require_place(out, force)
    leftovers = sweep(out)
    with unfinished(out) as work:
        archive = work / ".archive.tar"
        with archive.open("wb") as file:
            fetch(transport, f"/operations/{operation.id}/archive", file, on_bytes)
        unpack(archive, work, {row["name"]: row for row in done["files"]})
        archive.unlink()
        found = lazy("recycler.checkpoints.folder").Checkpoint.open(work).fingerprint()
        if found != done["digest"]:
            raise Mismatch(
                f"what arrived has digest {found}, the export on the server {done['digest']}.",
                hint="nothing is left behind; download it again.",
            )
        publish(work, out, rules.not_a_merge if force else None)
        left = [*leftovers, *([str(work)] if work.exists() else [])]
    return {**done, "path": str(out), "leftovers": left, "verified": True}


def fetch(transport: Transport, path: str, file: BinaryIO, on_bytes: OnBytes) -> None:
    """Write a stream into a file; a broken connection goes on at the next byte.

    Raises:
        Mismatch: the export changed on the server meanwhile.
        Unavailable: the server is away for too long.
    """
    done, total, mark, failed = 0, -1, "", 0
    while done != total:
        given = {"Range": f"bytes={done}-", "If-Range": mark} if done else {}
        before = done
        try:
            with transport.stream(path, given) as answer:
                if done and answer.status_code != 206:
                    raise Mismatch(
                        "the export changed on the server while it was downloaded.",
                        hint="export the trial again.",
                    )
                mark = answer.headers.get("ETag", "")
                total = done + int(answer.headers["Content-Length"])
                for piece in answer.iter_raw():
                    file.write(piece)
                    done += len(piece)
                    on_bytes(len(piece), total)
        except Unavailable:
            failed = failed + 1 if done == before else 0
            if failed == ATTEMPTS:
                raise
            time.sleep(PAUSE)
    file.flush()
    os.fsync(file.fileno())


def unpack(archive: Path, work: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the files of an archive, each compared with its size and SHA-256 in the export.

    Raises:
        Mismatch: a file is missing, not asked for, or other than the export says.
    """
    missing = {*wanted}
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                missing.discard(_placed(opened, member, work, missing, wanted))
    except tarfile.TarError as error:
        raise _other(str(error)) from error
    if missing:
        raise _other(min(missing))
    for folder, _, _ in os.walk(work):
        sync(Path(folder))


def _placed(
    opened: tarfile.TarFile,
    member: tarfile.TarInfo,
    work: Path,
    missing: set[str],
    wanted: Mapping[str, Mapping[str, Any]],
) -> str:
    """Write one file of the archive; returns its name."""
    name = PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix()
    source = opened.extractfile(member) if member.isreg() else None
    if source is None or name not in missing or ".." in PurePosixPath(name).parts:
        raise _other(name)
    target = work / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if _copied(source, target) != wanted[name]["sha256"]:
        raise _other(name)
    return name


def _copied(source: Any, target: Path) -> str:
    """Copy a stream into a new file; returns its SHA-256."""
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while piece := source.read(PIECE):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _other(name: str) -> RecyclerError:
    return Mismatch(
        f"file {name!r} of the download is not as the server's export says.",
        hint="nothing is left behind; download it again.",
    )


def _finished(operation: Operation) -> dict[str, Any]:
    if operation.kind != "export":
        raise NotFound(
            f"operation {operation.id} is {operation.kind}, and no export.",
            hint="`Client.operations(kind='export')` lists them.",
        )
    if operation.state != OperationState.DONE or operation.result is None:
        raise Conflict(
            f"export {operation.id} is {operation.state}.", hint="wait until it is done."
        )
    return dict(operation.result)
