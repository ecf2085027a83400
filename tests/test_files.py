"""Files and folders that appear whole or not at all; every failure here is the system's own."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recycler import files
from recycler.errors import Conflict, RecyclerError
from recycler.files import publish, rename_in_steps, sweep, unfinished, write_whole


def made(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "held.txt").write_text(content)
    return folder


def held(folder: Path) -> str:
    return (folder / "held.txt").read_text()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def anything(folder: Path) -> str:
    return ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "t", disk], check=False
    ).returncode:
        pytest.skip("no right to mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


# --- folders ---


def test_a_finished_folder_gets_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    with unfinished(tmp_path / "out") as work:
        (work / "held.txt").write_text("new")
        assert not (tmp_path / "out").exists()
        publish(work, tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert held(tmp_path / "out") == "new"


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link", "dead link"])
def test_what_appeared_under_the_name_meanwhile_is_never_replaced(
    tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"

    def make() -> None:
        if kind == "folder":
            made(out, "thesis")
        elif kind == "empty folder":
            out.mkdir()
        elif kind == "file":
            out.write_text("thesis")
        else:
            out.symlink_to(tmp_path if kind == "link" else "nowhere")

    with unfinished(out) as work:
        make()
        before = out.lstat().st_ino
        with pytest.raises(Conflict, match="appeared while it was written"):
            publish(work, out)
    assert out.lstat().st_ino == before
    assert names(tmp_path) == ["out"]


def test_the_older_folder_is_exchanged_and_then_deleted(tmp_path: Path) -> None:
    made(tmp_path / "out", "old")
    with unfinished(tmp_path / "out") as work:
        (work / "held.txt").write_text("new")
        publish(work, tmp_path / "out", anything)
        assert held(work) == "old"
    assert held(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_what_changed_between_the_look_and_the_exchange_is_put_back(tmp_path: Path) -> None:
    """The second look is at what was really taken off the name."""
    out, looks = made(tmp_path / "out", "old"), []

    def keeps(folder: Path) -> str:
        looks.append(folder)
        if folder == out:  # someone writes at this very moment
            (out / "held.txt").write_text("thesis")
            return ""
        return "holds a thesis" if held(folder) == "thesis" else ""

    with pytest.raises(Conflict, match=r"out holds a thesis"), unfinished(out) as work:
        publish(work, out, keeps)
    assert looks == [out, work]
    assert held(out) == "thesis"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("exchange", [True, False])
def test_without_renameat2_a_failure_restores_what_was_there(
    tmp_path: Path, exchange: bool
) -> None:
    old = made(tmp_path / "out", "old")
    with pytest.raises(OSError, match=r"No such file|exists"):
        rename_in_steps(tmp_path / "vanished", old, exchange)
    assert held(old) == "old"
    assert names(tmp_path) == ["out"]


def test_without_renameat2_the_names_are_exchanged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in (False, True):
        if missing:  # as on a system whose libc has no such call
            monkeypatch.setattr(files.ctypes, "CDLL", lambda *names, **options: object())
        root = tmp_path / str(missing)
        a, b = made(root / "a", "a"), made(root / "b", "b")
        files._rename(a, b, files._EXCHANGE)
        assert (held(a), held(b)) == ("b", "a")
        files._rename(a, root / "c", files._NOREPLACE)
        assert names(root) == ["b", "c"]
        with pytest.raises(FileExistsError):
            files._rename(b, root / "c", files._NOREPLACE)
        assert (held(b), held(root / "c")) == ("a", "b")


def test_a_folder_that_the_system_will_not_move_stays(tmp_path: Path) -> None:
    out = made(tmp_path / "out", "old")
    if subprocess.run(["chattr", "+i", out], check=False, capture_output=True).returncode:
        pytest.skip("no immutable folders here")
    try:
        with pytest.raises(RecyclerError, match=r"out can't be written"), unfinished(out) as work:
            publish(work, out, anything)
        assert held(out) == "old"
        assert names(tmp_path) == ["out"]
    finally:
        subprocess.run(["chattr", "-i", out], check=True)


def test_a_mount_point_keeps_its_name(small_disk: Path) -> None:
    (small_disk / "held.txt").write_text("old")
    assert files.mounted(small_disk)
    with pytest.raises(RecyclerError, match="can't be written"), unfinished(small_disk) as work:
        publish(work, small_disk, anything)
    assert held(small_disk) == "old"
    assert names(small_disk.parent) == ["disk"]


def test_a_bind_mount_within_one_file_system_is_a_mount_point(small_disk: Path) -> None:
    place = made(small_disk / "a place", "mine")
    assert not files.mounted(place)
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        assert files.mounted(place)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_nothing_and_says_so(small_disk: Path) -> None:
    with (
        pytest.raises(RecyclerError, match=r"out can't be written: No space left"),
        unfinished(small_disk / "out") as work,
    ):
        files.write_synced(work / "big", bytes(1_000_000))
    assert names(small_disk) == []


def test_a_disk_that_turns_read_only_keeps_the_older_folder(small_disk: Path) -> None:
    made(small_disk / "out", "old")

    def protected() -> None:
        with unfinished(small_disk / "out") as work:
            subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
            publish(work, small_disk / "out", anything)

    with pytest.raises(RecyclerError, match=r"out can't be written: Read-only"):
        protected()
    assert held(small_disk / "out") == "old"
    with (
        pytest.raises(RecyclerError, match=r"new can't be written: Read-only"),
        unfinished(small_disk / "new"),
    ):
        pass


def test_what_can_not_be_read_is_not_blamed_on_the_writing(tmp_path: Path) -> None:
    gone = tmp_path / "donor" / "tokenizer.json"
    with (
        pytest.raises(RecyclerError, match=rf"{gone} can't be read: No such file"),
        unfinished(tmp_path / "out"),
    ):
        gone.read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from recycler.files import unfinished
with unfinished(Path("out")) as work:
    (work / "held.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_leftover_of_a_killed_process_is_deleted_and_that_of_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (half,) = names(tmp_path)
    assert half.startswith(".out.")
    made(tmp_path / ".out.notours.part.d", "mine")
    made(tmp_path / ".other.abcdefgh.part", "mine")
    with unfinished(tmp_path / "out") as work:
        assert sweep(tmp_path / "out") == []
        assert set(names(tmp_path)) == {".other.abcdefgh.part", ".out.notours.part.d", work.name}


def test_earlier_contents_that_a_killed_process_moved_aside_are_named_and_kept(
    tmp_path: Path,
) -> None:
    aside = made(tmp_path / ".out.abcdefgh.part.old", "old")
    assert sweep(tmp_path / "out") == [str(aside)]
    assert held(aside) == "old"


# --- files ---


def test_a_file_is_replaced_only_by_one_of_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_whole(file, b"<recycler> 1", b"<recycler>")
    write_whole(file, b"<recycler> 2", b"<recycler>")
    assert file.read_bytes() == b"<recycler> 2"
    file.write_bytes(b"a thesis")
    with pytest.raises(Conflict, match="is not what would be written"):
        write_whole(file, b"<recycler> 3", b"<recycler>")
    assert file.read_bytes() == b"a thesis"
    assert names(tmp_path) == ["report.html"]


def test_a_folder_and_a_missing_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        write_whole(tmp_path, b"x")
    with pytest.raises(RecyclerError, match="is not a folder"):
        write_whole(tmp_path / "no" / "file", b"x")


def test_a_link_is_followed_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_whole(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"x"
    write_whole(Path("/dev/null"), b"x", b"y")
    assert not Path("/dev/null").is_file()


def test_a_full_disk_keeps_the_older_file_whole(small_disk: Path) -> None:
    write_whole(small_disk / "file", b"old")
    with pytest.raises(RecyclerError, match="file can't be written: No space left"):
        write_whole(small_disk / "file", bytes(1_000_000))
    assert (small_disk / "file").read_bytes() == b"old"
    assert names(small_disk) == ["file"]


def test_a_written_file_has_the_mode_that_the_umask_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_synced_where_the_file_system_can(tmp_path: Path) -> None:
    files.sync(tmp_path)
    with pytest.raises(OSError, match="No such file") as told:
        files.sync(tmp_path / "gone")
    assert told.value.errno == errno.ENOENT
