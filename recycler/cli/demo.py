"""`recycler demo`: the main job on the built-in pool."""

import os
from importlib import import_module as lazy
from pathlib import Path

import click

from recycler.cli.common import FOLDER, as_json, print_json, workspace_of


@click.command()
@click.option("--out", type=FOLDER, default=Path("recycler-demo"), show_default=True)
@click.option(
    "--workers", type=click.IntRange(1), default=None, help="Default: one per core, at most 2."
)
@click.option("--evaluations", type=click.IntRange(0), default=None, help="Budget. Default: 50.")
@click.option("--fresh", is_flag=True, help="Delete an earlier demo and start over.")
@as_json
@click.pass_obj
def demo(
    store: str, out: Path, workers: int | None, evaluations: int | None, fresh: bool, as_json: bool
) -> None:
    """Run the main job on the built-in pool from start to end; run again to resume.

    \b
    Example: recycler demo
    """
    result = lazy("recycler.demo.walkthrough").walk(
        workspace_of(store, create=True),
        out,
        workers or min(2, os.cpu_count() or 1),
        evaluations,
        fresh,
        quiet=as_json,
    )
    if as_json:
        print_json(result)
