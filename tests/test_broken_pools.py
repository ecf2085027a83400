"""Every broken or strange pool of the corpus gets its own finding; nothing crashes, hangs or grows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
from broken_pools import CASES, WEIGHTS, arrays, folder, packed, safetensors

import recycler as package
from recycler.checkpoints import findings
from recycler.checkpoints.pool import check_folders
from recycler.cli.main import main
from recycler.merge.deep import read

SECONDS = 20  # a case takes milliseconds: this is for what would hang


@pytest.fixture(autouse=True)
def _no_hang():
    def give_up(*_):
        raise TimeoutError(f"still busy after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def recycler(monkeypatch, capsys, *arguments):
    """Run the command line here: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["recycler", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:  # anything else would be a traceback
        main()
    return left.value.code, *capsys.readouterr()


def tree(root):
    """All there is below a folder: name, kind, size, time of change."""
    return {
        str(path.relative_to(root)): (stat.st_mode, stat.st_size, stat.st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if (stat := path.lstat())
    }


def recipe(root, arguments):
    """A recipe over the folders of the arguments, with equal weights."""
    base = arguments.index("--base") if "--base" in arguments else len(arguments)
    table = {
        "method": "linear",
        "checkpoints": [{"path": path, "weight": 1.0} for path in arguments[:base]],
        **({"base": arguments[base + 1]} if base < len(arguments) else {}),
    }
    file = root / "recipe.yaml"
    file.write_text(yaml.safe_dump(table))
    return file


def test_the_corpus_is_large_and_has_every_code_that_is_documented():
    assert len(CASES) >= 60
    codes = frozenset().union(*(case.codes for case in CASES.values()))
    assert codes | {"changed"} == set(re.findall(r"`([a-z-]+)`", findings.__doc__))


@pytest.mark.parametrize("name", CASES)
def test_a_broken_pool_gets_its_finding(tmp_path, monkeypatch, capsys, name):
    case, root = CASES[name], tmp_path / "pool"
    root.mkdir()
    arguments = case.build(root)
    before = tree(root)
    deep = ["--deep"] if case.deep else []

    code, out, err = recycler(monkeypatch, capsys, "pool", "check", *arguments, *deep, "--json")
    findings = json.loads(out)["findings"]
    assert ({f["code"] for f in findings}, code, err) == (case.codes, case.exit, "")
    assert all(f["hint"] and f["found"] and f["expected"] and f["checkpoint"] for f in findings)
    assert {"error" in {f["severity"] for f in findings}} == {case.exit == 2}

    code, out, err = recycler(monkeypatch, capsys, "pool", "check", *arguments, *deep)
    assert (code, err) == (case.exit, "")
    assert "".join(case.said.split()) in "".join(out.split())  # lines are wrapped anywhere
    assert "Traceback" not in out
    assert out.replace("\n", "").isprintable()

    if case.deep:  # headers alone do not show it
        code, out, _ = recycler(monkeypatch, capsys, "pool", "check", *arguments, "--json")
        assert (code, json.loads(out)["findings"]) == (0, [])
    assert tree(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool"]


@pytest.mark.parametrize("name", CASES)
def test_a_broken_pool_is_refused_by_merge_or_merged(tmp_path, monkeypatch, capsys, name):
    case, root, out = CASES[name], tmp_path / "pool", tmp_path / "out"
    root.mkdir()
    file = recipe(tmp_path, case.build(root))
    before = tree(root)
    code, _, err = recycler(monkeypatch, capsys, "merge", file, out)
    assert "Traceback" not in err
    assert code == (1 if case.refused else 0), err
    if code:
        assert err.startswith("Error: ")
        assert err.replace("\n", "").isprintable()
        assert "hint: " in err
        assert not out.exists()
    assert tree(root) == before


@pytest.mark.parametrize(
    "name", ["weights are a pipe", "header of 2**63 bytes", "an adapter", "NaN"]
)
def test_the_real_command_says_it_too(tmp_path, name):
    case = CASES[name]
    deep = ["--deep"] if case.deep else []
    command = [sys.executable, "-m", "recycler", "pool", "check", *case.build(tmp_path), *deep]
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (case.exit, "")
    assert "".join(case.said.split()) in "".join(done.stdout.split())


@pytest.fixture
def shared():
    """A folder that any user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("place", ["", WEIGHTS, "config.json", "tokenizer.json"])
def test_what_may_not_be_read_is_found(shared, place):
    good, closed = folder(shared / "good"), folder(shared / "closed", 1)
    (closed / place).chmod(0)
    user = os.geteuid()
    if user == 0:  # root reads files of any mode
        os.seteuid(65534)
    try:
        pool, (finding,) = check_folders([good, closed])
    finally:
        os.seteuid(user)
        (closed / place).chmod(0o700)
    if place == "tokenizer.json":
        assert (finding.code, finding.severity, pool.n) == ("tokenizer", "warning", 2)
    else:
        assert (finding.code, finding.severity, pool.n) == ("unreadable", "error", 1)
        assert "Permission denied" in finding.found


def test_links_into_the_hubs_cache_are_as_good_as_files(tmp_path, monkeypatch, capsys):
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot = folder(blobs.parent / "snapshots" / "0123abc")
    for file in list(snapshot.iterdir()):
        file.rename(blobs / f"blob-{file.name}")
        file.symlink_to(f"../../blobs/blob-{file.name}")
    (blobs / f"blob-{WEIGHTS}").rename(blobs / "shard")
    (snapshot / WEIGHTS).unlink()
    (snapshot / "shard.safetensors").symlink_to("../../blobs/shard")
    index = {"weight_map": dict.fromkeys(arrays(), "shard.safetensors")}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    other = folder(tmp_path / "other", 1)
    code, out, _ = recycler(
        monkeypatch, capsys, "pool", "check", other, snapshot, "--deep", "--json"
    )
    checked = json.loads(out)
    assert (code, checked["findings"]) == (0, [])
    assert checked["checkpoints"] == ["other", "0123abc"]


# --- memory, time, length ---


def test_no_case_takes_memory_beyond_the_size_of_its_files(tmp_path):
    check_folders([folder(tmp_path / "warm")])  # imports, caches
    for number, case in enumerate(CASES.values()):
        root = tmp_path / str(number)
        root.mkdir()
        arguments = case.build(root)
        base = arguments[arguments.index("--base") + 1] if "--base" in arguments else None
        files = [path.lstat().st_size for path in root.rglob("*")]
        real = sum(size for size in files if size < 1 << 30)  # the rest is a hole
        tracemalloc.start()
        check_folders([a for a in arguments if a not in ("--base", base)], base)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= 400_000 + 8 * real, (case.said, peak, real)
        shutil.rmtree(root)


def test_the_process_does_not_grow_over_the_whole_corpus(tmp_path):
    pools = []
    for number, case in enumerate(CASES.values()):
        (tmp_path / str(number)).mkdir()
        arguments = case.build(tmp_path / str(number))
        pools.append(
            arguments[: arguments.index("--base")] if "--base" in arguments else arguments
        )
    (tmp_path / "pools.json").write_text(json.dumps(pools))
    code = """
import json, resource, sys
from recycler.merge.deep import read
from recycler.checkpoints.pool import check_folders
pools = json.load(open(sys.argv[1]))
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_folders(pools[0])
before = used()
for folders in pools:
    check_folders(folders)
print(used() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "pools.json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
    )
    assert int(done.stdout) <= 40_000  # [KiB]


def test_the_check_of_sixteen_checkpoints_of_real_size_reads_only_headers(tmp_path):
    """300 tensors each in 4 files of 256 MB, which are holes: reading them would take a minute."""
    shape, size = [1024, 1700], 1024 * 1700 * 2
    paths = []
    for run in range(16):
        path = folder(tmp_path / f"run-{run}")
        (path / WEIGHTS).unlink()
        for part in range(4):
            names = [
                f"model.layers.{i}.mlp.up_proj.weight" for i in range(75 * part, 75 * part + 75)
            ]
            header = {
                name: {
                    "dtype": "BF16",
                    "shape": shape,
                    "data_offsets": [i * size, i * size + size],
                }
                for i, name in enumerate(names)
            }
            shard = path / f"model-{part}.safetensors"
            shard.write_bytes(packed(header, b""))
            os.truncate(shard, shard.stat().st_size + 75 * size)
        paths.append(path)
    check_folders(paths[:1])
    before = os.times()
    pool, findings = check_folders(paths)
    after = os.times()
    assert (pool.n, len(pool.checkpoints[0].tensors), findings) == (16, 300, ())
    assert pool.estimate().read_bytes == 16 * 300 * size  # 16.7 GB
    assert after.user - before.user + after.system - before.system <= 1.0  # [s] of CPU


def test_findings_that_are_alike_are_counted_for_people_and_listed_for_programs(
    tmp_path, monkeypatch, capsys
):
    extra = {f"model.layers.{i}.bias": np.zeros(1, "f4") for i in range(292)}
    good, odd = folder(tmp_path / "good"), folder(tmp_path / "odd", tensors={**arrays(), **extra})
    code, out, _ = recycler(monkeypatch, capsys, "pool", "check", good, odd)
    assert code == 2
    assert out.count("tensor-extra odd") == 3
    assert "… and 289 more like it in odd" in out
    assert out.count("hint:") == 1
    assert re.search(r"^292 errors, 0 warnings$", out, flags=re.MULTILINE)
    _, out, _ = recycler(monkeypatch, capsys, "pool", "check", good, odd, "--json")
    assert len(json.loads(out)["findings"]) == 292


def test_another_architecture_is_said_first_and_once(tmp_path, monkeypatch, capsys):
    good, odd = (
        folder(tmp_path / "good"),
        folder(tmp_path / "odd", tensors={"a": np.zeros(1, "f4")}),
    )
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 2}
    (odd / "config.json").write_text(json.dumps(config))
    _, out, _ = recycler(monkeypatch, capsys, "pool", "check", good, odd)
    first = out.splitlines()[0]
    assert first.startswith("error architecture odd · config.json: found GPT2LMHeadModel ('gpt2')")
    _, out, _ = recycler(monkeypatch, capsys, "pool", "check", good, odd, "--json")
    codes = [finding["code"] for finding in json.loads(out)["findings"]]
    assert codes == ["architecture", "tensor-extra", *["tensor-missing"] * 4]


def test_a_file_replaced_while_it_is_read_is_a_finding(tmp_path):
    good, moving = folder(tmp_path / "good"), folder(tmp_path / "moving", 1)
    pool, _ = check_folders([good, moving])
    reading = read(pool, lambda count: os.utime(moving / WEIGHTS))
    (finding,) = reading.findings
    assert (finding.code, finding.checkpoint, reading.norms) == ("changed", "moving", ())
    (moving / WEIGHTS).write_bytes(safetensors({"a": np.zeros(1, "f4")}))
    (finding,) = read(pool).findings
    assert (finding.code, finding.checkpoint, finding.file) == ("changed", "moving", WEIGHTS)
