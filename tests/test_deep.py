"""The deep check: every byte once, in blocks; norms, cosines, fingerprints and NaN as by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_pools import CONFIG, WEIGHTS, arrays, folder
from safetensors.torch import save_file

import recycler as package
from recycler.checkpoints.pool import Pool
from recycler.merge import deep
from recycler.merge.deep import read
from recycler.report import text
from recycler.report.progress import ProgressBar


def flat(tensors):
    """All numbers of a checkpoint as one vector."""
    return np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)]).astype(float)


def geometry(vectors):
    """Norms and cosines, by the textbook."""
    vectors = np.array(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    return norms, (vectors @ vectors.T) / np.outer(norms, norms)


def torched(path, tensors):
    """A folder of these torch tensors."""
    folder(path)
    save_file(tensors, path / WEIGHTS)
    return path


def test_norms_and_cosines_from_the_mean_by_hand(tmp_path):
    # task vectors from the mean (2, 2): (-2, -1), (1, -1), (1, 2)
    values = [(0, 1), (3, 1), (3, 4)]
    paths = [
        folder(tmp_path / f"c{i}", tensors={"w": np.array(v, "f4")}) for i, v in enumerate(values)
    ]
    reading = read(Pool.open(paths))
    assert reading.reference == "the mean of 3 checkpoints"
    assert reading.names == ("c0", "c1", "c2")
    assert reading.norms == pytest.approx(np.sqrt([5, 2, 5]))
    assert reading.cosines[0] == pytest.approx((1, -1 / np.sqrt(10), -4 / 5))
    assert reading.cosines[1] == pytest.approx((-1 / np.sqrt(10), 1, -1 / np.sqrt(10)))
    assert reading.findings == ()


@pytest.mark.parametrize("limit", [1 << 22, 12, 1])
def test_norms_and_cosines_do_not_depend_on_the_size_of_the_blocks(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(deep, "STACK_LIMIT", limit)
    monkeypatch.setattr(deep, "_FEWEST", 1)
    paths = [folder(tmp_path / f"c{seed}", seed) for seed in range(3)]
    base = folder(tmp_path / "base", 9)
    counts = []
    reading = read(Pool.open(paths, base), counts.append)
    norms, cosines = geometry([flat(arrays(seed)) - flat(arrays(9)) for seed in range(3)])
    assert reading.reference == "the base 'base'"
    assert reading.norms == pytest.approx(norms)
    assert np.array(reading.cosines) == pytest.approx(cosines)
    everything = Pool.open(paths, base).everything
    assert reading.fingerprints == {c.name: c.fingerprint() for c in everything}
    assert sum(counts) == reading.read_bytes == sum(c.nbytes for c in everything)


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
)
def test_every_dtype_of_floats_is_read(tmp_path, dtype):
    torch.manual_seed(0)
    values = [torch.randn(5, 7).to(getattr(torch, dtype)) for _ in range(2)]
    broken = values[1].clone()
    broken[2, 3] = float("nan")
    pair = [torched(tmp_path / f"c{i}", {"w": value}) for i, value in enumerate(values)]
    norms, _ = geometry([flat({"w": v.double().numpy()}) for v in values])
    zero = torched(tmp_path / "zero", {"w": torch.zeros(5, 7).to(values[0].dtype)})
    assert read(Pool.open(pair, zero)).norms == pytest.approx(norms)
    (finding,) = read(Pool.open([torched(tmp_path / "nan", {"w": broken}), pair[0]])).findings
    assert finding.found == "1 NaN and 0 Inf, the first at [2, 3]"


def test_a_sum_of_finite_numbers_that_overflows_is_no_finding(tmp_path):
    huge = np.full(4, 1e308)
    paths = [torched(tmp_path / name, {"w": torch.from_numpy(huge)}) for name in "ab"]
    assert [f.code for f in read(Pool.open(paths)).findings] == ["duplicate"]


def test_numbers_of_all_kinds_are_counted_over_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "STACK_LIMIT", 8)
    monkeypatch.setattr(deep, "_FEWEST", 1)
    spoiled = arrays(1)
    spoiled["lm_head.weight"][1:, 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    paths = [folder(tmp_path / "good"), folder(tmp_path / "bad", tensors=spoiled)]
    (finding,) = read(Pool.open(paths)).findings
    assert (finding.checkpoint, finding.tensor) == ("bad", "lm_head.weight")
    assert finding.found == "3 NaN and 2 Inf, the first at [1, 1]"


def test_a_checkpoint_of_other_shapes_is_read_but_has_no_task_vector(tmp_path):
    odd = {**arrays(2), "lm_head.weight": np.full((9, 2), np.inf, "f4"), "more": np.zeros(3, "f4")}
    paths = [
        folder(tmp_path / "a"),
        folder(tmp_path / "odd", tensors=odd),
        folder(tmp_path / "b", 1),
    ]
    reading = read(Pool.open(paths, paths[1]))
    norms, _ = geometry(
        [flat(arrays(s)) - (flat(arrays(0)) + flat(arrays(1))) / 2 for s in (0, 1)]
    )
    assert reading.reference == "the mean of 2 checkpoints"  # the base has other shapes too
    assert (reading.names, reading.norms) == (("a", "b"), pytest.approx(norms))
    assert sorted(reading.fingerprints) == ["a", "b", "odd"]
    assert {f.found for f in reading.findings} == {"0 NaN and 18 Inf, the first at [0, 0]"}


def test_equal_task_vectors_have_cosine_one_and_a_zero_one_has_none(tmp_path):
    paths = [folder(tmp_path / "a"), folder(tmp_path / "a2"), folder(tmp_path / "same-as-base", 1)]
    reading = read(Pool.open(paths, folder(tmp_path / "base", 1)))
    assert reading.cosines[0] == (pytest.approx(1), pytest.approx(1), None)
    assert reading.norms[2] == 0.0
    assert [(f.code, f.checkpoint) for f in reading.findings] == [
        ("duplicate", "a2"),
        ("base-member", "same-as-base"),
    ]


def test_memory_does_not_grow_with_the_size_of_a_tensor(tmp_path):
    """Four checkpoints with one tensor of 64 MB each; holding one of them would show."""
    for run in range(4):
        torched(tmp_path / f"c{run}", {"w": torch.full((1 << 25,), run, dtype=torch.bfloat16)})
    code = """
import resource, sys
from recycler.merge.deep import read
from recycler.checkpoints.pool import Pool
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small, large = Pool.open(sys.argv[1:3]), Pool.open(sys.argv[3:])
read(small)
before = used()
reading = read(large)
print(used() - before, *reading.norms)
"""
    small = [folder(tmp_path / "s0"), folder(tmp_path / "s1", 1)]
    done = subprocess.run(
        [sys.executable, "-c", code, *small, *(tmp_path / f"c{run}" for run in range(4))],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
    )
    grown, *norms = map(float, done.stdout.split())
    assert grown <= 40_000  # [KiB]
    assert norms == pytest.approx(np.sqrt(2.0**25) * np.array([1.5, 0.5, 0.5, 1.5]))


def test_a_line_of_progress_says_bytes_rate_and_time_left(capsys, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    with ProgressBar() as bar:
        for _ in range(8):
            bar.bytes_moved("reading", 50 << 20, 400 << 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("reading: 400/400 (MiB, ")
    assert lines[-1].endswith(" MiB/s)")
    assert any("ETA" in line for line in lines)


def test_people_read_norms_cosines_and_names_as_they_are(tmp_path, capsys):
    paths = [folder(tmp_path / f"[red]{seed}", seed) for seed in range(3)]
    pool = Pool.open(paths)
    reading = read(pool)
    text.check(pool, reading.findings, reading)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "[red]" in line]
    own = list(reading.cosines[0][1:])
    first = rows[0]
    assert first[:2] == ["[red]0", f"{reading.norms[0]:.4g}"]
    assert first[2:6:2] == [f"{max(own):+.3f}", f"{min(own):+.3f}"]
    assert [row[-1] for row in rows] == [reading.fingerprints[n][7:19] for n in pool.names]


# --- what is the same in another spelling ---


def settled(path, **settings):
    file = folder(path, 1) / "config.json"
    table = {key: v for key, v in {**CONFIG, **settings}.items() if v is not ...}
    file.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_theta": ..., "rope_parameters": {"type": "default", "rope_theta": 1e4}},
        {"num_key_value_heads": ..., "head_dim": 2},
        {"architectures": ["LlamaForCausalLM"], "transformers_version": "9"},
        {"quantization_config": None},
    ],
)
def test_settings_in_the_spelling_of_another_version_are_equal(tmp_path, settings):
    pool = Pool.open([folder(tmp_path / "a"), settled(tmp_path / "b", **settings)])
    assert pool.check() == ()


def test_a_setting_that_one_leaves_out_is_the_architectures_default(tmp_path):
    first = folder(tmp_path / "a")
    assert Pool.open([first, settled(tmp_path / "b", tie_word_embeddings=...)]).check() == ()
    (finding,) = Pool.open([first, settled(tmp_path / "c", attention_bias=True)]).check()
    assert (finding.severity, finding.found) == ("warning", "attention_bias True")
    assert finding.expected == "False as in 'a'"


@pytest.mark.parametrize(
    ("settings", "severity", "found"),
    [
        ({"a_scale_of_ours": 2.0}, "warning", "a_scale_of_ours 2.0"),
        (
            {"vision_config": {"depth": 3, "hidden_size": 8, "use_cache": False}},
            "warning",
            "vision_config.depth 3",
        ),
        (
            {"vision_config": {"depth": 2, "hidden_size": 9}},
            "error",
            "vision_config.hidden_size 9",
        ),
        ({"id2label": {"0": "no", "1": "yes"}}, "error", "id2label {'0': 'no', '1': 'yes'}"),
    ],
)
def test_every_setting_is_compared_but_those_that_change_nothing(
    tmp_path, settings, severity, found
):
    """Also of configs within configs; labels in another order would be averaged with each other."""
    usual = {"vision_config": {"depth": 2, "hidden_size": 8}, "id2label": {"0": "yes", "1": "no"}}
    harmless = {"transformers_version": "9", "use_cache": False, "_name_or_path": "elsewhere"}
    same = Pool.open(
        [settled(tmp_path / "a", **usual), settled(tmp_path / "b", **usual, **harmless)]
    )
    assert same.check() == ()
    (finding,) = Pool.open(
        [tmp_path / "a", settled(tmp_path / "c", **{**usual, **settings})]
    ).check()
    assert (finding.code, finding.severity, finding.found) == ("config", severity, found)


def test_a_tokenizer_with_another_layout_of_its_json_is_the_same(tmp_path):
    paths = [folder(tmp_path / "a"), folder(tmp_path / "b", 1)]
    file = paths[1] / "tokenizer.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(table.items())), indent=4))
    assert Pool.open(paths).check() == ()


def test_a_chat_template_is_the_same_in_its_own_file(tmp_path):
    paths = [folder(tmp_path / "a"), folder(tmp_path / "b", 1)]
    file = paths[1] / "tokenizer_config.json"
    table = json.loads(file.read_text())
    (paths[1] / "chat_template.jinja").write_text(table.pop("chat_template"))
    file.write_text(json.dumps(table))
    assert Pool.open(paths).check() == ()


def test_the_estimate_is_of_bytes(tmp_path):
    pool = Pool.open(
        [folder(tmp_path / "a"), folder(tmp_path / "b", 1)], folder(tmp_path / "c", 2)
    )
    own = sum(array.nbytes for array in arrays().values())  # 6*2*2 + 2*2 + 2 floats
    assert own == 30 * 4
    takes = pool.estimate()
    assert (takes.read_bytes, takes.write_bytes, takes.working_bytes) == (3 * own, own, 3 * 12 * 4)
    assert takes.seconds == pytest.approx(4 * own / 1e9)
    assert takes.free_bytes > 0
