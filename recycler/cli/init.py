"""`recycler init`: from folders and tasks to a study file."""

import sys
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import FOLDER, as_json, print_json


@click.command()
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--tasks", default="", help="Tasks to be good at, by commas.")
@click.option("--objectives", default="", help="The same by hand: TASK:METRIC[:min], by commas.")
@click.option("--held-out", default="", help="Tasks that are only reported, by commas.")
@click.option("--include-path", type=FOLDER, help="A folder of tasks, as lm_eval's flag.")
@click.option("--base", type=FOLDER, help="Common ancestor. Default: what most folders name.")
@click.option(
    "--name", default="", help="Name of the study. Default: after the file or the folder."
)
@click.option("-o", "--out", type=FOLDER, default=Path("study.yaml"), show_default=True)
@click.option("--evaluations", type=click.IntRange(1), default=50, show_default=True)
@click.option("--dtype", help="dtype of the merges. Default: the checkpoints', if quick here.")
@click.option(
    "--allow-unsafe-code", is_flag=True, help="Allow tasks that run what a model writes."
)
@click.option("--yes", is_flag=True, help="Ask nothing, for scripts.")
@as_json
@click.pass_context
def init(
    context: click.Context, /, folders: tuple[Path, ...], yes: bool, as_json: bool, **given: Any
) -> None:
    """Check folders and write a study file for them: complete, commented, ready to run.

    An existing file is never overwritten. Exit code 2: the folders can't be merged; no file.

    \b
    Example: recycler init runs/* --tasks code,chat --include-path tasks -o study.yaml
    """
    drafting, shown = lazy("recycler.submit.drafting"), lazy("recycler.report.text")
    wanted = drafting.Wanted.of(folders, **given)
    ask = not (yes or as_json) and sys.stdin.isatty() and sys.stdout.isatty()
    done = drafting.init(wanted, _choose if ask else None)
    if as_json:
        found = shown.check_json(done.drawer.pool, done.drawer.findings, None)
        print_json({**found, "study": done.draft and done.draft.to_json()})
    else:
        if done.drawer.findings or not done.draft:
            shown.check(done.drawer.pool, done.drawer.findings, None)
        if done.draft:
            lazy("recycler.report.drafts").draft(done.draft)
    context.exit(0 if done.draft else 2)


def _choose(offer: Any) -> str:
    """Ask which metric of a task counts."""
    names = [metric.name for metric in offer.metrics]
    chosen: str = click.prompt(
        f"metric of {offer.task}", type=click.Choice(names), default=names[0], err=True
    )
    return chosen
