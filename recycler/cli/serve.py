"""`recycler serve`: the service and its page."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import FOLDER


@click.command()
@click.option("--config", "file", type=FOLDER, help="Settings of the service, a YAML file.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port.  [default: 8321]")
@click.option("--root", "checkpoints", multiple=True, help="Folder of checkpoints (repeatable).")
@click.option("--exports", help="Folder for exports.")
@click.pass_obj
def serve(store: str, /, file: Path | None, **given: Any) -> None:
    """Serve pools, studies and exports over HTTP, with a page for people.

    \b
    Example: recycler serve --root runs/
    """
    core, placed = (
        lazy("recycler.service.config"),
        {k: v for k, v in given.items() if v not in (None, ())},
    )
    config = core.read_config(file) if file else core.ServiceConfig()
    config = core.ServiceConfig.model_validate({**config.model_dump(), **placed})
    config = core.placed(config, Path.cwd())
    if store:
        config = config.model_copy(update={"store": store})
    lazy("recycler.service.server").serve(config, tell)


def tell(address: str) -> None:
    """Say where the service listens."""
    click.echo(f"recycler serves {address} (Ctrl-C ends it; studies go on)", err=True)
