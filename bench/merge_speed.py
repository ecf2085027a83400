"""Time and memory of whole merges, recycler and mergekit side by side on large pools of bfloat16 checkpoints.

Runs alternate in one session on a warm page cache, because machines are noisy; load averages are printed beside.
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

from recycler.merge.files import read_recipe
from recycler.merge.tensors import Sources, merged
from recycler.recipe import Ingredient, Recipe

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
    """Read every weight file, so that no run waits for the disk; returns their bytes."""
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
    python: Path, work: Path, pool: list[Path], method: str, threads: int, rounds: int
) -> dict[str, list[tools.Measured]]:
    """Both tools on one recipe, one after the other, `rounds` times; each run is printed."""
    recipe, out = recipe_file(work / f"{method}.yaml", pool, method), work / "out"
    inputs = pool[1:] if method == "linear" else pool
    runs: dict[str, list[tools.Measured]] = {"recycler": [], "mergekit": []}
    for _ in range(rounds):
        for tool, command in commands(python, recipe, out).items():
            warm(inputs)
            runs[tool].append(tools.measure(command, threads))
            shutil.rmtree(out)
            print(f"  {method:16} {tool:9} {runs[tool][-1]}", flush=True)
    return runs


def print_ratios(method: str, runs: dict[str, list[tools.Measured]]) -> None:
    """Medians of both tools, and how many times more mergekit takes."""

    def middle(tool: str, what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs[tool])

    cells = []
    for what, unit, scale in (("wall", "s", 1), ("cpu", "s", 1), ("anonymous", "GB", 1e9)):
        ours, theirs = middle("recycler", what) / scale, middle("mergekit", what) / scale
        cells.append(f"{what} {ours:.2f} against {theirs:.2f} {unit} ({theirs / ours:.1f} x)")
    print(f"{method}: {', '.join(cells)}", flush=True)


# --- inside one process, without hashing and writing ---


def seconds(recipe: Recipe, sources: Sources) -> float:
    """Time to make every merged tensor once [s]."""
    start = time.perf_counter()
    for _ in merged(recipe, sources):
        pass
    return time.perf_counter() - start


def copy_seconds(sources: Sources) -> float:
    """Time to copy every tensor of the pool's checkpoints into one buffer [s]."""
    checkpoints = sources.pool.checkpoints
    largest = max(spec.nbytes for spec in checkpoints[0].tensors.values())
    buffer = torch.empty(largest, dtype=torch.uint8)
    start = time.perf_counter()
    for checkpoint in checkpoints:
        for name, spec in checkpoint.tensors.items():
            tensor = sources.tensor(checkpoint, name).reshape(-1).view(torch.uint8)
            buffer[: spec.nbytes].copy_(tensor)
    return time.perf_counter() - start


def kernels(file: Path, threads: int, rounds: int = 3) -> None:
    """Input bytes a second of one recipe's sums, and of a plain copy of its inputs; the best runs."""
    torch.set_num_threads(threads)
    recipe, pool = read_recipe(file, lambda checkpoint: str(checkpoint.path))
    total = sum(spec.nbytes for c in pool.checkpoints for spec in c.tensors.values())
    with Sources(pool) as sources:
        copy_seconds(sources)  # every page is mapped once
        times = [(seconds(recipe, sources), copy_seconds(sources)) for _ in range(rounds)]
    ours, copied = (total / min(column) / 1e9 for column in zip(*times, strict=True))
    print(
        f"{recipe.method}, {threads} threads: {ours:.1f} GB/s of input, a plain copy {copied:.1f} "
        f"GB/s ({ours / copied:.2f} of it)",
        flush=True,
    )


def again(file: Path, threads: int) -> None:
    """A merge, then another with other weights of the same pool in the same process."""
    torch.set_num_threads(threads)
    recipe, pool = read_recipe(file, lambda checkpoint: str(checkpoint.path))
    turned = [item.weight for item in recipe.ingredients]
    turned = [*turned[1:], turned[0]]
    other = tuple(
        Ingredient(item.fingerprint, item.name, weight)
        for item, weight in zip(recipe.ingredients, turned, strict=True)
    )
    with Sources(pool) as sources:
        copy_seconds(sources)
        first = seconds(recipe, sources)
        second = seconds(replace(recipe, ingredients=other), sources)
    print(
        f"{recipe.method}: first merge {first:.1f} s, second with other weights {second:.1f} s ({first / second:.1f} x)",
        flush=True,
    )


def compare_speed(python: Path, work: Path, methods: list[str], threads: int, rounds: int) -> None:
    """All measurements of large merges; prints as it goes."""
    print(f"threads: {threads or 'as many as each tool takes by itself'}")
    start = time.perf_counter()
    small = large_pool(work / "small", SMOLLM2_135M, 16, qwen2=False)
    print(
        f"\n16 x 135 M, {warm(small[1:]) / 1e9:.1f} GB ({time.perf_counter() - start:.0f} s to make)"
    )
    for method in methods:
        print_ratios(method, alternate(python, work, small, method, threads, 1))
    shutil.rmtree(work / "small")
    large = large_pool(work / "large", QWEN2_HALF, 8, qwen2=True)
    print(f"\n8 x 0.5 B, {warm(large[1:]) / 1e9:.1f} GB")
    for method in methods:
        print_ratios(method, alternate(python, work, large, method, threads, rounds))
    for count in sorted({1, threads or os.cpu_count() or 1}):
        for method in methods:
            kernels(recipe_file(work / f"{method}.yaml", large, method), count)
    for method in set(methods) - {"linear"}:
        again(work / f"{method}.yaml", threads or os.cpu_count() or 1)
