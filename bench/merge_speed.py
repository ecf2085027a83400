"""Time and memory of whole merges by recycler and mergekit, on large pools of bfloat16 checkpoints.

Runs of both alternate in one session on a warm page cache, because machines are noisy; load averages are printed.
`python bench/merge_vs_mergekit.py --speed` runs all of it.
"""

import os
import shutil
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import merge_tools as tools
import torch
import yaml
from safetensors import safe_open

from recycler.merge.recipes.own import MergeFile, read_recipe
from recycler.merge.sources import Sources
from recycler.merge.stream import merges
from recycler.nouns.recipe import Recipe

DENSITY = 0.5
QWEN2_HALF = {
    "hidden": 896, "layers": 24, "inner": 4864, "vocab": 151936, "heads": 14, "kv": 2, "tied": True,
}  # fmt: skip  # the shape of Qwen2-0.5B: 0.49 B parameters, 1 GB in bfloat16
SMOLLM2_135M = {
    "hidden": 576, "layers": 30, "inner": 1536, "vocab": 49152, "heads": 9, "kv": 3, "tied": True,
}  # fmt: skip


def large_pool(root: Path, shape: dict, n: int, qwen2: bool) -> list[Path]:
    """A base (first) and n checkpoints near it, of random bfloat16 weights.

    Base entries have a standard deviation of 0.02, task vectors of 0.002.
    """
    config, shapes = tools.llama_shapes(**shape)
    if qwen2:  # with biases in attention
        config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        biased = ("q_proj", "k_proj", "v_proj")
        for name in [name for name in shapes if name.split(".")[-2] in biased]:
            shapes[name.replace(".weight", ".bias")] = shapes[name][:1]
    random = torch.Generator().manual_seed(0)
    base = {
        name: torch.randn(size, generator=random).mul_(0.02).bfloat16()
        for name, size in shapes.items()
    }
    folders = [tools.write_checkpoint(root / "base", config, base)]
    for member in range(n):
        moved = {
            name: torch.randn(x.shape, generator=random).mul_(0.002).add_(x).bfloat16()
            for name, x in base.items()
        }
        folders.append(tools.write_checkpoint(root / f"m{member}", config, moved))
    return folders


def recipe_file(file: Path, pool: list[Path], method: str) -> Path:
    """Weights that are all different and sum to 1, in mergekit's YAML."""
    n = len(pool) - 1
    table: dict = {"merge_method": method, "models": [], "parameters": {"normalize": True}}
    for number, folder in enumerate(pool[1:], start=1):
        parameters = {"weight": number * 2 / (n * (n + 1))}
        if method in ("ties", "dare_linear", "dare_ties"):
            parameters["density"] = DENSITY
        table["models"].append({"model": str(folder), "parameters": parameters})
    if method != "linear":
        table["base_model"] = str(pool[0])
    file.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    return file


def warm(pool: list[Path]) -> int:
    """Read all weight files into the page cache; returns their size [B]."""
    total, buffer = 0, bytearray(1 << 24)
    for folder in pool:
        with (folder / "model.safetensors").open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                total += count
    return total


def commands(python: Path, recipe: Path, out: Path) -> dict[str, list]:
    """The command of each tool for the same merge."""
    return {
        "recycler": [sys.executable, "-m", "recycler", "merge", recipe, out, "--json"],
        "mergekit": [
            python.parent / "mergekit-yaml",
            recipe,
            out,
            "--no-copy-tokenizer",
            "--quiet",
        ],
    }


def alternate(
    python: Path, work: Path, pool: list[Path], method: str, cores: int, rounds: int
) -> dict[str, list[tools.Measured]]:
    """Run both tools on one recipe in turn, `rounds` times, and print each run."""
    recipe, out = recipe_file(work / f"{method}.yaml", pool, method), work / "out"
    inputs = pool[1:] if method == "linear" else pool
    runs: dict[str, list[tools.Measured]] = {"recycler": [], "mergekit": []}
    for _ in range(rounds):
        for tool, command in commands(python, recipe, out).items():
            warm(inputs)
            runs[tool].append(tools.measure(command, cores))
            shutil.rmtree(out)
            print(f"  {method:16} {tool:9} {runs[tool][-1]}", flush=True)
    return runs


def print_ratios(method: str, runs: dict[str, list[tools.Measured]]) -> None:
    """Print the medians of both tools, and their ratio."""

    def middle(tool: str, what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs[tool])

    cells = []
    for what, unit, scale in (("wall", "s", 1), ("cpu", "s", 1), ("anonymous", "GB", 1e9)):
        ours, theirs = middle("recycler", what) / scale, middle("mergekit", what) / scale
        cells.append(f"{what} {ours:.2f} against {theirs:.2f} {unit} ({theirs / ours:.1f} x)")
    print(f"{method}: {', '.join(cells)}", flush=True)


# --- inside one process, without start, hashing and writing ---


def opened(file: Path) -> MergeFile:
    """Read a recipe file; paths stand in for fingerprints, so nothing is hashed."""
    return read_recipe(file, lambda checkpoint, exact: str(checkpoint.path))


def turned(recipe: Recipe, steps: int) -> Recipe:
    """Return the same recipe with the weights rotated over the checkpoints."""
    weights = [item.weight for item in recipe.ingredients]
    moved = [*weights[steps:], *weights[:steps]]
    pairs = zip(recipe.ingredients, moved, strict=True)
    return replace(recipe, ingredients=tuple(replace(item, weight=w) for item, w in pairs))


def seconds(recipes: list[Recipe], sources: Sources, threads: int) -> float:
    """Time to compute all tensors of some merges in one pass [s]."""
    start = time.perf_counter()
    for _ in merges(recipes, sources, threads=threads):
        pass
    return time.perf_counter() - start


def copy_seconds(folders: list[Path], threads: int) -> tuple[float, int]:
    """Time to copy every mapped input into one buffer [s], and the bytes."""
    torch.set_num_threads(threads)
    files = [safe_open(folder / "model.safetensors", framework="pt") for folder in folders]
    tensors = [
        file.get_tensor(name).reshape(-1).view(torch.uint8)
        for file in files
        for name in file.offset_keys()
    ]
    buffer = torch.empty(max(tensor.numel() for tensor in tensors), dtype=torch.uint8)
    start = time.perf_counter()
    for tensor in tensors:
        buffer[: tensor.numel()].copy_(tensor)
    return time.perf_counter() - start, sum(tensor.numel() for tensor in tensors)


def kernel(file: Path, folders: list[Path], threads: int, rounds: int) -> None:
    """Input bytes per second of one merge and of a plain copy of its inputs; best of some runs."""
    given = opened(file)
    ours, copied = [], []
    for _ in range(rounds + 1):  # the first maps every page and compiles
        warm(folders)
        with Sources(given.pool) as sources:
            ours.append(seconds([given.recipe], sources, threads))
        taken, total = copy_seconds(folders, threads)
        copied.append(taken)
    rates = [total / min(times[1:]) / 1e9 for times in (ours, copied)]
    print(
        f"{given.recipe.method} on {threads} threads: {rates[0]:.1f} GB/s of input, a plain copy "
        f"{rates[1]:.1f} GB/s ({rates[0] / rates[1]:.2f} of it)",
        flush=True,
    )


def again(file: Path, threads: int) -> None:
    """Time a merge, then another of the same pool with other weights in the same process."""
    given = opened(file)
    with Sources(given.pool) as sources:
        seconds([replace(given.recipe, method="linear", base=None, settings={})], sources, threads)
        first, second = (seconds([turned(given.recipe, n)], sources, threads) for n in (0, 1))
    print(
        f"{given.recipe.method}: {first:.2f} s, with other weights of the same pool {second:.2f} s "
        f"({first / second:.1f} x)",
        flush=True,
    )


def together(file: Path, threads: int) -> None:
    """Time 1 to 8 merges in one pass, compared with one merge."""
    given, taken = opened(file), {}
    with Sources(given.pool) as sources:
        seconds([given.recipe], sources, threads)
        for count in (1, 2, 4, 8):
            recipes = [turned(given.recipe, n) for n in range(count)]
            taken[count] = min(seconds(recipes, sources, threads) for _ in range(2))
    ratios = ", ".join(f"{k}: {t:.2f} s ({t / taken[1]:.2f} x)" for k, t in taken.items())
    print(f"{given.recipe.method}, merges in one pass: {ratios}", flush=True)


def compare_speed(python: Path, work: Path, methods: list[str], cores: int, rounds: int) -> None:
    """Run and print all measurements of large merges."""
    print(f"cores: {cores or 'all'}, threads: {cores or 'as many as each tool takes by itself'}")
    start = time.perf_counter()
    small = large_pool(work / "small", SMOLLM2_135M, 16, qwen2=False)
    print(
        f"\n16 x 135 M, {warm(small[1:]) / 1e9:.1f} GB ({time.perf_counter() - start:.0f} s to make)"
    )
    for method in methods:
        print_ratios(method, alternate(python, work, small, method, cores, 1))
    shutil.rmtree(work / "small")
    large = large_pool(work / "large", QWEN2_HALF, 8, qwen2=True)
    print(f"\n8 x 0.5 B, {warm(large[1:]) / 1e9:.1f} GB")
    for method in methods:
        print_ratios(method, alternate(python, work, large, method, cores, rounds))
    most = cores or os.cpu_count() or 1
    for method in methods:
        file = work / f"{method}.yaml"
        inputs = large[1:] if method == "linear" else large
        for count in sorted({1, most}):
            kernel(file, inputs, count, rounds)
        if method != "linear":
            again(file, most)
        together(file, most)
