"""`recycler scout`: the single checkpoints on all tasks, before any merge is paid for."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import (
    FOLDER,
    as_json,
    is_remote,
    leaving,
    print_json,
    workspace_of,
    write,
)


@click.command()
@click.argument("study_file", type=FOLDER)
@click.option("--workers", type=click.IntRange(1), help="Checkpoints scored at the same time.")
@click.option("--executor", help="inline, ray or a registered one; default: ray if workers > 1.")
@click.option("--device", help="torch device of the workers.")
@click.option(
    "--write", "put", is_flag=True, help="Put the proposal into STUDY_FILE; keeps a copy."
)
@click.option("--html", type=FOLDER, help="Write a page with interactive figures.")
@click.option("--png", type=FOLDER, help="Write a picture.")
@as_json
@click.pass_obj
def scout(
    store: str, /, study_file: Path, put: bool, html: Path, png: Path, as_json: bool, **given: Any
) -> None:
    """Score the single checkpoints of STUDY_FILE on all its tasks, and say what to search.

    Tasks under `candidates:` are scored too. `recycler run` does not score the singles again.
    --write lists the proposed tasks under `objectives:` and the other ones under `held_out:`.

    \b
    Example: recycler scout study.yaml --png scout.png
    """
    config = lazy("recycler.submit.config").read_study(study_file)
    changes = {key: value for key, value in given.items() if value is not None}
    execution, workspace = config.execution.model_copy(update=changes), workspace_of(store, True)
    home = "recycler.client.study" if is_remote(store) else "recycler.scout"
    with (
        lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar,
        leaving(store, "scouting", f"{config.study}-scout"),
    ):
        found = lazy(home).scout(workspace, study_file, execution, bar.step, bar.bytes_read)
    report = lazy("recycler.report.scouting")
    print_json(report.to_json(found)) if as_json else report.scouting(found)
    draw(found, html, png)
    if put:
        write_proposal(study_file, found, workspace)


def draw(found: Any, html: Path | None, png: Path | None) -> None:
    """Write the page and the picture that were asked for."""
    figures = lazy("recycler.report.scouting_figures")
    if html:
        write(html, figures.html_page(found).encode(), b"<title>recycler scout:")
    if png:
        write(png, figures.png(found), b"recycler")


def write_proposal(file: Path, found: Any, workspace: Any) -> None:
    """Put the proposal into the study file, and say what became of it."""
    if found.proposal is None:
        click.echo(f"{file} is unchanged: no trade-off is certain.", err=True)
        return
    copy = lazy("recycler.submit.rewriting").write_objectives(file, found.proposal.tasks)
    click.echo(f"{file} is rewritten; as it was: {copy}", err=True)
    if found.study in {row["name"] for row in workspace.store.studies()}:
        click.echo(
            f"The ledger has a study {found.study!r} already: if its objectives are others, give the "
            "file a new name under `study:`.",
            err=True,
        )
