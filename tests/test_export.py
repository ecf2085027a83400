"""Export: what leaves is what was scored, whole or not at all, and anyone can load it."""

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import warnings
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from studies import World, finished
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.conditions import conditions
from recycler.errors import BrokenCheckpoint, Conflict, InvalidConfig, Mismatch, NotFound
from recycler.execute.rescore import rescore
from recycler.export import merge_file, verify, write_folder
from recycler.nouns.evaluation import Failure
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Proposal


@pytest.fixture
def world(tmp_path_factory) -> World:
    return finished(tmp_path_factory.getbasetemp())


@pytest.fixture
def mix(world):
    """A trial that mixes all checkpoints and was scored on every split."""
    return next(
        t
        for t in world.open().trials
        if len(t.recipe.ingredients) == 3 and "test" in t.evaluations
    )


@pytest.fixture
def exported(world, mix, tmp_path) -> Path:
    world.open().export(mix, tmp_path / "out")
    return tmp_path / "out"


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def again(world, folder):
    """Score an exported folder once more."""
    study = world.open()
    return rescore(study.results, study.scorer_factory().make_evaluator(str(folder)), folder)


def test_the_folder_loads_without_a_word(exported):
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, loading = AutoModelForCausalLM.from_pretrained(
                exported, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(exported)
    finally:
        logger.removeHandler(listener)
        transformers_logging.set_verbosity(before)
    assert said == []
    assert not any(loading.values())
    assert model.dtype == getattr(torch, Checkpoint.open(exported).dtype)
    assert tokenizer.decode(tokenizer("abc").input_ids) == "abc"


def test_the_exported_folder_scores_exactly_what_the_ledger_says(world, exported, mix):
    rows = again(world, exported)
    assert {row["split"] for row in rows} == set(mix.evaluations)
    assert {row["objective"] for row in rows} == {"text", "choice", "word"}
    assert all(row["again"] == row["ledger"] for row in rows)


def test_rescore_tells_of_other_weights(world, exported):
    file = exported / "model.safetensors"
    state = safetensors.torch.load_file(file)
    state["lm_head.weight"] = state["lm_head.weight"] * 1.5
    safetensors.torch.save_file(state, file, {"format": "pt"})
    with pytest.raises(Mismatch, match="in the ledger") as caught:
        again(world, exported)
    assert "can't be reproduced on this machine" in caught.value.hint  # nothing else is another
    proof = json.loads((exported / "recycler.json").read_text())
    proof["conditions"] |= {"torch": "1.13.0", "threads": "64"}
    proof["evaluator"]["batch_size"] = 3
    (exported / "recycler.json").write_text(json.dumps(proof))
    with pytest.raises(Mismatch) as caught:
        again(world, exported)
    assert f"torch is {version('torch')} here, it was 1.13.0" in caught.value.hint
    assert "threads is 1 here, it was 64" in caught.value.hint
    assert "settings of the evaluator" in caught.value.hint
    assert "transformers" not in caught.value.hint


def test_the_answer_lists_every_file_with_its_hash(world, mix, tmp_path):
    done = world.open().export(mix, tmp_path / "out")
    assert (done["path"], done["digest"]) == (str(tmp_path / "out"), mix.digest)
    assert done["verified"] is True
    assert [f["name"] for f in done["files"]] == left_in(tmp_path / "out")
    for file in done["files"]:
        content = (tmp_path / "out" / file["name"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_proof_holds_everything_behind_the_scores(world, exported, mix):
    proof = json.loads((exported / "recycler.json").read_text())
    study = world.open()
    assert Recipe.from_json(proof["recipe"]) == mix.recipe
    assert proof["recipe"]["fingerprints"] == dict(study.plan.ingredients)
    assert (proof["digest"], proof["id"]) == (mix.digest, mix.recipe.id)
    assert (proof["study"], proof["trial"]) == (study.name, mix.number)
    assert proof["conditions"] == conditions()
    for split, evaluation in mix.evaluations.items():
        outcomes = study.workspace.store.outcomes(study.name, mix.number, split)
        for name, score in evaluation.scores.items():
            told = proof[split][name]
            assert (told["mean"], told["stderr"], told["items"]) == (
                score.mean,
                score.stderr,
                score.items,
            )
            assert proof["items"][split][name] == list(outcomes[name].ids)
            assert len(proof["items"][split][name]) == score.items


def test_verify_passes_until_one_byte_is_flipped(exported, mix):
    assert verify(exported)["digest"] == mix.digest
    file = exported / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Mismatch, match="has digest"):
        verify(exported)


def test_verify_tells_what_is_no_export(world, exported, tmp_path):
    with pytest.raises(NotFound, match=r"has no recycler\.json"):
        verify(world.folders[0])
    (exported / "recycler.json").write_text("{")
    with pytest.raises(BrokenCheckpoint, match="not readable JSON"):
        verify(exported)
    (exported / "recycler.json").write_text("{}")
    with pytest.raises(InvalidConfig, match="names no digest"):
        verify(exported)


def test_an_existing_target_is_kept_without_force_and_an_earlier_merge_replaced_with_it(
    world, mix, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Conflict, match="exists"):
        world.open().export(mix, out)
    world.open().export(mix, out, force=True)  # it is empty
    (out / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="exists"):
        world.open().export(mix, out)
    assert (out / "mine.txt").read_text() == "mine"
    world.open().export(mix, out, force=True)
    assert not (out / "mine.txt").exists()
    assert left_in(tmp_path) == ["out"]
    assert verify(out)["verified"]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("thesis", r"holds thesis\.tex and neither recycler\.json nor mergekit_config\.yml"),
        ("many", r"holds 0, 1, 2 and 6 more and neither"),
        ("folder named so", "holds recycler.json and neither"),
        ("link", "is a link to .*precious"),
        ("file", "is not a folder"),
        ("ledger", r"holds a ledger \(\.recycler\)"),
    ],
)
def test_force_replaces_nothing_but_a_merge(world, mix, tmp_path, kind, found):
    out = tmp_path / "out"
    if kind == "link":
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "recycler.json").write_text("{}")
        out.symlink_to(tmp_path / "precious")
    elif kind == "file":
        out.write_text("a thesis")
    else:
        out.mkdir()
        files = {"thesis": ["thesis.tex"], "many": map(str, range(9)), "ledger": ["recycler.json"]}
        for name in files.get(kind, ()):
            (out / name).write_text("{}")
        if kind != "thesis" and kind != "many":
            (out / {"ledger": ".recycler"}.get(kind, "recycler.json")).mkdir()
    before = (out.lstat().st_ino, left_in(tmp_path))
    with pytest.raises(Conflict, match=f"out {found}") as told:
        world.open().export(mix, out, force=True)
    assert "--force" in told.value.hint
    assert (out.lstat().st_ino, left_in(tmp_path)) == before


def test_a_merge_that_mergekit_made_is_replaced(world, mix, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mergekit_config.yml").write_text("merge_method: linear")
    world.open().export(mix, tmp_path / "out", force=True)
    assert verify(tmp_path / "out")["verified"]


@pytest.mark.parametrize("force", [False, True])
def test_a_thesis_that_appears_while_the_merge_is_written_stays(world, mix, tmp_path, force):
    pool, out = world.open().workspace.study_pool("toy"), tmp_path / "out"

    def someone_writes(count):
        out.mkdir(exist_ok=True)
        (out / "thesis.tex").write_text("mine")

    found = "holds thesis.tex" if force else "appeared while it was written"
    with pytest.raises(Conflict, match=found):
        write_folder(
            mix.recipe, pool, pool.checkpoints[0], out, force=force, on_bytes=someone_writes
        )
    assert left_in(out) == ["thesis.tex"]
    assert left_in(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from recycler import export
def die(count): os.kill(os.getpid(), signal.SIGKILL)
file = export.read_recipe(Path("recipe.yaml"), lambda c, exact: "x")
export.write_folder(file.recipe, file.pool, file.donor, Path("out"), force=True, on_bytes=die)
"""


def test_a_kill_in_the_middle_keeps_the_earlier_export_and_the_next_run_cleans(world, tmp_path):
    recipe = {"checkpoints": [{"path": str(f), "weight": 0.5} for f in world.folders[:2]]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    digest = merge_file(tmp_path / "recipe.yaml", tmp_path / "out")["digest"]
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=120)
    assert done.returncode == -9
    assert Checkpoint.open(tmp_path / "out").fingerprint() == digest
    assert len(left_in(tmp_path)) == 3
    again = merge_file(tmp_path / "recipe.yaml", tmp_path / "out", force=True)
    assert again["leftovers"] == []
    assert left_in(tmp_path) == ["out", "recipe.yaml"]


def test_a_target_that_touches_a_checkpoint_is_refused_even_with_force(world, mix, tmp_path):
    checkpoint = world.folders[1]
    (tmp_path / "link").symlink_to(checkpoint.parent)
    before = left_in(checkpoint)
    targets = [checkpoint, checkpoint.parent, checkpoint / "merged", tmp_path / "link/ckpt-1"]
    for out in targets:
        with pytest.raises(Conflict, match="of the pool"):
            world.open().export(mix, out, force=True)
    assert left_in(checkpoint) == before


def test_a_target_without_a_parent_is_told(world, mix, tmp_path):
    with pytest.raises(NotFound, match="is not a folder"):
        world.open().export(mix, tmp_path / "no" / "out")


def test_a_checkpoint_changed_after_scoring_leaves_nothing_behind(world, mix, tmp_path):
    """The digest is checked even where name, size and time of the file say nothing happened."""
    copy = build_copy(world, tmp_path)
    pool = copy.open().workspace.study_pool("toy")
    file = copy.folders[1] / "model.safetensors"
    content, times = bytearray(file.read_bytes()), file.stat()
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "exports").mkdir()
    with pytest.raises(Mismatch, match="digest"):
        write_folder(
            mix.recipe,
            pool,
            pool.checkpoints[0],
            tmp_path / "exports" / "out",
            expected=mix.digest,
        )
    with pytest.raises(Mismatch):
        copy.open().export(mix.number, tmp_path / "exports" / "out")
    assert left_in(tmp_path / "exports") == []


def build_copy(world: World, root: Path) -> World:
    """The finished study over copies of its checkpoints, which a test may spoil."""
    folders = [shutil.copytree(f, root / "copy" / f.name) for f in world.folders]
    with (
        closing(sqlite3.connect(world.store)) as old,
        closing(sqlite3.connect(root / "copy.db")) as new,
    ):
        old.backup(new)
    copy = World(root, tuple(folders), world.file, str(root / "copy.db"))
    study = copy.open()
    study.workspace.add_pool(Pool.open(folders, name="study:toy"), replace=True)
    return copy


FULL_DISK = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.argv = ["recycler", "merge", *sys.argv[1:]]
from recycler.cli.main import main
main()
"""


def test_a_full_disk_leaves_nothing_behind_and_no_traceback(world, tmp_path):
    recipe = {"checkpoints": [{"path": str(f), "weight": 0.5} for f in world.folders[:2]]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "recipe.yaml", "out"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "out can't be written: File too large." in done.stderr
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_modes_follow_the_umask(world, mix, tmp_path, mask):
    before = os.umask(mask)
    try:
        world.open().export(mix, tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_everything_is_on_the_disk_before_the_folder_gets_its_name(world, tmp_path, monkeypatch):
    """A record of the real calls: a power cut after the rename finds every byte and every name."""
    synced, real = {}, os.fsync

    def sync(handle):
        real(handle)
        about = os.fstat(handle)
        synced[about.st_ino] = (about.st_size, (tmp_path / "out").exists())

    folders = [shutil.copytree(f, tmp_path / f.name) for f in world.folders[:2]]
    (folders[0] / "additional_chat_templates").mkdir()
    (folders[0] / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}")
    recipe = {"checkpoints": [{"path": str(f), "weight": 0.5} for f in folders]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(os, "fsync", sync)
    merge_file(tmp_path / "recipe.yaml", tmp_path / "out", shard_bytes=30_000)
    made = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {"additional_chat_templates", "model.safetensors.index.json"} < {f.name for f in made}
    for file in made:
        assert file.stat().st_ino in synced, f"{file.name} was not synced"
        size, named = synced[file.stat().st_ino]
        assert not named
        assert file.is_dir() or size == file.stat().st_size
    assert synced[tmp_path.stat().st_ino][1]  # and then the name itself


def test_mergekits_file_in_the_export_makes_the_same_merge(exported, mix, tmp_path):
    done = merge_file(exported / "mergekit.yaml", tmp_path / "again")
    assert done["digest"] == mix.digest


def test_shards_have_a_right_index(exported, mix, tmp_path):
    done = merge_file(exported / "mergekit.yaml", tmp_path / "shards", shard_bytes=30_000)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    shards = [f["name"] for f in done["files"] if f["name"].endswith(".safetensors")]
    assert sorted(set(index["weight_map"].values())) == shards
    assert len(shards) > 2
    for name in shards:
        held = safetensors.torch.load_file(tmp_path / "shards" / name)
        assert set(held) == {t for t, where in index["weight_map"].items() if where == name}
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= 30_000
    for file in done["files"]:
        found = hashlib.sha256((tmp_path / "shards" / file["name"]).read_bytes()).hexdigest()
        assert file["sha256"] == found
    assert done["verified"] is False  # what was written was hashed, not read back
    assert done["digest"] == mix.digest == Checkpoint.open(tmp_path / "shards").fingerprint()
    AutoModelForCausalLM.from_pretrained(tmp_path / "shards")


def test_the_donor_gives_tokenizer_and_config(world, mix, tmp_path):
    copy = build_copy(world, tmp_path)
    (copy.folders[2] / "chat_template.jinja").write_text("{{ messages }}")
    copy.open().export(mix.number, tmp_path / "out", donor="ckpt-2")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "out" / "recycler.json").read_text())["donor"] == "ckpt-2"
    with pytest.raises(NotFound, match="no checkpoint 'ckpt-9'"):
        copy.open().export(mix.number, tmp_path / "other", donor="ckpt-9")


def test_the_config_names_the_dtype_of_the_tensors(world, tmp_path):
    recipe = {
        "checkpoints": [{"path": str(f), "weight": 0.5} for f in world.folders[:2]],
        "dtype": "bfloat16",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    merge_file(tmp_path / "recipe.yaml", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_a_trial_without_scores_is_not_exported(world, tmp_path):
    copy = build_copy(world, tmp_path)
    study = copy.open()
    recipe = study.plan.recipe([0.9, 0.05, 0.05])
    trial = study.workspace.store.start("toy", Proposal(kind="search", name="x", recipe=recipe))
    with pytest.raises(InvalidConfig, match=f"trial {trial.number} is running"):
        study.export(trial.number, tmp_path / "out")
    study.workspace.store.fail("toy", trial.number, Failure("exception", "on purpose"))
    with pytest.raises(InvalidConfig, match=f"trial {trial.number} is failed"):
        study.export(trial.number, tmp_path / "out")
    assert not (tmp_path / "out").exists()
