"""One finished toy study, made once a process and read by several test modules."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import toy

from recycler.study import Study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

NAME = "toy"


@dataclass(frozen=True)
class World:
    """Where everything of the finished study lies; read only."""

    root: Path
    folders: tuple[Path, ...]
    file: Path
    store: str

    def open(self) -> Study:
        """The study, read anew from its ledger."""
        return Study(NAME, Workspace(self.store, create=False))


def build(root: Path, folders: list[Path] | None = None, **search) -> World:
    """Run the toy study in a folder of its own, to its end."""
    root.mkdir(parents=True, exist_ok=True)
    folders = folders or toy.drawer(root / "drawer", n=3)
    store = str(root / "ledger.db")
    file = toy.study_file(root, folders, **search)
    workspace = Workspace(store)
    plan = submit(workspace, file)
    Study(plan.name, workspace).run()
    return World(root, tuple(folders), file, store)


@cache
def finished(root: Path) -> World:
    """The study that export, report and command line share; call with the session's base folder."""
    return build(root / "finished-study")
