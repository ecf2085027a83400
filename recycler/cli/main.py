"""The command line: one group of commands, and how errors are printed.

Each command parses its arguments, calls one function and prints the result.
"""

import json
import os
import sys
from importlib import import_module as lazy

import click

from recycler import __version__
from recycler.cli.attempt import attempt
from recycler.cli.compare import compare
from recycler.cli.dashboard import dashboard
from recycler.cli.demo import demo
from recycler.cli.export import export, verify
from recycler.cli.init import init
from recycler.cli.merge import merge
from recycler.cli.pool import pool
from recycler.cli.predict import predict
from recycler.cli.read import front, pick, show
from recycler.cli.sample import sample
from recycler.cli.scout import scout
from recycler.cli.serve import serve
from recycler.cli.study import rm, run, stop, studies, watch
from recycler.cli.token import token
from recycler.errors import InvalidConfig, RecyclerError


class _InOrder(click.Group):
    """A group that lists its commands as they were added, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="recycler")
@click.option("--store", default="", metavar="URL", help="Ledger: a path or database URL.")
@click.option(
    "--server", default="", metavar="URL", help="A running `recycler serve`; or RECYCLER_SERVER."
)
@click.pass_context
def cli(context: click.Context, store: str, server: str) -> None:
    """Turn a drawer of leftover checkpoints into a Pareto front of better models.

    \b
    Example:
      recycler demo                      the whole job on a built-in pool
      recycler init runs/* --tasks A,B   a study file for your own folders
      recycler scout study.yaml          which tasks are worth a search
      recycler run study.yaml            search your own pool
      recycler front STUDY               what to take, with error bars
      recycler export STUDY pick OUT     a Hugging Face folder, proved to be what was scored
    """
    if store and server:
        raise click.UsageError("give one of --store and --server.")
    server = server or ("" if store else os.environ.get("RECYCLER_SERVER", ""))
    if server:
        store = lazy("recycler.client.token").checked_url(server)
        require_remote(context.invoked_subcommand or "")
    context.obj = store


def require_remote(command: str) -> None:
    """Raise InvalidConfig if a command works on this machine alone."""
    if command in HERE_ONLY:
        raise InvalidConfig(
            f"`recycler {command}` works on this machine, not through a server.",
            hint=f"leave out --server, or unset RECYCLER_SERVER: {HERE_ONLY[command]}.",
        )


HERE_ONLY = {  # command -> why a server does not do it
    "demo": "the demo makes its own pool and ledger in a folder",
    "serve": "it starts a server over the ledger of --store",
    "merge": "one merge needs checkpoints and no ledger",
    "init": "it reads folders and tasks of the machine on which it runs",
    "token": "tokens are made beside the ledger, with --store",
}


# Each command with its line in `recycler --help`, in the order of the work.
COMMANDS = (
    (demo, "Run the whole job on a built-in pool."),
    (init, "Write a study file for folders: complete, commented."),
    (pool, "Check and register pools of checkpoints."),
    (merge, "Merge once, without a study."),
    (scout, "Score the single checkpoints, before merges are paid for."),
    (run, "Run the study of a file, or resume it."),
    (watch, "Watch a study from any terminal."),
    (stop, "Ask the process that runs a study to stop."),
    (studies, "List the studies: status, progress, ETA."),
    (attempt, "Score a merge of your own."),
    (predict, "Say what is expected of merges that nobody scored."),
    (front, "Show what to take, and the Pareto front."),
    (pick, "Print the number of the trial to take, and why."),
    (compare, "Compare trials, objective by objective and item by item."),
    (sample, "Let trials answer prompts, side by side."),
    (show, "Show one trial: recipe, scores, timings."),
    (export, "Write a trial as a Hugging Face folder, verified."),
    (verify, "Prove that a folder holds the bytes that were scored."),
    (serve, "Serve pools, studies and exports over HTTP, with a page."),
    (token, "Make, list and revoke tokens of the service."),
    (dashboard, "Open a copy of a study in optuna-dashboard."),
    (rm, "Delete a study with its trials."),
)
for command, line in COMMANDS:
    command.short_help = line
    cli.add_command(command)


def main() -> None:
    """Run the command line; a user's error is two lines on standard error and exit code 1."""
    try:
        code = cli.main(standalone_mode=False)  # the argument of Context.exit, else None
    except RecyclerError as error:
        if "--json" in sys.argv:
            click.echo(json.dumps(error.to_json()), err=True)
        else:
            click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(
            "Stopped; no partial files are left. All scores of a study are in the ledger: run the "
            "same command to resume.",
            err=True,
        )
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
