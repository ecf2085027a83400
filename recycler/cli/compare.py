"""Commands that set trials side by side: `recycler compare`."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import FOLDER, as_json, print_json, results_of, study_of, write


@click.command()
@click.argument("study")
@click.argument("trials", nargs=-1, required=True, metavar="A B [...]")
@click.option("--split", type=click.Choice(["dev", "select", "test"]), help="Which items.")
@click.option("--items", "task", metavar="TASK", help="List the items whose outcomes differ.")
@click.option("--all", "every", is_flag=True, help="With --items: also those that do not differ.")
@click.option("--again", is_flag=True, help="With --items: score again what has no answers.")
@click.option("--limit", type=click.IntRange(0), default=10, help="Items to show; 0: all.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Items to leave out first.")
@click.option("--csv", type=FOLDER, help="Write the differences as a table.")
@as_json
@click.pass_obj
def compare(
    store: str,
    /,
    study: str,
    trials: tuple[str, ...],
    split: str | None,
    task: str | None,
    every: bool,
    again: bool,
    limit: int,
    skip: int,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Compare trial A of STUDY with each of the others, item by item.

    Trials are numbers or names: 17, single:code-a, uniform, greedy, pick, knee.

    \b
    Example: recycler compare demo pick single:code-a --items arithmetic
    """
    if len(trials) < 2:
        raise click.UsageError("give at least two trials, such as `pick` and `uniform`.")
    if (every or again) and task is None:
        raise click.UsageError("--all and --again belong to --items TASK.")
    core, report = lazy("recycler.front.compare"), lazy("recycler.report.compare")
    found = core.compare(results_of(store, study), trials, split or "")
    chosen = _items(store, study, found, task, every, again) if task else None
    if csv:
        write(csv, report.table(found).to_csv(index=False).encode(), b"trial,split,objective")
    if as_json:
        print_json({**found.to_json(), **({"items": chosen.to_json()} if chosen else {})})
    elif chosen:
        report.items(found, chosen, skip, limit)
    elif not csv:
        report.comparison(found)


def _items(store: str, study: str, found: Any, task: str, every: bool, again: bool) -> Any:
    """The items of a task, after their missing answers were made again on request."""
    chosen = found.items(task, every)
    if again and chosen.unkept:
        study_of(store, study).answer_again(chosen.unkept, found.split, chosen.objective.name)
        chosen = found.items(task, every)
    return chosen
