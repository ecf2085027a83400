"""Merges into folders: mixed pools, whole or nothing on disk, bounded memory, the loss of rounding."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import toy
import yaml
from contracts.merge_method import bits
from pools import folder_of, merged_tensors, pool_of, recipe_of
from transformers import AutoModelForCausalLM

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint, Conflict, Incompatible, RecyclerError
from recycler.export import merge_file, write_folder
from recycler.merge.methods import METHODS

PROMPT = torch.tensor([[5, 80, 9, 200, 33, 7]])
SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "slerp": {},
    "task_arithmetic": {"lambda": 0.8},
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.6},
    "dare_ties": {"density": 0.6},
}


def recipe_file(
    root: Path,
    folders: list[Path],
    method: str = "linear",
    base: Path | None = None,
    **changes: Any,
) -> Path:
    weights = [0.75, 0.25] if len(folders) == 2 else [0.5, 0.3, -0.2, 0.1][: len(folders)]
    table = {
        "method": method,
        "checkpoints": [
            {"path": str(f), "weight": w} for f, w in zip(folders, weights, strict=True)
        ],
        **({"base": str(base)} if base else {}),
        **changes,
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(table))
    return root / "recipe.yaml"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(file).items()
    }


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")(PROMPT).logits


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- tied and untied heads in one pool ---


@pytest.fixture(scope="module")
def tied_and_not(tmp_path_factory) -> dict[str, Path]:
    """Two tied and two untied Llamas of one shape."""
    root = tmp_path_factory.mktemp("heads")
    return {
        name: toy.checkpoint(root / name, seed=i, tied=name.startswith("tied"))
        for i, name in enumerate(["tied-a", "tied-b", "free-a", "free-b"])
    }


def by_hand(folders: list[Path], base: Path | None, method: str) -> dict[str, torch.Tensor]:
    """The method on whole tensors of untied models: the embedding stands in for a tied head."""
    loaded = [weights_of(folder) for folder in (*folders, *([base] if base else []))]
    for content in loaded:
        content.setdefault("lm_head.weight", content["model.embed_tokens.weight"])
    inputs, own = loaded[: len(folders)], loaded[-1] if base else None
    return {
        name: METHODS[method](
            [x[name] for x in inputs],
            [0.75, 0.25],
            own[name] if own else None,
            SETTINGS[method],
        )
        for name in inputs[0]
    }


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties"])
@pytest.mark.parametrize(
    "names",
    [
        ("tied-a", "free-a", "tied-b"),
        ("free-a", "tied-a", "free-b"),
        ("tied-a", "tied-b", "free-a"),
    ],
    ids="+".join,
)
def test_a_pool_of_tied_and_untied_heads_gives_an_untied_model(
    tied_and_not, tmp_path, method, names
):
    """The last of the names is the base; without one, the two others are of both kinds or both tied."""
    *folders, last = (tied_and_not[name] for name in names)
    base = last if METHODS[method].needs_base else None
    done = merge_file(
        recipe_file(tmp_path, folders, method, base, settings=SETTINGS[method]), tmp_path / "out"
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    found = weights_of(tmp_path / "out")
    every = [*folders, *([base] if base else [])]
    if all("tied" in folder.name for folder in every):
        assert config["tie_word_embeddings"] is True
        assert "lm_head.weight" not in found
    else:
        assert config["tie_word_embeddings"] is False
    expected = by_hand(folders, base, method)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    model = toy.model(tied=config["tie_word_embeddings"])
    model.load_state_dict(expected)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(tmp_path / "out"), model(PROMPT).logits, rtol=1e-4, atol=1e-4
        )
    assert Checkpoint.open(tmp_path / "out").fingerprint() == done["digest"]


def test_one_threshold_over_tied_and_untied_models_counts_the_head(tied_and_not, tmp_path):
    """The embedding of the tied one is held against the base's embedding and its head."""
    folder, base = tied_and_not["tied-a"], tied_and_not["free-a"]
    settings = {"density": 0.3, "scope": "model"}
    for number, (x, b) in enumerate([(folder, base), (base, folder)]):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "one.yaml").write_text(
            yaml.safe_dump(
                {
                    "method": "ties",
                    "checkpoints": [{"path": str(x), "weight": 1.0}],
                    "base": str(b),
                    "settings": settings,
                }
            )
        )
        merge_file(root / "one.yaml", root / "out")
        merged, anchor, own = (weights_of(f) for f in (root / "out", b, x))
        for content in (anchor, own):
            content.setdefault("lm_head.weight", content["model.embed_tokens.weight"])
        changed = sum(int((merged[n] != anchor[n]).sum()) for n in merged)
        total = sum(t.numel() for t in own.values())
        assert len(merged) == len(own)
        assert changed == int(0.3 * total)


def test_tied_heads_are_refused_on_request(tied_and_not, tmp_path):
    folders = [tied_and_not["tied-a"], tied_and_not["free-a"]]
    file = recipe_file(tmp_path, folders, settings={"missing": "refuse"})
    with pytest.raises(Incompatible, match="can't be merged"):
        merge_file(file, tmp_path / "out")
    assert left_in(tmp_path) == ["recipe.yaml"]


# --- other differences within a pool ---


def padded(folder: Path, source: Path, rows: int) -> Path:
    """A copy whose vocabulary has more rows, as trainers pad them."""
    model = AutoModelForCausalLM.from_pretrained(source)
    torch.manual_seed(rows)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    toy.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("first", [0, 1])
def test_padded_vocabularies_keep_the_rows_that_all_have(drawer, tmp_path, method, first):
    """Whoever is the donor, config.vocab_size is that of the tensors."""
    wide = padded(tmp_path / "wide", drawer[0], 264)
    folders = [wide, drawer[1]] if first == 0 else [drawer[1], wide]
    base = padded(tmp_path / "base", drawer[3], 272) if method == "ties" else None
    with pytest.raises(Incompatible, match="can't be merged"):
        merge_file(recipe_file(tmp_path, folders, method, base), tmp_path / "out")
    settings = {**SETTINGS[method], "vocabulary": "common"}
    merge_file(recipe_file(tmp_path, folders, method, base, settings=settings), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == toy.VOCABULARY
    inputs = [weights_of(folder) for folder in folders]
    anchor = weights_of(base) if base else None
    for name, found in weights_of(tmp_path / "out").items():
        rows = slice(0, found.shape[0])
        expected = METHODS[method](
            [x[name][rows] for x in inputs],
            [0.75, 0.25],
            anchor[name][rows] if anchor else None,
            SETTINGS[method],
        )
        assert torch.equal(found, expected)
    assert logits(tmp_path / "out").shape[-1] == toy.VOCABULARY


def test_shards_files_and_dtypes_may_be_mixed(drawer, tmp_path):
    """One of three is sharded, one bfloat16, one float16; the sums are of their own numbers."""
    folders = [drawer[0]]
    for dtype, size in (("bfloat16", "20KB"), ("float16", "5GB")):
        model = AutoModelForCausalLM.from_pretrained(drawer[1], dtype=dtype)
        model.save_pretrained(tmp_path / dtype, max_shard_size=size)
        toy.tokenizer().save_pretrained(tmp_path / dtype)
        folders.append(tmp_path / dtype)
    assert len(list(folders[1].glob("*.safetensors"))) > 2
    done = merge_file(recipe_file(tmp_path, folders, dtype="float32"), tmp_path / "out")
    inputs = [weights_of(folder) for folder in folders]
    for name, found in weights_of(tmp_path / "out").items():
        x, y, z = (content[name].double() for content in inputs)
        torch.testing.assert_close(
            found.double(), 0.5 * x + 0.3 * y - 0.2 * z, rtol=1e-6, atol=1e-6
        )
    assert Checkpoint.open(tmp_path / "out").fingerprint() == done["digest"]
    logits(tmp_path / "out")


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_what_is_missing_is_refused_taken_from_the_base_or_skipped(tmp_path, method):
    tensors = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([3.0])}
    folders = [
        folder_of(tmp_path / "a", {n: 2 * t for n, t in tensors.items()}),
        folder_of(tmp_path / "b", {"x": 4 * tensors["x"]}),
    ]
    base = folder_of(tmp_path / "base", tensors)
    with pytest.raises(Incompatible, match=r"b · model[.]safetensors · y"):
        merge_file(recipe_file(tmp_path, folders, method, base), tmp_path / "none")
    for missing in ("base", "skip"):
        file = recipe_file(tmp_path, folders, method, base, settings={"missing": missing})
        merge_file(file, tmp_path / f"out-{missing}")
    taken, skipped = (weights_of(tmp_path / f"out-{m}")["y"].item() for m in ("base", "skip"))
    if method == "linear":
        assert (taken, skipped) == (0.75 * 6 + 0.25 * 3, 0.75 * 6)
    else:  # the base's own tensor adds a task vector of zero
        assert (taken, skipped) == (3 + 0.75 * 3, 3 + 0.75 * 3)
    assert "none" not in left_in(tmp_path)


def test_scalars_and_empty_tensors_go_through_every_method(tmp_path):
    contents = [{"s": torch.tensor(float(i)), "e": torch.zeros((2, 0))} for i in (1, 3, 2)]
    pool = pool_of(tmp_path, contents[:2], contents[2])
    for method, settings in SETTINGS.items():
        found = merged_tensors(pool, recipe_of(pool, [0.25, 0.75], method=method, **settings))
        assert found["s"].shape == ()
        assert found["e"].shape == (2, 0)
        if method in ("linear", "slerp"):
            assert found["s"].item() == 0.25 * 1 + 0.75 * 3
        if method == "task_arithmetic":
            assert found["s"].item() == pytest.approx(2 + 0.8 * (0.25 * -1 + 0.75 * 1))


# --- whole or not at all ---


@pytest.fixture
def toy_pool(tmp_path) -> Pool:
    """Two checkpoints of forty tensors with 8 kB each, in a folder of their own."""
    rng = torch.Generator().manual_seed(0)
    contents = [
        {f"t{j:02}": torch.randn(4096, generator=rng).bfloat16() for j in range(40)}
        for _ in range(3)
    ]
    (tmp_path / "pool").mkdir()
    return pool_of(tmp_path / "pool", contents[:2], contents[2])


def once(action: Callable[[], object]) -> Callable[[int], None]:
    """For `on_bytes`: do something when the first tensors are written."""
    calls = [0]

    def on_bytes(_: int) -> None:
        calls[0] += 1
        if calls[0] == 5:
            action()

    return on_bytes


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("spoilt", ["cut", "rewritten", "touched", "replaced", "gone"])
def test_a_file_that_changes_during_the_merge_leaves_nothing(
    toy_pool, tmp_path, method, threads, spoilt
):
    file = toy_pool.checkpoints[1].path / "model.safetensors"
    content = file.read_bytes()

    def spoil() -> None:
        if spoilt == "cut":
            os.truncate(file, len(content) // 8)
        elif spoilt == "rewritten":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif spoilt == "touched":
            os.utime(file, ns=(1, 1))
        elif spoilt == "replaced":
            file.rename(file.with_suffix(".old"))
            file.write_bytes(content)
        else:
            file.unlink()

    out = tmp_path / "merges" / "out"
    out.parent.mkdir()
    recipe = recipe_of(toy_pool, [0.5, 0.5], "bfloat16", method, **SETTINGS[method])
    with pytest.raises(BrokenCheckpoint) as caught:
        write_folder(
            recipe, toy_pool, toy_pool.checkpoints[0], out, threads=threads, on_bytes=once(spoil)
        )
    assert str(file.parent) in caught.value.message
    assert caught.value.hint
    assert left_in(out.parent) == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("force", [False, True])
def test_ctrl_c_in_the_middle_leaves_what_was_there(toy_pool, tmp_path, threads, force):
    out = tmp_path / "merges" / "out"
    out.parent.mkdir()
    if force:
        out.mkdir()
        (out / "recycler.json").write_text("{}")
    recipe = recipe_of(toy_pool, [0.5, 0.5], "bfloat16", "ties", density=0.5)
    during: list[list[str]] = []

    def interrupt() -> None:
        during.append(left_in(out.parent))
        os.kill(os.getpid(), signal.SIGINT)

    # a shell starts what runs in its background with SIGINT ignored, and tests may run there
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_folder(
                recipe,
                toy_pool,
                toy_pool.checkpoints[0],
                out,
                force=force,
                threads=threads,
                on_bytes=once(interrupt),
            )
    finally:
        signal.signal(signal.SIGINT, before)
    (seen,) = during
    assert any(name.startswith(".out.") and name.endswith(".part") for name in seen)
    assert left_in(out.parent) == (["out"] if force else [])
    if force:
        assert left_in(out) == ["recycler.json"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here; the limit on file sizes is tested instead")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_is_told_and_left_as_it_was(small_disk, toy_pool):
    recipe = recipe_of(toy_pool, [0.5, 0.5], "float32")
    with pytest.raises(RecyclerError, match="No space left") as caught:
        write_folder(recipe, toy_pool, toy_pool.checkpoints[0], small_disk / "out")
    assert caught.value.hint
    assert left_in(small_disk) == []


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_modes_of_a_merged_folder_follow_the_umask(drawer, tmp_path, mask):
    file = recipe_file(tmp_path, drawer[:2])
    before = os.umask(mask)
    try:
        merge_file(file, tmp_path / "out", shard_bytes=30_000)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask
    files = list((tmp_path / "out").iterdir())
    assert len([f for f in files if f.suffix == ".safetensors"]) > 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~mask}


def test_a_target_that_exists_is_refused_and_replaced_with_force(drawer, tmp_path):
    file = recipe_file(tmp_path, drawer[:2])
    (tmp_path / "out").mkdir()
    with pytest.raises(Conflict, match="exists"):
        merge_file(file, tmp_path / "out")
    done = merge_file(file, tmp_path / "out", force=True)
    assert Checkpoint.open(tmp_path / "out").fingerprint() == done["digest"]
    assert left_in(tmp_path) == ["out", "recipe.yaml"]


@pytest.mark.parametrize("method", METHODS)
def test_shards_threads_and_one_file_hold_the_same_bytes(drawer, tmp_path, method):
    base = drawer[3] if METHODS[method].needs_base else None
    file = recipe_file(
        tmp_path, drawer[:2], method, base, settings=SETTINGS[method], dtype="bfloat16"
    )
    whole = merge_file(file, tmp_path / "whole", threads=1)
    shards = merge_file(file, tmp_path / "shards", shard_bytes=20_000, threads=3)
    assert whole["digest"] == shards["digest"]
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    one, many = weights_of(tmp_path / "whole"), weights_of(tmp_path / "shards")
    assert {n: bits(t) for n, t in one.items()} == {n: bits(t) for n, t in many.items()}
    assert index["weight_map"].keys() == one.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in one.values())
    assert torch.equal(logits(tmp_path / "whole"), logits(tmp_path / "shards"))


MEMORY = """
import sys, threading, time
from pathlib import Path
from recycler.merge.folder import write_weights
from recycler.merge.sources import Sources
from recycler.checkpoints.pool import Pool
from recycler.nouns.recipe import Ingredient, Recipe

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def merge(pool, method, out):
    base = Ingredient("base", pool.base.name, 1.0)
    items = tuple(Ingredient(c.name, c.name, 0.25) for c in pool.checkpoints)
    settings = {"density": 0.5} if method != "linear" else {}
    with Sources(pool) as sources:
        write_weights(Recipe(method, items, "bfloat16", base, settings), sources, out, threads=2)

out, warm, *folders, base = (Path(arg) for arg in sys.argv[1:])
methods = ("linear", "ties", "dare_ties")
for method in methods:  # compiled code and threads are there before it counts
    merge(Pool.open([warm], warm), method, out)
before, peak, done = anonymous(), [0], [False]

def watch():
    while not done[0]:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
for method in methods:
    merge(Pool.open(folders, base), method, out)
done[0] = True
watcher.join()
print((peak[0] - before) * 1024)
"""


def test_memory_is_bounded_by_a_few_tensors_and_not_by_the_models(tmp_path):
    """Six checkpoints and a base of 48 MB each, in tensors of 1.5 MB: 336 MB go through 30 MB."""
    rng = torch.Generator().manual_seed(0)
    row = torch.randn(32 * 768 * 1024, generator=rng).bfloat16().reshape(32, -1)
    for i in range(7):
        content = {f"t{j:02}": (row[j] * (1 + i / 8)).clone() for j in range(32)}
        folder_of(tmp_path / f"c{i}", content)
    (tmp_path / "warm").mkdir()
    small = folder_of(tmp_path / "warm" / "c", {"t": row[0, :5000].clone()})
    (tmp_path / "out").mkdir()
    folders = [str(tmp_path / f"c{i}") for i in range(7)]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "out"), str(small), *folders],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 48e6
    assert int(done.stdout) < 30e6


# --- what rounding takes ---


def test_the_update_lost_to_rounding_by_hand(tmp_path):
    """bfloat16 has steps of 2^-7 above 1: of updates of 1/4, 3/4 and 1 step one is swallowed."""
    step = 2.0**-7
    base = torch.ones(4)
    x = base + step * torch.tensor([0.25, 0.75, 1.0, 0.0])
    folder_of(tmp_path / "x", {"x": base + (x - base) * 2})
    folder_of(tmp_path / "base", {"x": base})
    table = {
        "method": "task_arithmetic",
        "checkpoints": [{"path": "x", "weight": 0.5}],
        "base": "base",
        "dtype": "bfloat16",
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(table))
    done = merge_file(tmp_path / "r.yaml", tmp_path / "out")
    assert weights_of(tmp_path / "out")["x"].tolist() == [1.0, 1 + step, 1 + step, 1.0]
    lost, error = done["rounding"]["lost"], done["rounding"]["relative_error"]
    assert lost == pytest.approx(1 / 3)
    assert error == pytest.approx(((0.25**2 + 0.25**2) / (0.25**2 + 0.75**2 + 1)) ** 0.5)
    proof = json.loads((tmp_path / "out" / "recycler.json").read_text())
    assert proof["rounding"] == done["rounding"]


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_bfloat16_swallows_small_updates_and_float32_none(tmp_path, method):
    """Updates of 1e-4 on weights of 0.02: a good part is lost; the figures are checked by numbers."""
    rng = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(60_000, generator=rng)).bfloat16().float()
    folders = [
        folder_of(tmp_path / f"c{i}", {"x": base + 1e-4 * torch.randn(60_000, generator=rng)})
        for i in range(2)
    ]
    anchor = folder_of(tmp_path / "base", {"x": base})
    found = {}
    for dtype in ("bfloat16", "float32"):
        file = recipe_file(
            tmp_path, folders, method, anchor, dtype=dtype, settings=SETTINGS[method]
        )
        found[dtype] = merge_file(file, tmp_path / dtype)["rounding"]
    assert found["float32"] == {"lost": 0.0, "relative_error": 0.0}
    least = 0.02 if method == "ties" else 0.2  # TIES trims the small ones itself
    assert least < found["bfloat16"]["lost"] < 0.9
    assert found["bfloat16"]["relative_error"] > 0.2
    exact, rounded = (weights_of(tmp_path / d)["x"].double() for d in ("float32", "bfloat16"))
    b = weights_of(anchor)["x"].double()
    changed = exact != b
    assert found["bfloat16"]["lost"] == float((rounded == b)[changed].double().mean())
    assert found["bfloat16"]["relative_error"] == pytest.approx(
        float((rounded - exact).norm() / (exact - b).norm())
    )


def test_merges_without_a_base_have_no_update_to_lose(drawer, tmp_path):
    assert merge_file(recipe_file(tmp_path, drawer[:2]), tmp_path / "out")["rounding"] is None
