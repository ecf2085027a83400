"""What all commands share: options, opening a ledger, printing.

Commands import heavy modules through `lazy`, so that `--help` stays fast.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.errors import InvalidConfig

FOLDER = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
force_option = click.option(
    "--force", is_flag=True, help="Replace OUT if it is empty or an earlier merge."
)


def print_json(table: Any) -> None:
    """Print a table as JSON on standard output."""
    click.echo(json.dumps(table, indent=2, ensure_ascii=False))


def is_remote(store: str) -> bool:
    """Whether the ledger is that of a server: `--server` puts its URL in the place of `--store`."""
    return store.startswith(("http://", "https://"))


def workspace_of(store: str, create: bool = False) -> Any:
    """The workspace of a ledger or a server, closed when the command ends.

    Raises:
        NotFound: there is no ledger and none may be created.
    """
    if is_remote(store):
        workspace = lazy("recycler.client.remote").RemoteWorkspace(store)
    else:
        workspace = lazy("recycler.submit.workspace").Workspace(store, create=create)
    click.get_current_context().call_on_close(workspace.store.close)
    return workspace


def results_of(store: str, study: str) -> Any:
    """A study as it is now, in one reading."""
    return lazy("recycler.front.results").Results.read(workspace_of(store).store, study)


def study_in(workspace: Any, name: str) -> Any:
    """The handle of a study of a workspace."""
    if is_remote(workspace.url):
        return lazy("recycler.client.study").RemoteStudy(name, workspace)
    return lazy("recycler.study").Study(name, workspace)


def study_of(store: str, name: str) -> Any:
    """The handle of a study."""
    return study_in(workspace_of(store), name)


@contextmanager
def leaving(store: str, what: str, study: str) -> Iterator[None]:
    """Say, after Ctrl-C, that what a server does goes on, and how to end it; exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_remote(store):
            raise
        click.echo(
            f"The {what} goes on, on {store}: `recycler watch {study}` shows it, "
            f"`recycler stop {study}` stops it.",
            err=True,
        )
        click.get_current_context().exit(130)


def numbers(text: str) -> dict[str, float]:
    """`a=2,b=1` as a mapping."""
    try:
        pairs = [part.split("=", 1) for part in text.split(",")]
        found = {name.strip(): float(value) for name, value in pairs}
        if not all(map(math.isfinite, found.values())):
            raise ValueError(text)
    except ValueError as error:
        raise InvalidConfig(
            f"{text!r} is not of the form name=number,name=number.",
            hint="for example `--weights a=0.5,b=0.5`, `--prefer code=2,prose=1`.",
        ) from error
    if len(found) < len(pairs):
        raise InvalidConfig(f"{text!r} gives one name twice.", hint="give each name once.")
    return found


def write(file: Path, content: bytes, mark: bytes) -> None:
    """Write a report; replaces only an earlier one of its kind."""
    lazy("recycler.files").write_whole(file, content, mark)
    click.echo(str(file), err=True)


def tell_left(done: dict[str, Any]) -> None:
    """Say on standard error which donor files were not copied, and what is left beside the folder."""
    for file in done["left_behind"]:
        click.echo(f"left behind: {file['name']} ({file['why']})", err=True)
    for folder in done["leftovers"]:
        click.echo(
            f"left by an earlier process; delete it if you don't need it: {folder}", err=True
        )
