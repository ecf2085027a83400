"""Exports a trial as an ordinary Hugging Face folder, and proves it is the merge that was scored.

The folder is written beside its destination under a temporary name, synced, read back and compared
with the digest in the ledger. Only then is it renamed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib import import_module as lazy  # figures: a merge alone does not draw
from pathlib import Path
from typing import Any

import yaml

from recycler import __version__
from recycler.checkpoints.companions import Companions, companions
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import open_regular
from recycler.checkpoints.pool import Pool
from recycler.conditions import conditions
from recycler.errors import (
    BrokenCheckpoint,
    Conflict,
    InvalidConfig,
    Mismatch,
    NotFound,
)
from recycler.files import mounted, publish, sweep, sync, unfinished, write_synced
from recycler.front.results import Results
from recycler.merge.folder import SHARD_BYTES, write_weights
from recycler.merge.layout import config_of, layout_of, output_specs
from recycler.merge.recipes.mergekit import mergekit_recipe
from recycler.merge.recipes.own import own_recipe, read_recipe
from recycler.merge.sources import Sources, sample
from recycler.merge.stream import Loss
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import SCORED, Trial
from recycler.report.progress import ProgressBar
from recycler.submit.ledger import FOLDER as LEDGER_FOLDER

PROOF = "recycler.json"
_MADE_BY = (PROOF, "mergekit_config.yml")  # files that mark a folder as a merge


def export(
    results: Results, pool: Pool, trial: Trial, out: Path, *, force: bool = False, donor: str = ""
) -> dict[str, Any]:
    """Write a scored trial to `out`.

    Args:
        results: results of the trial's study.
        pool: the study's pool.
        trial: a complete trial.
        out: the folder to create.
        force: replace `out` if it is empty or holds an earlier merge.
        donor: checkpoint that gives config, tokenizer and generation config; if empty, the
            first of the pool, whose tokenizer was used for scoring.

    Returns:
        `{"path", "digest", "files": [{"name", "bytes", "sha256"}], "left_behind": [{"name",
        "why"}], "leftovers", "verified": True}`; see `write_folder`.

    Raises:
        Conflict: `out` exists and `force` is off, or it holds something else.
        Mismatch: the written bytes are not those that were scored; nothing is left behind.
    """
    if trial.state not in SCORED:
        raise InvalidConfig(
            f"trial {trial.number} is {trial.state}, so there is nothing to export.",
            hint=f"`recycler front {results.name}` lists merges that can be exported.",
        )
    if trial.recipe.is_model:
        raise InvalidConfig(
            f"trial {trial.number} ({trial.name}) is no merge: it is a model in a folder already.",
            hint="use the folder that `references:` of the study file names.",
        )
    card, picture = lazy("recycler.report.card"), lazy("recycler.report.picture")
    giver = pool[donor] if donor else pool.checkpoints[0]
    extras = {
        PROOF: _json(proof(results, trial, giver)),
        **_recipes(trial.recipe, pool),
        "README.md": card.model_card(results, trial),
    }
    pictures = {"front.png": picture.front_png(results, highlight=trial.number)}
    return write_folder(
        trial.recipe,
        pool,
        giver,
        out,
        expected=trial.digest,
        force=force,
        texts=extras,
        blobs=pictures,
    )


def write_folder(
    recipe: Recipe,
    pool: Pool,
    donor: Checkpoint,
    out: Path,
    *,
    expected: str = "",
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    texts: Mapping[str, str] | None = None,
    blobs: Mapping[str, bytes] | None = None,
    last: Mapping[str, Callable[[], str]] | None = None,
    read_back: bool = True,
    on_bytes: Any = lambda count: None,
    **options: Any,
) -> dict[str, Any]:
    """Merge into a new folder, atomically; if `expected` is given, only with that digest.

    Args:
        recipe: the merge.
        pool: its checkpoints.
        donor: gives config and tokenizer.
        out: the folder to create.
        expected: digest that the written folder must have; empty means any.
        force: replace `out` if it is empty or holds an earlier merge.
        shard_bytes: size of a shard [B].
        texts: further files.
        blobs: further files, as bytes.
        last: further files that are made after the weights.
        read_back: read and compare all written bytes, not only their headers.
        on_bytes: called with the bytes just written.
        **options: passed to `write_weights`.

    Returns:
        What was made: `left_behind` are files of the donor that were not copied, `leftovers`
            folders
        beside `out` that earlier, killed processes left and that are kept.
    """
    out = out.expanduser().absolute()
    _require_free(out, pool, force)
    along = companions(donor)
    leftovers = sweep(out)
    contents = {**{k: v.encode() for k, v in (texts or {}).items()}, **(blobs or {})}
    with unfinished(out) as work:
        with Sources(pool) as sources:
            written, hashes = write_weights(
                recipe, sources, work, shard_bytes, on_bytes=on_bytes, **options
            )
            config = config_of(recipe, layout_of(recipe, sources), donor)
        contents |= {name: make().encode() for name, make in (last or {}).items()}
        contents["config.json"] = _json(config).encode()
        _fill(work, along, contents)
        opened = Checkpoint.open(work)
        found = opened.fingerprint() if read_back else written
        if found != written or (expected and found != expected):
            raise Mismatch(
                f"the written merge has digest {found}, the scored one {expected or written}.",
                hint="a checkpoint changed or the disk is faulty; run `recycler pool check`.",
            )
        files = _inventory(work, hashes)
        publish(work, out, not_a_merge if force else None)
    return {
        "path": str(out),
        "digest": found,
        "files": files,
        "left_behind": [{"name": name, "why": why} for name, why in along.left.items()],
        "leftovers": [*leftovers, *([str(work)] if work.exists() else [])],
        "verified": read_back,
    }


def _require_free(out: Path, pool: Pool, force: bool) -> None:
    """Raise unless `out` can be created without touching a checkpoint or existing content."""
    for checkpoint in pool.everything:  # also if the paths lead there through links
        here, there = out.resolve(), checkpoint.path.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise Conflict(
                f"{out} is, holds or lies in the checkpoint {checkpoint.name!r} of the pool.",
                hint="choose another folder.",
            )
    require_place(out, force)


def require_place(out: Path, force: bool) -> None:
    """Raise unless a folder can be made at `out`, or what is there may be replaced.

    Raises:
        Conflict: something is there and `force` is off, or it is no merge.
        NotFound: its parent is missing.
    """
    if os.path.lexists(out):
        if not force:
            raise Conflict(
                f"{out} exists.", hint="choose another folder, or replace a merge with --force."
            )
        if why := not_a_merge(out):
            raise Conflict(
                f"{out} {why}.",
                hint="--force replaces only an empty folder or an earlier merge; choose another "
                "folder, or remove this one yourself.",
            )
    if not out.parent.is_dir():
        raise NotFound(f"{out.parent} is not a folder.", hint="create it first.")


def not_a_merge(folder: Path) -> str:
    """Why a folder may not be replaced; empty if it is empty, or made by recycler or mergekit."""
    if folder.is_symlink():
        return f"is a link to {folder.readlink()}"
    if not folder.is_dir():
        return "is not a folder"
    if mounted(folder):
        return "is a mount point"
    names = sorted(entry.name for entry in folder.iterdir())
    if LEDGER_FOLDER in names:
        return f"holds a ledger ({LEDGER_FOLDER})"
    if not names or any((folder / name).is_file() for name in _MADE_BY):
        return ""
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"holds {some} and neither {' nor '.join(_MADE_BY)}"


def _fill(work: Path, along: Companions, contents: Mapping[str, bytes]) -> None:
    """Copy the donor's companions, then write our own files over them; syncs everything."""
    for name, source in along.taken.items():
        if name in contents:
            continue
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(source) as stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
            copy.flush()
            os.fsync(copy.fileno())
    for name, content in contents.items():
        write_synced(work / name, content)
    for folder, _, _ in os.walk(work):
        sync(Path(folder))


def merge_file(
    recipe_file: Path,
    out: Path,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    quiet: bool = True,
    threads: int = 0,
) -> dict[str, Any]:
    """Write the merge of a recipe file, without a study; the folder holds its recipe.

    Args:
        recipe_file: recycler's or mergekit's YAML.
        out: the folder to create.
        force: replace `out` if it is empty or holds an earlier merge.
        shard_bytes: size of a shard [B].
        quiet: show no progress.
        threads: number of threads that read and sum; 0 means one for each core.
    """
    with ProgressBar(quiet) as bar:

        def identify(checkpoint: Checkpoint, exact: bool) -> str:
            if not exact:  # a full read would cost more than the merge
                return f"sample:{sample(checkpoint)}"
            return checkpoint.fingerprint(
                lambda count: bar.bytes_moved(
                    f"fingerprint {checkpoint.name}", count, checkpoint.nbytes
                )
            )

        file = read_recipe(recipe_file, identify)
        recipe, pool, loss = file.recipe, file.pool, Loss()
        total = sum(spec.nbytes for spec in output_specs(recipe, Sources(pool)))
        made = {"recycler": __version__, "recipe": recipe.to_json(), "id": recipe.id}
        done = write_folder(
            recipe,
            pool,
            file.donor,
            out,
            force=force,
            shard_bytes=shard_bytes,
            texts=_recipes(recipe, pool),
            last={PROOF: lambda: _json({**made, "rounding": loss.to_json()})},
            threads=threads or len(os.sched_getaffinity(0)),
            loss=loss,
            read_back=False,
            on_bytes=lambda count: bar.bytes_moved("merge", count, total),
        )
    return {**done, "rounding": loss.to_json()}


def _recipes(recipe: Recipe, pool: Pool) -> dict[str, str]:
    """The recipe as files: recycler's form, and mergekit's if it can express it."""
    forms = {
        "recipe.yaml": own_recipe(recipe, pool),
        "mergekit.yaml": mergekit_recipe(recipe, pool),
    }
    return {name: yaml.safe_dump(form, sort_keys=False) for name, form in forms.items() if form}


def proof(results: Results, trial: Trial, donor: Checkpoint) -> dict[str, Any]:
    """Content of recycler.json: recipe, fingerprints, scores with errors and item ids, versions."""
    items = {
        split: {name: list(o.ids) for name, o in results.outcomes(trial, split).items()}
        for split in trial.evaluations
    }
    return {
        "recycler": __version__,
        "conditions": conditions(),
        **results.trial_json(trial.number),
        "objectives": results.front_json()["objectives"],
        "items": items,
        "donor": donor.name,
        "evaluator": dict(results.plan.evaluator),
    }


def verify(folder: Path) -> dict[str, Any]:
    """Hash every tensor of an exported folder and compare with its recycler.json.

    Raises:
        NotFound: the folder has no recycler.json.
        Mismatch: a byte differs.
    """
    file = folder / PROOF
    if not file.is_file():
        raise NotFound(
            f"{folder} has no {PROOF}.", hint="give a folder that `recycler export` made."
        )
    try:
        claimed = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenCheckpoint(
            f"{file} is not readable JSON ({error}).", hint="export again."
        ) from error
    if "digest" not in claimed:
        raise InvalidConfig(
            f"{file} names no digest: the folder was merged without a study.",
            hint="only exports of a study's trial can be verified against scores.",
        )
    found = Checkpoint.open(folder).fingerprint()
    if found != claimed["digest"]:
        raise Mismatch(
            f"{folder} has digest {found}, its {PROOF} says {claimed['digest']}.",
            hint="the weights were changed after the export; export again.",
        )
    return {
        "path": str(folder.absolute()),
        "digest": found,
        "study": claimed["study"],
        "trial": claimed["trial"],
        "verified": True,
    }


def require_ledgers(results: Results, done: Mapping[str, Any]) -> None:
    """Raise Mismatch unless the ledger has the verified digest under the same trial.

    This finds a folder whose weights and recycler.json were changed together.
    """
    expected = results.trial(done["trial"]).digest
    if expected != done["digest"]:
        raise Mismatch(
            f"{done['path']} has digest {done['digest']}, the ledger says {expected} for trial "
            f"{done['trial']} of {results.name!r}.",
            hint="the folder is not an export of that trial from this ledger; export again.",
        )


def _inventory(folder: Path, hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file; `hashes` holds the known ones."""
    return [
        {
            "name": (name := file.relative_to(folder).as_posix()),
            "bytes": file.stat().st_size,
            "sha256": hashes.get(name) or _sha256(file),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json(table: Any) -> str:
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"
