"""The command line: each command reads its arguments, calls one thing and prints it.

Heavy modules are imported by the commands that need them, so `--help` stays instant.
May import: errors, click; everything else through `lazy`.
"""

import json
import os
import sys
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler import __version__
from recycler.errors import NotFound, RecyclerError
from recycler.files import write_whole

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
FOLDER = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="recycler")
@click.option("--store", default="", metavar="URL", help="Ledger: a path or database URL.")
@click.pass_context
def cli(context: click.Context, store: str) -> None:
    """Turn a drawer of leftover checkpoints into a Pareto front of better models.

    \b
    Example:
      recycler demo                      the whole job on a built-in pool
      recycler run study.yaml            search your own pool
      recycler front STUDY               what was found, with error bars
      recycler export STUDY TRIAL OUT    a Hugging Face folder, proved to be what was scored
    """
    context.obj = store


@cli.command()
@click.option("--out", type=FOLDER, default=Path("recycler-demo"), show_default=True)
@click.option(
    "--workers", type=click.IntRange(1), default=None, help="Default: one a core, at most 2."
)
@click.option("--evaluations", type=click.IntRange(0), default=None, help="Budget. Default: 50.")
@click.option("--fresh", is_flag=True, help="Forget an earlier demo and start over.")
@as_json
@click.pass_obj
def demo(
    store: str, out: Path, workers: int | None, evaluations: int | None, fresh: bool, as_json: bool
) -> None:
    """Run the main job on the built-in pool, start to end; run again to resume.

    \b
    Example: recycler demo
    """
    result = lazy("recycler.demo.walkthrough").walk(
        lazy("recycler.submit.workspace").Workspace(store),
        out,
        workers or min(2, os.cpu_count() or 1),
        evaluations,
        fresh,
        quiet=as_json,
    )
    if as_json:
        _print_json(result)


@cli.group()
def pool() -> None:
    """Check and register pools of checkpoints."""


@pool.command("check")
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--base", type=FOLDER, help="Common ancestor, for task-vector methods.")
@click.option("--deep", is_flag=True, help="Read every tensor once: NaN, duplicates, geometry.")
@as_json
@click.pass_context
def pool_check(
    context: click.Context,
    folders: tuple[Path, ...],
    base: Path | None,
    deep: bool,
    as_json: bool,
) -> None:
    """Say from the headers alone whether folders can be merged; stores nothing.

    With --deep every tensor is read once: NaN and Inf, checkpoints of equal bytes, fingerprints,
    norms and cosines of the task vectors (from --base, or else from the mean).
    Exit code 0: fine, 1: warnings, 2: errors.

    \b
    Example: recycler pool check runs/* --base runs/base
    """
    found, findings = lazy("recycler.checkpoints.pool").check_folders(folders, base)
    reading = None
    if deep and found:
        total = sum(checkpoint.nbytes for checkpoint in found.everything)
        with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
            reading = lazy("recycler.merge.deep").read(
                found, lambda count: bar.bytes_moved("reading", count, total)
            )
        findings = (*findings, *reading.findings)
    shown = lazy("recycler.report.text")
    if as_json:
        click.echo(json.dumps(shown.check_json(found, findings, reading), indent=2))
    else:
        shown.check(found, findings, reading)
    severities = {finding.severity for finding in findings}
    context.exit(2 if "error" in severities else 1 if severities else 0)


@pool.command("add")
@click.argument("name")
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--base", type=FOLDER, help="Common ancestor, for task-vector methods.")
@click.option("--replace", is_flag=True, help="Replace a pool of this name.")
@as_json
@click.pass_obj
def pool_add(
    store: str,
    name: str,
    folders: tuple[Path, ...],
    base: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Register folders, or one pool.yaml, as pool NAME.

    \b
    Example: recycler pool add drawer runs/sft-* runs/dpo-*
    """
    pools, workspace = (
        lazy("recycler.checkpoints.pool"),
        lazy("recycler.submit.workspace").Workspace(store),
    )
    if len(folders) == 1 and folders[0].suffix in (".yaml", ".yml"):
        listed = pools.Pool.from_yaml(folders[0])
        opened = pools.Pool(name, listed.checkpoints, listed.base)
    else:
        opened = pools.Pool.open(folders, base, name)
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        workspace.add_pool(opened, bar.bytes_read, replace)
    _show_pool(workspace, name, as_json)


@pool.command("list")
@as_json
@click.pass_obj
def pool_list(store: str, as_json: bool) -> None:
    """List the registered pools.

    \b
    Example: recycler pool list
    """
    names = lazy("recycler.submit.workspace").Workspace(store, create=False).store.pools()
    _print_json(names) if as_json else click.echo("\n".join(names) or "no pools yet")


@pool.command("show")
@click.argument("name")
@as_json
@click.pass_obj
def pool_show(store: str, name: str, as_json: bool) -> None:
    """Show the checkpoints of pool NAME with their fingerprints and metadata.

    \b
    Example: recycler pool show drawer --json
    """
    _show_pool(lazy("recycler.submit.workspace").Workspace(store, create=False), name, as_json)


def _show_pool(workspace: Any, name: str, as_json: bool) -> None:
    spec = {"name": name, **workspace.store.pool(name)}
    _print_json(spec) if as_json else lazy("recycler.report.text").pool(spec)


@cli.command()
@click.argument("recipe", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--force", is_flag=True, help="Replace OUT if it is empty or an earlier merge.")
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
    _print_json(done) if as_json else click.echo(f"{done['path']}\n{done['digest']}")
    _tell_left(done)


@cli.command()
@click.argument("study_file", type=FOLDER)
@click.option("--workers", type=click.IntRange(1), help="Merges evaluated at the same time.")
@click.option("--executor", help="inline, ray or a registered one; default: ray if workers > 1.")
@click.option("--ray-address", help="An existing Ray cluster.")
@click.option("--device", help="torch device of the workers.")
@as_json
@click.pass_obj
def run(store: str, /, study_file: Path, as_json: bool, **given: Any) -> None:
    """Run the study of STUDY_FILE, or resume it; stop with Ctrl-C, nothing is lost.

    \b
    Example: recycler run configs/demo.yaml --workers 2
    """
    config = lazy("recycler.submit.config").read_study(study_file)
    changes = {key: value for key, value in given.items() if value is not None}
    execution = config.execution.model_copy(update=changes)
    workspace = lazy("recycler.submit.workspace").Workspace(store)
    with lazy("recycler.report.progress").ProgressBar(quiet=as_json) as bar:
        plan = workspace.submit(study_file, bar.bytes_read)
        study = lazy("recycler.study").Study(plan.name, workspace)
        study.run(execution, bar.step, bar.bytes_read)
    results = study.results
    _print_json(results.front_json()) if as_json else lazy("recycler.report.text").front(results)


@cli.command()
@as_json
@click.pass_obj
def studies(store: str, as_json: bool) -> None:
    """List the studies of the ledger with their state.

    \b
    Example: recycler studies
    """
    rows = lazy("recycler.submit.workspace").Workspace(store, create=False).store.studies()
    _print_json(rows) if as_json else lazy("recycler.report.text").studies(rows)


@cli.command()
@click.argument("study")
@click.option("--html", type=FOLDER, help="Write the report, one self-contained file.")
@click.option("--png", type=FOLDER, help="Write a picture of the front.")
@click.option("--csv", type=FOLDER, help="Write members and baselines as a table.")
@as_json
@click.pass_obj
def front(
    store: str, study: str, html: Path | None, png: Path | None, csv: Path | None, as_json: bool
) -> None:
    """Show the Pareto front of STUDY, or write it as a page, a picture or a table.

    \b
    Example: recycler front demo --html report.html
    """
    opened = _study(store, study).results
    if html:
        page = lazy("recycler.report.page").html_page(opened)
        _write(html, page.encode(), b"<title>recycler:")
    if png:
        _write(png, lazy("recycler.report.figures").front_png(opened), b"recycler")
    if csv:
        table = lazy("recycler.report.tables").front_table(opened)
        _write(csv, table.to_csv(index=False).encode(), b"trial,name,kind")
    if as_json:
        _print_json(opened.front_json())
    elif not (html or png or csv):
        lazy("recycler.report.text").front(opened)


@cli.command()
@click.argument("study")
@click.argument("trial", type=int)
@as_json
@click.pass_obj
def show(store: str, study: str, trial: int, as_json: bool) -> None:
    """Show one TRIAL of STUDY: recipe, scores, digest, timings, failure.

    \b
    Example: recycler show demo 17
    """
    table = _study(store, study).results.trial_json(trial)
    _print_json(table) if as_json else lazy("recycler.report.text").trial(table)


@cli.command()
@click.argument("study")
@click.option("--knee", is_flag=True, help="The best balanced member (default).")
@click.option(
    "--prefer",
    metavar="[a=2,b=1]",
    is_flag=False,
    flag_value="",
    help="Largest weighted sum of gains; alone, with the weights of the objectives.",
)
@click.option("--floor", metavar="a=0.6", help="Knee among members at least this good.")
@as_json
@click.pass_obj
def pick(
    store: str, study: str, knee: bool, prefer: str | None, floor: str | None, as_json: bool
) -> None:
    """Pick one member of the front of STUDY and print its trial number.

    \b
    Example: recycler pick demo --floor arithmetic=0.5
    """
    if knee + (prefer is not None) + bool(floor) > 1:
        raise click.UsageError("give one of --knee, --prefer and --floor.")
    opened = _study(store, study).results
    members = opened.front
    if prefer is not None:
        chosen = members.prefer(_pairs(prefer) if prefer else None)
    else:
        chosen = members.above(_pairs(floor)) if floor else members.knee()
    _print_json(opened.trial_json(chosen.number)) if as_json else click.echo(chosen.number)


@cli.command()
@click.argument("study")
@click.argument("trial", type=int)
@click.argument("out", type=FOLDER)
@click.option("--force", is_flag=True, help="Replace OUT if it is empty or an earlier merge.")
@click.option("--donor", default="", help="Checkpoint that gives config and tokenizer.")
@as_json
@click.pass_obj
def export(
    store: str, study: str, trial: int, out: Path, force: bool, donor: str, as_json: bool
) -> None:
    """Write TRIAL of STUDY as a Hugging Face folder OUT, verified against the ledger.

    \b
    Example: recycler export demo $(recycler pick demo --knee) best/
    """
    done = _study(store, study).export(trial, out, force=force, donor=donor)
    if as_json:
        _print_json(done)
    else:
        click.echo(f"{done['path']}\n{done['digest']} (verified against the ledger)")
    _tell_left(done)


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--score", is_flag=True, help="Load it with transformers and score it again too.")
@as_json
@click.pass_obj
def verify(store: str, folder: Path, score: bool, as_json: bool) -> None:
    """Prove that an exported FOLDER holds the bytes that were scored.

    Every tensor is hashed and compared with the folder's recycler.json and, where the ledger knows
    the study, with the ledger.

    \b
    Example: recycler verify best/ --score
    """
    export = lazy("recycler.export")
    done = export.verify(folder)
    try:
        study = _study(store, done["study"])
    except NotFound:
        if score:
            raise
        done["ledger"] = False
    else:
        results = study.results
        export.require_ledgers(results, done)
        done["ledger"] = True
    if score:
        done["scores"] = lazy("recycler.execute.rescore").rescore(
            results, study.scorer_factory().make_evaluator(), folder
        )
    if as_json:
        _print_json(done)
    else:
        known = (
            " and the ledger" if done["ledger"] else f"; no study {done['study']!r} in this ledger"
        )
        click.echo(f"{done['path']}\n{done['digest']} matches its recycler.json{known}")
        for row in done.get("scores", []):
            click.echo(f"{row['objective']} on {row['split']}: {row['again']!r}, as in the ledger")


def _study(store: str, name: str) -> Any:
    workspace = lazy("recycler.submit.workspace").Workspace(store, create=False)
    return lazy("recycler.study").Study(name, workspace)


def _pairs(text: str) -> dict[str, float]:
    try:
        pairs = (part.split("=", 1) for part in text.split(","))
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise RecyclerError(
            f"{text!r} is not of the form name=number,name=number.",
            hint="for example `--floor arithmetic=0.5`, `--prefer code=2,prose=1`.",
        ) from error


def _write(file: Path, content: bytes, mark: bytes) -> None:
    write_whole(file, content, mark)
    click.echo(str(file), err=True)


def _tell_left(done: dict[str, Any]) -> None:
    """Say on standard error what of the donor did not go along, and what lies beside the folder."""
    for file in done["left_behind"]:
        click.echo(f"left behind: {file['name']} ({file['why']})", err=True)
    for folder in done["leftovers"]:
        click.echo(
            f"left by an earlier process, delete it if you need it no more: {folder}", err=True
        )


def _print_json(table: Any) -> None:
    click.echo(json.dumps(table, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line; a user's mistake is two lines on standard error, exit code 1."""
    try:
        code = cli.main(standalone_mode=False)  # what Context.exit was given, else None
    except RecyclerError as error:
        if "--json" in sys.argv:
            click.echo(json.dumps({"error": error.message, "hint": error.hint}), err=True)
        else:
            click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(
            "Stopped; nothing half-written is left. What a study has scored is in the ledger: run "
            "the same command to go on.",
            err=True,
        )
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
