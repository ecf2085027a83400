"""Commands on whole studies: `recycler run`, `stop`, `watch`, `studies`, `rm`."""

import sys
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import (
    FOLDER,
    as_json,
    is_remote,
    leaving,
    print_json,
    study_in,
    workspace_of,
)
from recycler.errors import InvalidConfig


@click.command()
@click.argument("study_file", type=FOLDER)
@click.option("--workers", type=click.IntRange(1), help="Merges evaluated at the same time.")
@click.option("--executor", help="inline, ray or a registered one; default: ray if workers > 1.")
@click.option("--ray-address", help="An existing Ray cluster.")
@click.option("--device", help="torch device of the workers.")
@click.option("--replace", is_flag=True, help="Start that study anew; its trials are deleted.")
@click.option("--plan", is_flag=True, help="Print what it will cost; run and change nothing.")
@as_json
@click.pass_obj
def run(
    store: str, /, study_file: Path, replace: bool, plan: bool, as_json: bool, **given: Any
) -> None:
    """Run the study of STUDY_FILE, or resume it. Ctrl-C stops it; nothing is lost.

    \b
    Example: recycler run configs/demo.yaml --workers 2
    """
    config = lazy("recycler.submit.config").read_study(study_file)
    changes = {key: value for key, value in given.items() if value is not None}
    execution = config.execution.model_copy(update=changes)
    if plan:
        return price(store, study_file, execution, replace, as_json)
    with (
        lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar,
        leaving(store, "run", config.study),
    ):
        results = results_after_run(store, study_file, execution, replace, bar)
    print_json(results.front_json()) if as_json else lazy("recycler.report.text").front(results)


def results_after_run(
    store: str, study_file: Path, execution: Any, replace: bool, bar: Any
) -> Any:
    """Submit a study, here or to a server, run it to its end and read what it found."""
    workspace = workspace_of(store, create=True)
    home = "recycler.client.study" if is_remote(store) else "recycler.submit.submission"
    name = lazy(home).submit(workspace, study_file, bar.bytes_read, replace=replace).name
    return study_in(workspace, name).run(execution, bar.step, bar.bytes_read).results


def price(store: str, study_file: Path, execution: Any, replace: bool, as_json: bool) -> None:
    """Print the bill of a study."""
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        if is_remote(store):
            workspace, make = workspace_of(store), lazy("recycler.client.study").quote
            found = make(workspace, study_file, execution, replace=replace, tell=bar.timing)
        else:
            make = lazy("recycler.quote").quote
            found = make(study_file, execution, store, replace=replace, tell=bar.timing)
    if as_json:
        print_json(lazy("recycler.front.bill").to_json(found))
    else:
        lazy("recycler.report.bills").bill(found, here=not is_remote(store))


@click.command()
@click.argument("study")
@click.option("--pause", is_flag=True, help="Pause instead; `recycler run` resumes either way.")
@click.option("--now", is_flag=True, help="Don't wait for the merges in flight; they are redone.")
@as_json
@click.pass_obj
def stop(store: str, study: str, pause: bool, now: bool, as_json: bool) -> None:
    """Ask the process that runs STUDY to stop once the merges in flight are scored.

    With --now it ends within seconds; the merges in flight are evaluated again on resume. If no
    process runs STUDY, says since when and why; the exit code is 0 all the same.

    \b
    Example: recycler stop my-study
    """
    if pause and now:
        raise click.UsageError("give one of --pause and --now.")
    ledger = workspace_of(store).store
    ledger.status(study)  # raises NotFound if there is none
    wanted = lazy("recycler.nouns.status").Wanted("pause" if pause else "now" if now else "stop")
    asked = lazy("recycler.runs").request(ledger, study, wanted)
    status = ledger.status(study)
    if as_json:
        shown = {key: status[key] for key in ("status", "message", "alive", "holder", "heartbeat")}
        print_json({"study": study, "asked": asked, **shown})
    elif asked:
        how = "at once" if now else "once the merges in flight are scored"
        click.echo(f"asked {status['holder']} to {'pause' if pause else 'stop'} {how}")
    else:
        click.echo(lazy("recycler.report.listing").stopped(status))


@click.command()
@click.argument("study")
@click.option("--once", is_flag=True, help="One snapshot, also on a terminal.")
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, show_default=True, help="[s]")
@as_json
@click.pass_obj
def watch(store: str, study: str, once: bool, interval: float, as_json: bool) -> None:
    """Watch STUDY from any terminal: progress, latest trials, failures, the pick so far.

    Ends when the run ends. Ctrl-C ends the watching and leaves the run alone. Without a terminal,
    with --once or with --json: one snapshot.

    \b
    Example: recycler watch my-study
    """
    watcher = lazy("recycler.watching").Watcher(workspace_of(store).store, study)
    if as_json:
        print_json(watcher.look().to_json())
    else:
        lazy("recycler.report.watching").follow(watcher, interval, once)


@click.command()
@as_json
@click.pass_obj
def studies(store: str, as_json: bool) -> None:
    """List the studies of the ledger: status, progress, ETA, and the process that runs each.

    \b
    Example: recycler studies
    """
    listing = lazy("recycler.report.listing")
    rows = listing.studies_json(workspace_of(store).store)
    print_json(rows) if as_json else listing.studies(rows)


@click.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="Don't ask.")
@as_json
@click.pass_obj
def rm(store: str, study: str, yes: bool, as_json: bool) -> None:
    """Delete STUDY with its trials; refused while a process runs it.

    Its evaluations stay in the ledger, so another study over the same merges need not repeat them.

    \b
    Example: recycler rm my-study
    """
    workspace = workspace_of(store)
    trials = workspace.trial_count(study)
    if not yes:
        question = f"Delete study {study!r} with {trials} trials (their evaluations stay)?"
        if as_json or not sys.stdin.isatty():
            raise InvalidConfig(f"{question} Nobody can answer here.", hint="add --yes.")
        if not click.confirm(question, err=True):
            click.echo("nothing was deleted", err=True)
            click.get_current_context().exit(1)
    done = workspace.remove_study(study)
    if as_json:
        print_json(done)
    else:
        click.echo(f"deleted study {study!r}: {done['trials']} trials; their evaluations stay")
