"""`recycler merge`: one merge without a study."""

from importlib import import_module as lazy
from pathlib import Path

import click

from recycler.cli.common import FOLDER, as_json, force_option, print_json, tell_left


@click.command()
@click.argument("recipe", type=FOLDER)
@click.argument("out", type=FOLDER)
@force_option
@click.option("--shard-size", type=click.IntRange(1), default=5000, show_default=True, help="[MB]")
@as_json
@click.pass_obj
def merge(
    store: str, recipe: Path, out: Path, force: bool, shard_size: int, as_json: bool
) -> None:
    """Merge once, without a study: RECIPE is recycler's or mergekit's YAML.

    \b
    Example: recycler merge recipe.yaml merged/
    """
    done = lazy("recycler.export").merge_file(recipe, out, force, shard_size * 1_000_000, as_json)
    print_json(done) if as_json else click.echo(f"{done['path']}\n{done['digest']}")
    tell_left(done)
