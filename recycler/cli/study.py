"""Commands that run studies: `recycler run`, `recycler stop`, `recycler studies`."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import FOLDER, as_json, print_json, workspace_of


@click.command()
@click.argument("study_file", type=FOLDER)
@click.option("--workers", type=click.IntRange(1), help="Merges evaluated at the same time.")
@click.option("--executor", help="inline, ray or a registered one; default: ray if workers > 1.")
@click.option("--ray-address", help="An existing Ray cluster.")
@click.option("--device", help="torch device of the workers.")
@click.option("--replace", is_flag=True, help="Start that study anew; its trials are deleted.")
@as_json
@click.pass_obj
def run(store: str, /, study_file: Path, replace: bool, as_json: bool, **given: Any) -> None:
    """Run the study of STUDY_FILE, or resume it. Ctrl-C stops it; nothing is lost.

    \b
    Example: recycler run configs/demo.yaml --workers 2
    """
    config = lazy("recycler.submit.config").read_study(study_file)
    changes = {key: value for key, value in given.items() if value is not None}
    execution = config.execution.model_copy(update=changes)
    workspace = workspace_of(store, create=True)
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        submit = lazy("recycler.submit.submission").submit
        plan = submit(workspace, study_file, bar.bytes_read, replace=replace)
        study = lazy("recycler.study").Study(plan.name, workspace)
        study.run(execution, bar.step, bar.bytes_read)
    results = study.results
    print_json(results.front_json()) if as_json else lazy("recycler.report.text").front(results)


@click.command()
@click.argument("study")
@click.option("--pause", is_flag=True, help="Pause instead; `recycler run` resumes either way.")
@as_json
@click.pass_obj
def stop(store: str, study: str, pause: bool, as_json: bool) -> None:
    """Ask the process that runs STUDY to stop once the merges in flight are scored.

    \b
    Example: recycler stop my-study
    """
    workspace = workspace_of(store)
    workspace.store.status(study)  # raises NotFound if there is none
    wanted = lazy("recycler.nouns.status").Wanted("pause" if pause else "stop")
    asked = lazy("recycler.runs").request(workspace.store, study, wanted)
    if as_json:
        print_json({"study": study, "asked": asked})
    else:
        click.echo(f"asked to {wanted}" if asked else f"no process runs {study!r}")


@click.command()
@as_json
@click.pass_obj
def studies(store: str, as_json: bool) -> None:
    """List the studies of the ledger with their status.

    \b
    Example: recycler studies
    """
    rows = workspace_of(store).store.studies()
    print_json(rows) if as_json else lazy("recycler.report.text").studies(rows)
