"""`recycler pool`: check and register pools of checkpoints."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import FOLDER, as_json, is_remote, print_json, workspace_of


@click.group()
def pool() -> None:
    """Check and register pools of checkpoints."""


@pool.command("check")
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--base", type=FOLDER, help="Common ancestor, for task-vector methods.")
@click.option("--deep", is_flag=True, help="Read every tensor: NaN, duplicates, task vectors.")
@as_json
@click.pass_context
def pool_check(
    context: click.Context,
    folders: tuple[Path, ...],
    base: Path | None,
    deep: bool,
    as_json: bool,
) -> None:
    """Check from the headers alone whether folders can be merged; stores nothing.

    With --deep, reads every tensor once: NaN and Inf, checkpoints of equal bytes, fingerprints,
    norms and cosines of the task vectors (from --base, or else from the mean).
    Exit code 0: fine, 1: warnings, 2: errors.

    \b
    Example: recycler pool check runs/* --base runs/base
    """
    table = _checked(context.obj, folders, base, deep, as_json)
    print_json(table) if as_json else lazy("recycler.report.text").check_table(table)
    severities = {finding["severity"] for finding in table["findings"]}
    context.exit(2 if "error" in severities else 1 if severities else 0)


def _checked(store: str, folders: Any, base: Any, deep: bool, quiet: bool) -> Any:
    """The check of folders here, or of folders of a server."""
    if is_remote(store):
        return workspace_of(store).check(folders, base, deep)
    found, findings = lazy("recycler.checkpoints.pool").check_folders(folders, base)
    reading = _read_all(found, quiet) if deep and found else None
    findings = (*findings, *(reading.findings if reading else ()))
    return lazy("recycler.report.text").check_json(found, findings, reading)


def _read_all(found: Any, quiet: bool) -> Any:
    """The deep reading of a pool, with a progress bar."""
    total = sum(checkpoint.nbytes for checkpoint in found.everything)
    with lazy("recycler.report.progress").ProgressBar(quiet) as bar:
        return lazy("recycler.merge.deep").read(
            found, lambda count: bar.bytes_moved("reading", count, total)
        )


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
    pools = lazy("recycler.checkpoints.pool")
    workspace = workspace_of(store, create=True)
    if is_remote(store):
        workspace.register_pool(name, folders, base, replace)
        return _show_pool(workspace, name, as_json)
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
    names = workspace_of(store).store.catalog.pools()
    print_json(names) if as_json else click.echo("\n".join(names) or "no pools yet")


@pool.command("show")
@click.argument("name")
@as_json
@click.pass_obj
def pool_show(store: str, name: str, as_json: bool) -> None:
    """Show the checkpoints of pool NAME with their fingerprints and metadata.

    \b
    Example: recycler pool show drawer --json
    """
    _show_pool(workspace_of(store), name, as_json)


@pool.command("rm")
@click.argument("name")
@as_json
@click.pass_obj
def pool_rm(store: str, name: str, as_json: bool) -> None:
    """Remove pool NAME from the ledger; refused while a study uses it. Its folders stay.

    \b
    Example: recycler pool rm drawer
    """
    workspace_of(store).remove_pool(name)
    print_json({"pool": name}) if as_json else click.echo(
        f"removed pool {name!r}; its folders stay"
    )


def _show_pool(workspace: Any, name: str, as_json: bool) -> None:
    spec = {"name": name, **workspace.store.catalog.pool(name)}
    print_json(spec) if as_json else lazy("recycler.report.text").pool(spec)
