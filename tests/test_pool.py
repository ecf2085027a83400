"""Pools: what may be merged, and the check that says file, tensor, found, expected and why not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import toy
import yaml
from safetensors.torch import load_file, save_file

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import ERROR, WARNING, Pool, check_folders
from recycler.errors import Incompatible, InvalidConfig, NotFound


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory) -> Path:
    """A folder of another architecture and the same vocabulary; read only."""
    return toy.checkpoint(tmp_path_factory.mktemp("other") / "gpt2", "gpt2")


@pytest.fixture
def pair(drawer, tmp_path):
    """Two folders of the drawer, copied so that the second may be spoiled."""
    return tuple(
        shutil.copytree(folder, tmp_path / name)
        for folder, name in zip(drawer, ("good", "spoiled"), strict=False)
    )


def rewrite(folder, change):
    """Load a folder's tensors, change the mapping and save it again."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def only(findings):
    (finding,) = findings
    return finding


# --- the check ---


def test_checkpoints_of_one_drawer_have_no_finding(drawer):
    pool = Pool.open(drawer)
    assert pool.check() == ()
    pool.require_mergeable()
    assert check_folders(drawer) == (pool, ())


def test_a_missing_tensor_is_found(pair):
    rewrite(pair[1], lambda tensors: tensors.pop("model.norm.weight"))
    finding = only(Pool.open(pair).check())
    assert (finding.code, finding.severity) == ("tensor-missing", ERROR)
    assert (finding.checkpoint, finding.tensor) == ("spoiled", "model.norm.weight")
    assert (finding.file, finding.found) == ("model.safetensors", "no such tensor")
    assert finding.expected == "float32[32]"
    assert finding.hint


def test_an_extra_tensor_is_found(pair):
    rewrite(pair[1], lambda tensors: tensors.update({"extra.bias": torch.zeros(2, 3)}))
    finding = only(Pool.open(pair).check())
    assert (finding.code, finding.severity) == ("tensor-extra", ERROR)
    assert (finding.checkpoint, finding.tensor) == ("spoiled", "extra.bias")
    assert finding.found == "float32[2, 3]"
    assert finding.expected == "no such tensor, as in 'good'"


def test_another_shape_is_found(pair):
    rewrite(pair[1], lambda tensors: tensors.update({"lm_head.weight": torch.zeros(7, 32)}))
    finding = only(Pool.open(pair).check())
    assert (finding.code, finding.severity) == ("shape", ERROR)
    assert str(finding) == (
        "spoiled · model.safetensors · lm_head.weight: found float32[7, 32], "
        f"expected float32[{toy.VOCABULARY}, 32] as in 'good'"
    )


def test_another_dtype_is_only_a_warning(pair):
    rewrite(pair[1], lambda tensors: tensors.update(
        {"lm_head.weight": tensors["lm_head.weight"].bfloat16()}))  # fmt: skip
    pool = Pool.open(pair)
    finding = only(pool.check())
    assert (finding.code, finding.severity) == ("dtype", WARNING)
    assert finding.found == f"bfloat16[{toy.VOCABULARY}, 32]"
    assert finding.expected == f"float32[{toy.VOCABULARY}, 32] as in 'good'"
    pool.require_mergeable()


@pytest.mark.parametrize(
    ("key", "value", "severity"),
    [
        ("num_attention_heads", 2, ERROR),
        ("hidden_act", "relu", ERROR),
        ("tie_word_embeddings", True, ERROR),
        ("rms_norm_eps", 1e-3, WARNING),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 77.0}, WARNING),
        ("eos_token_id", 0, WARNING),
    ],
)
def test_a_setting_that_changes_what_the_weights_compute_is_found(pair, key, value, severity):
    reconfigure(pair[1], **{key: value})
    finding = only(Pool.open(pair).check())
    assert (finding.code, finding.severity, finding.file) == ("config", severity, "config.json")
    assert finding.found == f"{key} {value!r}"
    assert finding.expected.endswith("as in 'good'")


def test_settings_that_compute_nothing_are_not_compared(pair):
    reconfigure(pair[1], _name_or_path="elsewhere", transformers_version="0", use_cache=False)
    assert Pool.open(pair).check() == ()


@pytest.mark.parametrize("spoil", [lambda file: file.write_text("{}"), lambda file: file.unlink()])
def test_another_or_a_missing_tokenizer_is_found(pair, spoil):
    spoil(pair[1] / "tokenizer.json")
    finding = only(Pool.open(pair).check())
    assert (finding.code, finding.severity) == ("tokenizer", WARNING)
    assert (finding.checkpoint, finding.file) == ("spoiled", "tokenizer.json")


def test_tied_and_untied_embeddings_do_not_mix(drawer, tmp_path):
    tied = toy.checkpoint(tmp_path / "tied", tied=True)
    codes = {(f.code, f.tensor or f.found) for f in Pool.open([drawer[0], tied]).check()}
    assert codes == {("config", "tie_word_embeddings True")}  # the head is known: the embedding


def test_another_architecture_is_refused_with_the_first_error_and_the_count(drawer, gpt2):
    pool = Pool.open([drawer[0], gpt2])
    errors = [finding for finding in pool.check() if finding.severity == ERROR]
    assert errors[0].code == "architecture"
    assert errors[0].found == "GPT2LMHeadModel ('gpt2'), which shares 0 of 21 tensors"
    assert errors[0].expected == f"LlamaForCausalLM ('llama') as in {drawer[0].name!r}"
    assert {finding.code for finding in errors[1:]} == {"tensor-missing", "tensor-extra"}
    with pytest.raises(Incompatible) as refused:
        pool.require_mergeable()
    assert str(errors[0]) in refused.value.message
    assert f"({len(errors) - 1} more errors)" in refused.value.message
    assert "pool check" in refused.value.hint


def test_the_base_is_checked_like_a_checkpoint(drawer, gpt2):
    pool = Pool.open(drawer[:2], base=gpt2)
    assert {finding.checkpoint for finding in pool.check()} == {"gpt2"}
    with pytest.raises(Incompatible, match="gpt2"):
        pool.require_mergeable()


# --- folders that may be broken ---


def test_check_folders_reports_every_broken_folder_and_opens_the_rest(drawer, pair, tmp_path):
    (pair[1] / "model.safetensors").write_bytes(b"cut")
    reconfigure(pair[0], rms_norm_eps=1.0)
    pool, findings = check_folders([drawer[0], tmp_path / "nowhere", pair[1], pair[0]])
    assert pool.names == (drawer[0].name, "good")
    assert [(f.code, f.severity, f.checkpoint) for f in findings] == [
        ("not-found", ERROR, "nowhere"),
        ("truncated", ERROR, "spoiled"),
        ("config", WARNING, "good"),
    ]
    assert str(pair[1] / "model.safetensors") in findings[1].found
    assert all(finding.hint for finding in findings)


def test_check_folders_of_nothing_readable_has_findings_and_no_pool(tmp_path):
    pool, findings = check_folders([tmp_path], base=tmp_path / "nowhere")
    assert pool is None
    assert [finding.code for finding in findings] == ["unreadable", "not-found"]
    assert findings[0].file == "config.json"


def test_check_folders_keeps_the_base_apart_where_it_is_in_the_list_and_warns(drawer):
    # as `recycler pool check runs/* --base runs/base` has it
    folders = [str(folder) for folder in drawer]
    pool, findings = check_folders(folders, base=folders[1])
    assert pool.names == tuple(folder.name for folder in drawer)
    assert pool.base.path == drawer[1]
    finding = only(findings)
    assert (finding.code, finding.severity) == ("base-member", WARNING)
    assert finding.checkpoint == drawer[1].name


def test_check_folders_goes_on_without_a_broken_base(drawer, tmp_path):
    pool, findings = check_folders(drawer, base=tmp_path / "nowhere")
    assert pool.base is None
    assert pool.n == len(drawer)
    assert only(findings).checkpoint == "nowhere"


# --- names ---


def test_folders_of_one_name_are_told_apart_by_their_parents(drawer, tmp_path):
    for run in ("a", "b"):
        shutil.copytree(drawer[0], tmp_path / run / "final")
    shutil.copytree(drawer[1], tmp_path / "c" / "last")
    folders = [tmp_path / "a" / "final", tmp_path / "b" / "final", tmp_path / "c" / "last"]
    pool = Pool.open(folders)
    assert pool.names == ("a.final", "b.final", "last")
    assert pool["b.final"].path == folders[1]
    with pytest.raises(NotFound, match="no checkpoint 'final'") as refused:
        pool["final"]
    assert "a.final, b.final, last" in refused.value.hint


def test_a_base_is_never_mistaken_for_a_checkpoint_of_its_name(drawer, tmp_path):
    base = shutil.copytree(drawer[1], tmp_path / drawer[0].name)
    pool = Pool.open(drawer[:1], base=base)
    assert pool.base.name != pool.checkpoints[0].name
    assert pool[pool.base.name].path == base
    with pytest.raises(InvalidConfig, match="its base is called 'ckpt-0' like a checkpoint"):
        Pool.from_entries("p", [{"path": drawer[0]}], {"path": base})


def test_two_checkpoints_of_one_name_and_an_empty_pool_are_refused(drawer):
    one = Checkpoint.open(drawer[0], "a")
    with pytest.raises(InvalidConfig, match="two checkpoints called 'a'"):
        Pool("p", (one, Checkpoint.open(drawer[1], "a")))
    with pytest.raises(InvalidConfig, match="pool 'p' is empty"):
        Pool("p", ())
    with pytest.raises(InvalidConfig, match="two checkpoints"):
        Pool.open([drawer[0], drawer[0]])


def test_everything_is_the_checkpoints_and_the_base(drawer):
    pool = Pool.open(drawer[:2], base=drawer[2])
    assert pool.n == len(pool.checkpoints) == 2
    assert [checkpoint.path for checkpoint in pool.everything] == drawer[:3]
    assert Pool.open(drawer[:2]).everything == Pool.open(drawer[:2]).checkpoints


# --- pool files ---


def test_a_pool_file_is_relative_to_itself_and_keeps_what_it_says(drawer, tmp_path):
    shutil.copytree(drawer[0], tmp_path / "runs" / "a")
    table = {
        "base": str(drawer[2]),
        "checkpoints": [
            {"name": "first", "path": "runs/a", "stage": "sft", "tags": ["old"]},
            str(drawer[1]),
        ],
    }
    (tmp_path / "drawer.yaml").write_text(yaml.safe_dump(table))
    pool = Pool.from_yaml(tmp_path / "drawer.yaml")
    assert (pool.name, pool.names) == ("drawer", ("first", drawer[1].name))
    assert pool["first"].path == tmp_path / "runs" / "a"
    assert pool["first"].about == {"stage": "sft", "tags": ["old"]}
    assert pool.base.path == drawer[2]


@pytest.mark.parametrize(
    ("content", "error", "complaint"),
    [
        (b"checkpoints: [", InvalidConfig, "not valid YAML"),
        (b"- a\n- b\n", InvalidConfig, "no list `checkpoints:`"),
        (b"checkpoints: runs/a\n", InvalidConfig, "no list `checkpoints:`"),
        (b"checkpoints: []\n", InvalidConfig, "is empty"),
        (b"checkpoints: [{name: a}]\n", InvalidConfig, "checkpoint number 0 has no path"),
        (b"checkpoints: [7]\n", InvalidConfig, "checkpoint number 0 has no path, found 7"),
        (b"checkpoints: [{path: 7}]\n", InvalidConfig, "checkpoint number 0 has no path"),
        (b"checkpoints: [nowhere]\n", NotFound, "nowhere is not a folder"),
        (b"\xff\xfe\x00checkpoints", NotFound, "can't be read"),
    ],
)
def test_a_pool_file_with_a_mistake_is_refused_in_words(tmp_path, content, error, complaint):
    (tmp_path / "pool.yaml").write_bytes(content)
    with pytest.raises(error, match=complaint) as refused:
        Pool.from_yaml(tmp_path / "pool.yaml")
    assert refused.value.hint


def test_a_missing_pool_file_and_a_base_without_path_are_refused(drawer, tmp_path):
    with pytest.raises(NotFound, match=r"none\.yaml can't be read"):
        Pool.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(InvalidConfig, match="pool 'p': base has no path"):
        Pool.from_entries("p", [{"path": drawer[0]}], {"name": "base"})
