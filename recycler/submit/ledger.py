"""Which ledger to open: the one that was named, or the nearest one that belongs to the user.

A plan in a ledger names Python modules that a run imports. So a ledger that someone else could
have planted is never opened unless it is named.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recycler.errors import Conflict, NotFound

FOLDER, LEDGER = ".recycler", "ledger.db"
STORE, CEILING = "RECYCLER_STORE", "RECYCLER_CEILING"
SQLITE = "sqlite:///"


def find_ledger(url: str = "", create: bool = True) -> str:
    """The URL of the ledger to open; makes the folder of an SQLite file if `create` is set.

    Args:
        url: database URL, or a path to an SQLite file. If empty, RECYCLER_STORE is used, then
            `.recycler/ledger.db` is looked for in this folder and its parents (see `searched`).
        create: whether a missing ledger may be created; if not, NotFound is raised.

    Raises:
        NotFound: there is no ledger and none may be created.
        Conflict: the ledger in this folder belongs to another user and was not named.
    """
    where, foreign = url or os.environ.get(STORE, ""), None
    if where and "://" not in where:
        where = f"{SQLITE}{Path(where).expanduser().absolute()}"
    if not where:
        file, foreign = _nearest()
        where = f"{SQLITE}{file}"
    if where.startswith(SQLITE):
        file = Path(where.removeprefix(SQLITE))
        if not create and not file.exists():
            passed = f" ({foreign} belongs to another user and was not used)" if foreign else ""
            raise NotFound(
                f"there is no ledger at {file}{passed}.",
                hint=f"`recycler demo` or `recycler run STUDY.yaml` creates one; set {STORE} to open "
                "another.",
            )
        file.parent.mkdir(parents=True, exist_ok=True)
    return where


def _nearest() -> tuple[Path, Path | None]:
    """The ledger file to open, and one that was skipped because it belongs to someone else."""
    here, foreign = Path.cwd(), None
    for folder in searched(here):
        file = folder / FOLDER / LEDGER
        if not os.path.lexists(file):
            continue
        if _ours(file.parent) and _ours(file):
            return file, foreign
        foreign = foreign or file
    own = here / FOLDER / LEDGER
    if os.path.lexists(own.parent) and not (_ours(own.parent) and foreign != own):
        raise Conflict(
            f"{own} belongs to another user.",
            hint=f"a study in it may run code; if you trust it, name it with --store or {STORE}.",
        )
    return own, foreign


def searched(here: Path) -> Iterator[Path]:
    """This folder, then its parents up to the first border.

    The search ends at the home folder, which is still searched. It ends before a folder of another
    user, a folder anyone may write to (such as the temporary folder), another file system, and a
    folder that RECYCLER_CEILING lists (as GIT_CEILING_DIRECTORIES does for git).
    """
    ceilings = {Path(c).resolve() for c in os.environ.get(CEILING, "").split(os.pathsep) if c}
    ceilings.add(Path(tempfile.gettempdir()).resolve())
    home = Path(os.path.expanduser("~")).resolve()  # unknown for some users in containers
    here = here.resolve()
    device = here.stat().st_dev
    yield here
    for below, folder in zip((here, *here.parents), here.parents, strict=False):
        about = folder.stat()
        if below == home or folder in ceilings or about.st_dev != device:
            return
        if about.st_uid != os.geteuid() or about.st_mode & 0o002:
            return
        yield folder


def _ours(path: Path) -> bool:
    """Whether a file, and the link that leads to it, belong to the current user."""
    try:
        return {path.stat().st_uid, path.lstat().st_uid} == {os.geteuid()}
    except OSError:  # unreadable, or a broken link
        return False
