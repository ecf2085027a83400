"""`recycler try`: one's own merge becomes a trial of a study."""

from importlib import import_module as lazy
from pathlib import Path

import click

from recycler.cli.common import FOLDER, as_json, numbers, print_json, study_of


@click.command("try")
@click.argument("study")
@click.option("--weights", metavar="a=0.5,b=0.5", help="Checkpoints and weights that sum to 1.")
@click.option("--recipe", type=FOLDER, help="A recipe file: recycler's or mergekit's YAML.")
@click.option("--no-run", is_flag=True, help="Only queue it for the next run.")
@click.option("--wait", is_flag=True, help="Wait for the score if another process runs STUDY.")
@click.option("--device", default="cpu", show_default=True, help="torch device, if it runs here.")
@as_json
@click.pass_obj
def attempt(
    store: str,
    study: str,
    weights: str | None,
    recipe: Path | None,
    no_run: bool,
    wait: bool,
    device: str,
    as_json: bool,
) -> None:
    """Score a merge of your own in STUDY; it becomes a trial like any other, outside the budget.

    A process that runs STUDY takes it up next. If none does, it is scored here; in a complete study
    also on select and test items. A merge that the study already has is only shown.

    \b
    Example: recycler try demo --weights code-a=0.5,prose-a=0.5
    """
    if (weights is None) == (recipe is None):
        raise click.UsageError("give one of --weights and --recipe.")
    asked = recipe if weights is None else numbers(weights)
    execution = lazy("recycler.submit.config").ExecutionSection(device=device)
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        table = study_of(store, study).try_merge(
            asked, run=not no_run, wait=wait, execution=execution, listen=bar.step
        )
    print_json(table) if as_json else lazy("recycler.report.listing").tried(table)
