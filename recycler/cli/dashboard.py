"""`recycler dashboard`: a study in optuna-dashboard."""

from importlib import import_module as lazy

import click

from recycler.cli.common import results_of


@click.command()
@click.argument("study")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.pass_obj
def dashboard(store: str, study: str, host: str, port: int) -> None:
    """Show a copy of STUDY in optuna-dashboard; the ledger is only read. Ctrl-C ends it.

    \b
    Example: recycler dashboard demo --port 8080
    """
    tool = lazy("recycler.search.optuna_copy")
    tool.require_dashboard()
    results = results_of(store, study)
    click.echo(f"a copy of study {study} on http://{host}:{port}/ (Ctrl-C ends it)", err=True)
    tool.dashboard(results, host, port)
