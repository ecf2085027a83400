"""`recycler predict`: what the model of the search expects of merges that were not scored."""

from importlib import import_module as lazy
from pathlib import Path

import click

from recycler.cli.common import FOLDER, as_json, numbers, print_json, study_of


@click.command()
@click.argument("study")
@click.option(
    "--weights", multiple=True, metavar="a=0.5,b=0.5", help="Predict this merge (repeatable)."
)
@click.option(
    "--recipe", multiple=True, type=FOLDER, help="Predict the merge of a recipe file (repeatable)."
)
@click.option(
    "--prefer",
    multiple=True,
    metavar="x=2,y=1",
    help="Propose the weights expected best for this weighted average (repeatable).",
)
@click.option(
    "--grid",
    type=click.IntRange(1, 100),
    help="Propose weights for so many preferences, spread over all objectives.",
)
@click.option("--evaluate", is_flag=True, help="Then score these merges, as `recycler try` does.")
@as_json
@click.pass_obj
def predict(
    store: str,
    study: str,
    weights: tuple[str, ...],
    recipe: tuple[Path, ...],
    prefer: tuple[str, ...],
    grid: int | None,
    evaluate: bool,
    as_json: bool,
) -> None:
    """Say what is expected of merges in STUDY, with 90 % intervals, without evaluating them.

    \b
    Example: recycler predict demo --weights code-a=0.5,prose-a=0.5
             recycler predict demo --prefer code=2,prose=1
    """
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        table = study_of(store, study).predict(
            *map(numbers, weights),
            *recipe,
            prefer=[*map(numbers, prefer)],
            grid=grid or 0,
            evaluate=evaluate,
            listen=bar.step,
        )
    if as_json:
        print_json(table)
        return
    lazy("recycler.report.foresight").print_foresight(table)
    for row in table["evaluated"]:
        lazy("recycler.report.listing").tried(row)
