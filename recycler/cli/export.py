"""`recycler export` and `recycler verify`: write a folder, and prove what it holds."""

from importlib import import_module as lazy
from pathlib import Path
from typing import Any

import click

from recycler.cli.common import (
    FOLDER,
    as_json,
    force_option,
    is_remote,
    print_json,
    results_of,
    study_of,
    tell_left,
)
from recycler.errors import NotFound


@click.command()
@click.argument("study")
@click.argument("trial")
@click.argument("out", type=FOLDER, required=False)
@force_option
@click.option("--donor", default="", help="Checkpoint that gives config and tokenizer.")
@click.option("--on-server", "there", is_flag=True, help="With --server: leave the folder there.")
@as_json
@click.pass_obj
def export(
    store: str,
    /,
    study: str,
    trial: str,
    out: Path | None,
    force: bool,
    donor: str,
    there: bool,
    as_json: bool,
) -> None:
    """Write TRIAL of STUDY as a Hugging Face folder OUT, verified against the ledger.

    TRIAL is a number or a name: pick, knee, uniform, single:NAME. A server writes the folder there;
    it is then brought here and verified again.

    \b
    Example: recycler export demo pick best/
    """
    if there and not is_remote(store):
        raise click.UsageError("--on-server needs --server.")
    if (out is None) != there:
        raise click.UsageError("give OUT, or --on-server." if there else "Missing argument 'OUT'.")
    if there:
        done = study_of(store, study).export_there(trial, donor=donor)
    else:
        done = study_of(store, study).export(trial, out, force=force, donor=donor)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{done['path']}\n{done['digest']} (verified against the ledger)")
    tell_left(done)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--score", is_flag=True, help="Also load it with transformers and score it again.")
@as_json
@click.pass_obj
def verify(store: str, folder: Path, score: bool, as_json: bool) -> None:
    """Prove that an exported FOLDER holds the bytes that were scored.

    Hashes every tensor and compares it with the folder's recycler.json and, if the ledger has
    the study, with the ledger.

    \b
    Example: recycler verify best/ --score
    """
    export = lazy("recycler.export")
    done = export.verify(folder)
    results = _known(store, done["study"], needed=score)
    done["ledger"] = results is not None
    if results is not None:
        export.require_ledgers(results, done)
    if score:
        factory = study_of(store, done["study"]).scorer_factory()
        evaluator = factory.make_evaluator(str(folder))  # with its tokenizer, as anyone has it
        done["scores"] = lazy("recycler.execute.rescore").rescore(results, evaluator, folder)
    print_json(done) if as_json else _tell_verified(done)


def _known(store: str, study: str, needed: bool) -> Any:
    """The results of the study; None if the ledger has none of that name and none is needed."""
    try:
        return results_of(store, study)
    except NotFound:
        if needed:
            raise
        return None


def _tell_verified(done: dict[str, Any]) -> None:
    known = " and the ledger" if done["ledger"] else f"; no study {done['study']!r} in this ledger"
    click.echo(f"{done['path']}\n{done['digest']} matches its recycler.json{known}")
    for row in done.get("scores", []):
        click.echo(f"{row['objective']} on {row['split']}: {row['again']!r}, as in the ledger")
