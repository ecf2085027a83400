"""Checkpoints: headers read with distrust, fingerprints that know bytes and nothing else."""

import hashlib
import json
import math
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import DTYPES, HEADER_LIMIT, read_header
from recycler.errors import BrokenCheckpoint, NotFound

TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
INDEX = "model.safetensors.index.json"


def packed(header, data=b"\0" * 24):
    """A safetensors file: length of the header, header, data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def folder_with(root, files, config=b"{}"):
    """A checkpoint folder of these files."""
    root.mkdir(exist_ok=True)
    (root / "config.json").write_bytes(config)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def index_of(weight_map):
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


# --- what can be read ---


def test_a_real_folder_is_opened_without_reading_a_tensor(drawer):
    checkpoint = Checkpoint.open(drawer[0], about={"stage": "sft"})
    real = load_file(drawer[0] / "model.safetensors")
    assert checkpoint.name == drawer[0].name
    assert checkpoint.about == {"stage": "sft"}
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.dtype == "float32"
    assert list(checkpoint.tensors) == sorted(real)
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in real.values())
    for name, spec in checkpoint.tensors.items():
        assert spec.shape == tuple(real[name].shape)
        with (drawer[0] / spec.file).open("rb") as file:
            file.seek(spec.start)
            assert file.read(spec.nbytes) == real[name].numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_that_is_read_has_the_size_safetensors_gives_it(tmp_path, dtype):
    torch_name, bits = DTYPES[dtype]
    save_file({"t": torch.zeros(3, 5, dtype=getattr(torch, torch_name))}, tmp_path / "a")
    (spec,) = read_header(tmp_path / "a")
    assert (spec.dtype, spec.shape, spec.nbytes) == (dtype, (3, 5), 15 * bits // 8)
    assert str(spec) == f"{torch_name}[3, 5]"


def test_scalars_empty_tensors_padding_and_metadata_are_read(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "scalar": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]},
        "empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [8, 8]},
    }
    file = tmp_path / "a"
    file.write_bytes(packed(json.dumps(header).encode() + b"   ", b"\0" * 8))
    assert {spec.name: spec.shape for spec in read_header(file)} == {"scalar": (), "empty": (0, 4)}


def test_the_dtype_of_a_checkpoint_is_that_of_most_bytes(tmp_path):
    tensors = {"big": torch.zeros(9, 9, dtype=torch.bfloat16), "norm": torch.zeros(9)}
    folder = folder_with(tmp_path / "a", {})
    save_file(tensors, folder / "model.safetensors")
    assert Checkpoint.open(folder).dtype == "bfloat16"


def test_a_single_file_wins_over_an_index_and_over_other_files_as_in_transformers(
    drawer, tmp_path
):
    folder = shutil.copytree(drawer[0], tmp_path / "mixed")
    stale = load_file(drawer[1] / "model.safetensors")
    save_file(stale, folder / "shard.safetensors", metadata={"format": "pt"})
    (folder / INDEX).write_bytes(index_of(dict.fromkeys(stale, "shard.safetensors")))
    assert Checkpoint.open(folder).fingerprint() == Checkpoint.open(drawer[0]).fingerprint()
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert torch.equal(loaded["lm_head.weight"], AutoModelForCausalLM.from_pretrained(
        drawer[0]).state_dict()["lm_head.weight"])  # fmt: skip


# --- what is broken ---

BROKEN_FILES = {
    "empty": (b"", "not a whole safetensors file"),
    "five bytes": (b"\1\0\0\0\0", "not a whole safetensors file"),
    "header longer than the file": (struct.pack("<Q", 500) + b"{}", "header of 500 bytes"),
    "header longer than the format allows": (
        struct.pack("<Q", HEADER_LIMIT + 1) + b"{}",
        "not a whole safetensors file",
    ),
    "a negative length": (b"\xff" * 8 + b"{}", "not a whole safetensors file"),
    "header is not JSON": (packed(b"{'t': 1}"), "not valid JSON"),
    "header is not text": (packed(b"\xff\xfe\x80\x81"), "not valid JSON"),
    "header nests without end": (packed(b'{"t":' + b"[" * 100_000), "not valid JSON"),
    "header is a list": (packed([TENSOR]), "not a table"),
    "a pickle": (pickle.dumps({"t": [1.0] * 50}), "not a whole safetensors file"),
    "a tensor twice": (
        packed(b'{"t": %b, "t": %b}' % ((json.dumps(TENSOR).encode(),) * 2)),
        "'t' occurs twice",
    ),
    "a name without bytes": (packed(b'{"\\ud800": %b}' % json.dumps(TENSOR).encode()), "surrog"),
    "entry is a list": (packed({"t": [1, 2]}), "tensor 't' lacks dtype"),
    "no offsets": (packed({"t": {"dtype": "F32", "shape": [2, 3]}}), "tensor 't' lacks"),
    "unknown dtype": (packed({"t": {**TENSOR, "dtype": "F31"}}), "tensor 't' has dtype 'F31'"),
    "dtype is a list": (packed({"t": {**TENSOR, "dtype": ["F32"]}}), "tensor 't' has dtype"),
    "dtype of another size": (packed({"t": {**TENSOR, "dtype": "F16"}}), "'t' has 24 bytes, exp"),
    "negative shape": (packed({"t": {**TENSOR, "shape": [-2, -3]}}), "tensor 't' has shape"),
    "shape of floats": (packed({"t": {**TENSOR, "shape": [2.0, 3.0]}}), "tensor 't' has shape"),
    "shape of booleans": (packed({"t": {**TENSOR, "shape": [True, 6]}}), "tensor 't' has shape"),
    "shape is a number": (packed({"t": {**TENSOR, "shape": 6}}), "tensor 't' has shape"),
    "shape beyond any memory": (
        packed({"t": {**TENSOR, "shape": [2**62, 2**62]}}),
        "tensor 't' has 24 bytes",
    ),
    "three offsets": (packed({"t": {**TENSOR, "data_offsets": [0, 24, 24]}}), "tensor 't' has"),
    "offsets backwards": (packed({"t": {**TENSOR, "data_offsets": [24, 0]}}), "'t' has -24 bytes"),
    "offsets negative": (packed({"t": {**TENSOR, "data_offsets": [-24, 0]}}), "tensor 't' has"),
    "data cut short": (packed({"t": TENSOR}, b"\0" * 23), "tensor 't' ends at byte"),
    "data left over": (packed({"t": TENSOR}, b"\0" * 25), "its header describes"),
    "data but no tensor": (packed({}, b"\0"), "its header describes"),
    "two tensors overlap": (
        packed({"a": TENSOR, "t": {**TENSOR, "data_offsets": [12, 36]}}, b"\0" * 36),
        r"tensor 't' begins at .* \(overlap or gap\)",
    ),
    "two tensors in one place": (packed({"a": TENSOR, "t": TENSOR}), "tensor 't' begins at"),
    "a gap between tensors": (
        packed({"a": TENSOR, "t": {**TENSOR, "data_offsets": [28, 52]}}, b"\0" * 52),
        r"tensor 't' begins at .* \(overlap or gap\)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_is_named_with_its_tensor(tmp_path, kind):
    content, complaint = BROKEN_FILES[kind]
    folder = folder_with(tmp_path / "a", {"model.safetensors": content})
    with pytest.raises(BrokenCheckpoint, match=complaint) as refused:
        Checkpoint.open(folder)
    assert str(folder / "model.safetensors") in refused.value.message
    assert refused.value.hint


GOOD = packed({"t": TENSOR})
BROKEN_FOLDERS = {
    "nothing inside": ({}, b"{}", "holds no \\*.safetensors"),
    "pickle only": ({"pytorch_model.bin": b"\x80"}, b"{}", r"only pickles \(pytorch_model.bin\)"),
    "config not JSON": ({"model.safetensors": GOOD}, b"{", "config.json is not readable JSON"),
    "config not text": ({"model.safetensors": GOOD}, b"\xff\xff", "config.json is not readable"),
    "config is a list": ({"model.safetensors": GOOD}, b"[]", "config.json is not a JSON object"),
    "no tensor at all": ({"model.safetensors": packed({}, b"")}, b"{}", "holds no tensor"),
    "index without map": ({INDEX: b"{}"}, b"{}", "json has no weight_map"),
    "index with empty map": ({INDEX: index_of({})}, b"{}", "json has no weight_map"),
    "index not JSON": ({INDEX: b"weights"}, b"{}", "index.json is not readable JSON"),
    "index names a missing file": (
        {INDEX: index_of({"t": "two.safetensors"})},
        b"{}",
        "names two.safetensors, which is not there",
    ),
    "index of another save": (
        {"one.safetensors": GOOD, INDEX: index_of({"t": "one.safetensors", "u": "one.safetensors"})},
        b"{}",
        "one.safetensors holds tensor 'u', which is not in it",
    ),
    "index swaps two files": (
        {
            "one.safetensors": GOOD,
            "two.safetensors": packed({"u": TENSOR}),
            INDEX: index_of({"u": "one.safetensors", "t": "two.safetensors"}),
        },
        b"{}",
        "one.safetensors holds tensor 'u', which is not in it",
    ),
    "one tensor in two files": (
        {"one.safetensors": GOOD, "two.safetensors": GOOD},
        b"{}",
        "tensor 't' is in one.safetensors and in two.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_FOLDERS)
def test_a_broken_folder_is_named_with_what_is_wrong(tmp_path, kind):
    files, config, complaint = BROKEN_FOLDERS[kind]
    folder = folder_with(tmp_path / "a", files, config)
    with pytest.raises(BrokenCheckpoint, match=complaint) as refused:
        Checkpoint.open(folder)
    assert str(folder) in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    "name", ["../b/model.safetensors", "/etc/hostname", "b/m.safetensors", "..", ".", "", 7, None]
)
def test_an_index_may_not_lead_out_of_its_folder(tmp_path, name):
    folder_with(tmp_path / "b", {"model.safetensors": GOOD})
    folder = folder_with(tmp_path / "a", {INDEX: index_of({"t": name})})
    with pytest.raises(BrokenCheckpoint, match=r"tensor 't' lies in .* not a plain file name"):
        Checkpoint.open(folder)


def test_a_folder_without_config_and_no_folder_at_all(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(BrokenCheckpoint, match=r"config\.json is missing"):
        Checkpoint.open(tmp_path / "a")
    (tmp_path / "run").mkdir()
    folder_with(tmp_path / "run" / "checkpoint-20", {"model.safetensors": GOOD})
    with pytest.raises(BrokenCheckpoint, match=r"1 of its folders have one: checkpoint-20") as run:
        Checkpoint.open(tmp_path / "run")
    assert str(tmp_path / "run" / "checkpoint-20") in run.value.hint
    with pytest.raises(NotFound, match="nowhere is not a folder"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="is not a folder"):
        Checkpoint.open(tmp_path / "a" / "config.json")


def test_the_hint_for_pickles_says_how_to_convert_them(tmp_path):
    folder = folder_with(tmp_path / "a", {"old.pt": b"\x80"})
    with pytest.raises(BrokenCheckpoint) as refused:
        Checkpoint.open(folder)
    assert "safe_serialization=True" in refused.value.hint


def test_a_file_where_a_file_cannot_be_read_is_broken(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(BrokenCheckpoint, match=r"model.safetensors can't be read"):
        read_header(tmp_path / "model.safetensors")


VALID = packed(
    {
        "__metadata__": {"format": "pt"},
        "a.weight": TENSOR,
        "b.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "I8", "shape": [], "data_offsets": [32, 33]},
    },
    bytes(range(33)),
)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(VALID)),
    st.binary(max_size=12),
    st.booleans(),
)
def test_a_mutated_file_is_refused_or_read_within_its_bounds(
    tmp_path_factory, changes, cut, extra, keep
):
    content = bytearray(VALID)
    for place, value in changes:
        content[place] = value
    content = content + extra if keep else content[:cut] + extra
    check_refused_or_within_bounds(tmp_path_factory.getbasetemp() / "mutated", bytes(content))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(list(DTYPES)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "t"]), inner, max_size=4
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4), st.binary(max_size=32))
def test_any_json_for_a_header_is_refused_or_read_within_its_bounds(
    tmp_path_factory, header, data
):
    check_refused_or_within_bounds(
        tmp_path_factory.getbasetemp() / "mutated", packed(header, data)
    )


def check_refused_or_within_bounds(file, content):
    file.write_bytes(content)
    try:
        specs = read_header(file)
    except BrokenCheckpoint as refused:
        named = str(file) in refused.message
        assert named, refused  # noqa: PT017 - both ends are allowed, nothing else is
        return
    assert (
        sum(spec.nbytes for spec in specs)
        == len(content) - 8 - struct.unpack("<Q", content[:8])[0]
    )
    for spec in specs:
        assert 0 <= spec.start <= spec.stop <= len(content)
        assert spec.nbytes * 8 == math.prod(spec.shape) * DTYPES[spec.dtype][1]
        assert spec.name.encode()


# --- fingerprints ---


def by_hand(tensors):
    """The fingerprint of float32 arrays, from its definition."""
    lines = [
        f"{name}\0F32\0{list(array.shape)}\0{hashlib.sha256(array.tobytes()).hexdigest()}\n"
        for name, array in sorted(tensors.items())
    ]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"b": (3, 4), "a.1": (5,), "a": (), "c": (0, 2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def saved(folder, tensors, parts=None, metadata=None):
    """Save arrays in one file, or in shards with an index."""
    folder_with(folder, {})
    torched = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    if parts is None:
        save_file(torched, folder / "model.safetensors", metadata)
        return Checkpoint.open(folder)
    weight_map = {}
    for number, names in enumerate(parts):
        weight_map |= dict.fromkeys(names, f"shard-{number}.safetensors")
        save_file({name: torched[name] for name in names}, folder / f"shard-{number}.safetensors")
    (folder / INDEX).write_bytes(index_of(weight_map))
    return Checkpoint.open(folder)


def test_fingerprint_is_the_hash_its_docstring_describes(tmp_path):
    assert saved(tmp_path / "a", arrays()).fingerprint() == by_hand(arrays())


def test_shards_order_metadata_name_and_place_do_not_enter_the_fingerprint(tmp_path):
    whole = saved(tmp_path / "whole", arrays())
    others = [
        saved(tmp_path / "again", dict(reversed(arrays().items())), metadata={"format": "pt"}),
        saved(tmp_path / "two", arrays(), parts=[["a", "c"], ["b", "a.1"]]),
        saved(tmp_path / "four", arrays(), parts=[["c"], ["a.1"], ["b"], ["a"]]),
        Checkpoint.open(tmp_path / "whole", name="another", about={"stage": 2}),
    ]
    assert {other.fingerprint() for other in others} == {whole.fingerprint()}


def test_a_re_save_through_transformers_keeps_the_fingerprint(drawer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(drawer[0])
    model.save_pretrained(tmp_path / "again", max_shard_size="40KB")
    again = Checkpoint.open(tmp_path / "again")
    assert len({spec.file for spec in again.tensors.values()}) > 1
    assert again.fingerprint() == Checkpoint.open(drawer[0]).fingerprint()


def test_one_changed_byte_a_name_a_shape_or_a_dtype_changes_the_fingerprint(tmp_path):
    one = saved(tmp_path / "one", arrays())
    prints = {one.fingerprint()}
    spec = one.tensors["b"]
    file = bytearray((one.path / spec.file).read_bytes())
    file[spec.stop - 1] ^= 1
    folder = folder_with(tmp_path / "bit", {"model.safetensors": bytes(file)})
    prints.add(Checkpoint.open(folder).fingerprint())
    tensors = arrays()
    for folder, change in {
        "name": {"d": tensors["b"]},
        "shape": {"b": tensors["b"].reshape(4, 3)},
        "dtype": {"b": tensors["b"].view(np.int32)},
    }.items():
        kept = {name: array for name, array in tensors.items() if name != "b"}
        prints.add(saved(tmp_path / folder, {**kept, **change}).fingerprint())
    assert len(prints) == 5


def test_fingerprint_reports_every_byte_it_read(drawer):
    checkpoint, counts = Checkpoint.open(drawer[0]), []
    checkpoint.fingerprint(counts.append)
    assert sum(counts) == checkpoint.nbytes


def test_a_file_cut_after_it_was_opened_is_noticed(tmp_path):
    checkpoint = saved(tmp_path / "a", arrays())
    os.truncate(tmp_path / "a" / "model.safetensors", checkpoint.tensors["b"].stop - 4)
    with pytest.raises(BrokenCheckpoint, match=r"model.safetensors changed after") as refused:
        checkpoint.fingerprint()
    assert (refused.value.finding, refused.value.file) == ("changed", "model.safetensors")


def test_a_file_cut_while_it_is_read_is_noticed(tmp_path):
    checkpoint = saved(tmp_path / "a", arrays())
    cut = checkpoint.tensors["b"].stop - 4
    with pytest.raises(BrokenCheckpoint, match=r"model.safetensors ended 4 bytes early .*'b'"):
        checkpoint.fingerprint(
            lambda count: os.truncate(checkpoint.path / "model.safetensors", cut)
        )


def test_another_save_with_the_same_layout_is_noticed_while_it_is_read_but_not_before(tmp_path):
    checkpoint = saved(tmp_path / "a", arrays())
    other = saved(tmp_path / "b", {name: array + 1 for name, array in arrays().items()})
    with pytest.raises(BrokenCheckpoint, match="changed after"):
        checkpoint.fingerprint(
            lambda count: shutil.copy(other.path / "model.safetensors", checkpoint.path)
        )
    # equal headers, other bytes: not what was opened, but the fingerprint is of what is there
    assert checkpoint.fingerprint() == other.fingerprint()


def test_another_save_with_another_layout_is_noticed_before_it_is_read(tmp_path):
    checkpoint = saved(tmp_path / "a", arrays())
    saved(tmp_path / "a", {"b": arrays()["b"]})
    counts = []
    with pytest.raises(BrokenCheckpoint, match="changed after"):
        checkpoint.fingerprint(counts.append)
    assert counts == []


def test_the_stamp_changes_when_a_file_is_touched_or_replaced(tmp_path):
    checkpoint = saved(tmp_path / "a", arrays())
    stamps = [checkpoint.stamp()]
    assert checkpoint.stamp() == stamps[0]
    file = Path(tmp_path / "a" / "model.safetensors")
    os.utime(file, ns=(1, 1))
    stamps.append(checkpoint.stamp())
    shutil.copy2(file, tmp_path / "copy")  # same size and time, another inode
    os.replace(tmp_path / "copy", file)
    stamps.append(checkpoint.stamp())
    assert len(set(stamps)) == 3
