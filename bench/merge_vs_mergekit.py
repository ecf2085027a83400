"""Compare the merges of recycler and mergekit by method, or their time and memory (`--speed`).

`python bench/merge_vs_mergekit.py` makes pools of small random Llamas, merges each recipe of a grid (mergekit's
YAML) with both tools and compares all tensors. It fails unless each case agrees or differs as `DIFFERENCES`
says. `--speed` times both on large pools instead. mergekit is installed into a venv of its own (`--venv`).
"""

import argparse
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import merge_tools as tools
import safetensors.torch
import torch
import yaml
from machine import machine
from merge_speed import compare_speed

TOLERANCE = 1e-6  # largest difference, relative to a tensor's largest magnitude (float32)
ROUNDED = 1e-3  # largest share of entries one step apart if both round the same float32 sum
GTA = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
TRIO = (0.5, 0.3, 0.4)
ODD = (
    0.4871,
    0.3127,
    0.2113,
)  # sums with many digits: merges of bfloat16 inputs are seldom halfway between two outputs
LAYERS = 4

# Intended differences: what recycler does, what mergekit does, and why. A case of the grid that names a row
# fails if either tool does anything else.
DIFFERENCES = {
    "zero-sum": (
        "refused", "not finite",
        "weights that sum to 0 can't be normalized; mergekit divides by 0 and writes Inf and NaN",
    ),
    "shapes": (
        "refused", "refused",
        "other row counts of the embedding: recycler refuses from the headers, mergekit while merging",
    ),
    "density-0": (
        "refused", "merged",
        "a density of 0 drops a task vector: recycler asks for a weight of 0, mergekit merges zeros",
    ),
    "layers": (
        "refused", "merged",
        "slices that leave layers out or repeat them make another architecture, not a merge of this one",
    ),
    "bf16": (
        "merged", "merged",
        "mergekit sums task vectors in the checkpoints' dtype, recycler in float32 with one rounding: "
        "recycler's error against the float32 merge must not be the larger one",
    ),
    "ties": (
        "merged", "merged",
        "bfloat16 task vectors share the threshold's magnitude: mergekit's sort keeps any of them, recycler "
        "the lowest indices: the number kept and their magnitudes must be the same",
    ),
    "rounded": (
        "merged", "merged",
        f"both sum in float32 and round once, in another order: one step apart in at most {ROUNDED:.1%}",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe for both tools.

    Attributes:
        name: name in the report.
        pool: name of the pool that it merges.
        table: the recipe in mergekit's YAML.
        expect: `agree`, or a key of `DIFFERENCES`.
        drops: whether DARE drops entries; mergekit is then given recycler's masks.
    """

    name: str
    pool: str
    table: dict = field(repr=False)
    expect: str = "agree"
    drops: bool = False


# --- the grid ---


def recipe(
    pool: list[Path], method: str, own: list[dict], shared: dict | None = None, **top
) -> dict:
    """Return a recipe in mergekit's YAML over the first checkpoints of a pool (base first)."""
    models = [
        {"model": str(folder), "parameters": parameters}
        for folder, parameters in zip(pool[1:], own, strict=False)
    ]
    base = {"base_model": str(pool[0])} if method in GTA else {}
    return {"merge_method": method, **base, "models": models, "parameters": shared or {}, **top}


def weighted(weights, **others) -> list[dict]:
    """Return the parameters of each model: its weight, and others shared by all."""
    return [{"weight": weight, **others} for weight in weights]


def linear_cases(name: str, pool: list[Path]) -> Iterator[Case]:
    """Weights and normalization."""
    sets = [(1.0,), (0.5, 0.5), TRIO, (1.2, -0.3, 0.4), (0.1, 1.0), (0.0, 0.7, 0.3), (0.2,) * 5,
            (2.0, -1.5, 0.25, 3.0, 1.0)]  # fmt: skip
    for weights, normalize in itertools.product(sets, (True, False, None)):
        shared = {} if normalize is None else {"normalize": normalize}
        table = recipe(pool, "linear", weighted(weights), shared)
        yield Case(f"linear {weights} normalize={normalize}", name, table)
    yield Case(
        "linear, one weight for all", name, recipe(pool, "linear", [{}, {}], {"weight": 0.5})
    )
    table = recipe(pool, "linear", weighted((0.5, -0.5)), {"normalize": True})
    yield Case("linear (0.5, -0.5) normalize=True", name, table, "zero-sum")
    table = recipe(pool, "linear", weighted((0.5, 0.3)))
    table["models"].append({"model": str(pool[0]), "parameters": {"weight": 0.2}})
    yield Case("linear with the base as a member", name, {**table, "base_model": str(pool[0])})


def task_vector_cases(name: str, pool: list[Path]) -> Iterator[Case]:
    """Every method with a base over weights, density, lambda, normalize and rescale."""
    weights = [TRIO, (1.2, -0.3, 0.4), (0.1, 1.0)]
    switches = itertools.product((0.5, 1.0, 1.5), (True, False, None))
    for (scale, normalize), w in itertools.product(switches, weights):
        shared = {"lambda": scale, **({} if normalize is None else {"normalize": normalize})}
        label = f"{w} lambda={scale} normalize={normalize}"
        yield Case(
            f"task_arithmetic {label}", name, recipe(pool, "task_arithmetic", weighted(w), shared)
        )
        for density in (0.2, 0.5, 0.9, 1.0):
            table = recipe(pool, "ties", weighted(w, density=density), shared)
            yield Case(f"ties {label} density={density}", name, table)
    for method, rescale, density in itertools.product(
        GTA[1:], (True, False, None), (0.2, 0.5, 0.9, 1.0)
    ):
        shared = {} if rescale is None else {"rescale": rescale}
        for w in (TRIO, (1.2, -0.3, 0.4), (1.0,), (0.2,) * 5):
            table = recipe(pool, method, weighted(w, density=density), shared)
            drops = method != "ties" and density < 1
            label = f"{method} {w} density={density} rescale={rescale}"
            yield Case(label, name, table, drops=drops)
    for method, normalize in itertools.product(GTA, (True, False)):
        table = recipe(pool, method, weighted((0.5, -0.5)), {"normalize": normalize})
        yield Case(f"{method} (0.5, -0.5) normalize={normalize}", name, table)
        table = recipe(pool, method, weighted((0.5, 0.5)), {"normalize": normalize})
        table["models"].append({"model": str(pool[0]), "parameters": {"weight": 0.7}})
        yield Case(f"{method} normalize={normalize}, the base listed with a weight", name, table)


def uneven_cases(name: str, pool: list[Path]) -> Iterator[Case]:
    """Gradients over layers, filters by tensor name, a density per model."""
    slope, bump = [0.0, 0.5, 1.0], [1, 0, 0.5, 0.25, 1]
    mlp = [{"filter": "mlp", "value": 0.9}, {"value": 0.2}]
    both = [
        {"filter": "self_attn", "value": slope},
        {"filter": "mlp", "value": [1, 0]},
        {"value": 0.4},
    ]
    for own in (slope, bump, mlp, both, [0.7], [{"filter": "*", "value": 0.6}]):
        for method in ("linear", "task_arithmetic", "ties"):
            table = recipe(pool, method, [{"weight": own}, {"weight": 0.5}])
            yield Case(f"{method} weight {own}", name, table)
    by_part = [{"filter": "mlp", "value": [1, 0.1]}, {"value": 0.4}]
    for density in ([1.0, 0.5, 0.3], mlp, by_part):
        for method in GTA[1:]:
            table = recipe(
                pool,
                method,
                [{"weight": 0.6, "density": density}, {"weight": 0.5, "density": 0.5}],
            )
            yield Case(f"{method} density {density}", name, table, drops=method != "ties")
    for scale in (slope, mlp):
        table = recipe(pool, "ties", weighted(TRIO, density=0.5), {"lambda": scale})
        yield Case(f"ties lambda {scale}", name, table)
    partly = [{"filter": "mlp", "value": 0.9}]
    table = recipe(pool, "linear", [{"weight": partly}, {"weight": 0.5}], {"weight": 0.3})
    yield Case("linear, a filter that leaves the rest to the global weight", name, table)
    switch = [{"filter": "mlp", "value": True}, {"value": False}]
    table = recipe(pool, "ties", weighted(TRIO, density=0.5), {"normalize": switch})
    yield Case("ties normalize by filter", name, table)


def slice_cases(name: str, pool: list[Path]) -> Iterator[Case]:
    """`slices:` with layer ranges: all layers in order, some left out, some repeated."""
    ranges = {
        "all layers": [(0, 2), (2, 4)],
        "one slice": [(0, 4)],
        "only the ends": [(0, 1), (3, 4)],
        "layers twice": [(0, 3), (1, 4)],
    }
    for (label, parts), method in itertools.product(ranges.items(), ("linear", "ties")):
        slices = []
        for number, (start, stop) in enumerate(parts):
            weights = (0.5 + 0.2 * number, [0.2, 0.8])
            sources = [
                {"model": str(m), "layer_range": [start, stop], "parameters": {"weight": w}}
                for m, w in zip(pool[1:3], weights, strict=True)
            ]
            if method == "ties":
                sources.append({"model": str(pool[0]), "layer_range": [start, stop]})
            slices.append({"sources": sources})
        table = {"merge_method": method, "slices": slices, "dtype": "float32"}
        table["parameters"] = {"normalize": False}
        if method == "ties":
            table |= {"base_model": str(pool[0]), "parameters": {"density": 0.5}}
        whole = sum(stop - start for start, stop in parts) == LAYERS
        yield Case(f"{method} slices, {label}", name, table, "agree" if whole else "layers")


def slerp_cases(name: str, pool: list[Path]) -> Iterator[Case]:
    """`t` as a number, by layers and by tensor name; the base listed or not, first or last."""
    one, two = str(pool[1]), str(pool[2])
    curve = [
        {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
        {"value": 0.5},
    ]
    for t in (0, 0.3, 0.5, 1, 1.3, -0.2, [0, 1], [0.0, 0.5, 1.0], curve):
        table = {"merge_method": "slerp", "base_model": one, "parameters": {"t": t}}
        yield Case(f"slerp t={t}", name, {**table, "models": [{"model": one}, {"model": two}]})
    for label, models in (("first", [two, one]), ("not", [two])):
        table = {"merge_method": "slerp", "base_model": one, "parameters": {"t": 0.25}}
        yield Case(
            f"slerp, base listed {label}",
            name,
            {**table, "models": [{"model": m} for m in models]},
        )
    same = [{"model": one}, {"model": str(pool[0])}]  # small task vectors: nearly parallel
    table = {"merge_method": "slerp", "base_model": one, "parameters": {"t": 0.4}, "models": same}
    yield Case("slerp towards the base", name, table)


def dtype_cases(pools: dict[str, list[Path]]) -> Iterator[Case]:
    """`dtype` and `out_dtype` on bfloat16 and mixed checkpoints."""
    wide = {"dtype": "float32", "out_dtype": "float32"}
    narrow = {"dtype": "float32", "out_dtype": "bfloat16"}
    half = {"dtype": "float32", "out_dtype": "float16"}
    for name, top in itertools.product(("bf16", "mixed"), (wide, narrow, half)):
        expect = "agree" if top is wide else "rounded"
        for method in ("linear", "task_arithmetic", "dare_linear", "dare_ties"):
            table = recipe(pools[name], method, weighted(ODD), None, **top)
            yield Case(f"{method} {top['out_dtype']}", name, table, expect)
    for method in ("task_arithmetic", "dare_linear", "dare_ties"):
        yield Case(
            f"{method} in bfloat16", "bf16", recipe(pools["bf16"], method, weighted(ODD)), "bf16"
        )
    yield Case(
        "linear in bfloat16", "bf16", recipe(pools["bf16"], "linear", weighted(ODD)), "rounded"
    )
    yield Case("linear in float32, cast", "fp32", recipe(pools["fp32"], "linear", weighted(ODD), None, **narrow), "rounded")  # fmt: skip
    for density in (0.2, 0.5, 0.9):
        table = recipe(pools["bf16"], "ties", [{"weight": 1.0, "density": density}], None, **wide)
        yield Case(f"ties of one model, density {density}", "bf16", table, "ties")


def edge_cases(pools: dict[str, list[Path]]) -> Iterator[Case]:
    """Tied embeddings, a density that keeps less than one entry, other shapes."""
    for method in ("linear", *GTA):
        table = recipe(pools["tied"], method, weighted((0.6, 0.7)))
        yield Case(f"{method} on tied embeddings", "tied", table)
    for method in GTA[1:]:
        table = recipe(pools["fp32"], method, weighted(TRIO, density=0.001))
        yield Case(f"{method} density=0.001", "fp32", table, drops=method != "ties")
        for density in (0.0, [{"filter": "mlp", "value": [1, 0]}, {"value": 0.4}]):
            table = recipe(pools["fp32"], method, weighted(TRIO, density=density))
            yield Case(f"{method} density {density}", "fp32", table, "density-0")
    mixed = [pools["fp32"][0], pools["fp32"][1], pools["rows"][1]]
    for method in ("linear", "ties"):
        yield Case(
            f"{method}, other vocabulary",
            "fp32",
            recipe(mixed, method, weighted((0.5, 0.5))),
            "shapes",
        )


def grid(pools: dict[str, list[Path]]) -> list[Case]:
    """Return all cases, grouped by method and kind."""
    full = pools["fp32"]
    cases = [
        *linear_cases("fp32", full),
        *task_vector_cases("fp32", full),
        *uneven_cases("fp32", full),
    ]
    cases += [*slice_cases("fp32", full), *slerp_cases("fp32", full), *dtype_cases(pools)]
    return [*cases, *edge_cases(pools)]


def make_pools(root: Path) -> dict[str, list[Path]]:
    """Pools by name; the first folder of each is the base."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    full = tools.tie_free_pool(root / "fp32", 5)
    short = tools.tie_free_pool(root / "short", 1, seed=2)
    for folder in short:  # one row less
        file = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(file)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:-1].clone()
        safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    return {
        "fp32": full,
        "bf16": tools.cast_pool(root / "bf16", full, [bf16] * 6),
        "mixed": tools.cast_pool(root / "mixed", full, [bf16, fp32, bf16, fp16, fp32, bf16]),
        "tied": tools.tie_free_pool(root / "tied", 2, seed=1, tied=True),
        "rows": short,
    }


# --- both merges and what is between them ---


class Pair:
    """Workers of both tools, kept for the whole grid."""

    def __init__(self, python: Path, work: Path) -> None:
        self.work = work
        self.ours = tools.Worker("recycler", sys.executable, work / "recycler.log")
        self.theirs = tools.Worker("mergekit", python, work / "mergekit.log")

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def run(
        self, worker: tools.Worker, table: dict, **options
    ) -> tuple[str, dict[str, torch.Tensor]]:
        """Return the error, and the merged tensors."""
        file, out = self.work / "recipe.yaml", self.work / "out"
        file.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        error = worker.merge(file, out, **options)
        return error, {} if error else tensors_of(out)

    def masks(self, case: Case) -> dict[str, str]:
        """Return the masks that recycler draws for each model, from merges of that model alone.

        Without rescaling and with weight 1 an entry of the (exact, nowhere zero) task vector is
        kept where the merge differs from the base.
        """
        base = tensors_of(Path(case.table["base_model"]))
        files = {}
        for model in case.table["models"]:
            parameters = {**model["parameters"], "weight": 1.0}
            alone = {**case.table, "models": [{**model, "parameters": parameters}]}
            alone |= {"merge_method": "dare_linear", "parameters": {"rescale": False}}
            error, found = self.run(self.ours, alone)
            if error:
                raise LookupError(error)
            kept = {name: (tensor != base[name]).to(torch.uint8) for name, tensor in found.items()}
            files[model["model"]] = str(
                self.work / f"masks-{Path(model['model']).name}.safetensors"
            )
            safetensors.torch.save_file(kept, files[model["model"]])
        return files

    def verdict(self, case: Case) -> "Verdict":
        """Merge with both tools and compare as the case expects."""
        try:
            given = {"masks": self.masks(case)} if case.drops else {}
        except LookupError as error:
            return Verdict(f"recycler: {error}")
        error, ours = self.run(self.ours, case.table)
        their_error, theirs = self.run(self.theirs, case.table, **given)
        found = (outcome(error, ours), outcome(their_error, theirs))
        wanted = DIFFERENCES.get(case.expect, ("merged", "merged"))[:2]
        if found != wanted:
            reasons = " · ".join(part for part in (error, their_error) if part)
            return Verdict(
                f"recycler {found[0]}, mergekit {found[1]}, expected {wanted}. {reasons}"
            )
        if wanted != ("merged", "merged"):
            return Verdict(remark=(error or their_error).splitlines()[0][:100])
        wrong = same_layout(ours, theirs)
        if wrong:
            return Verdict(wrong)
        if case.expect == "bf16":
            return self.nearer(case, ours, theirs)
        if case.expect == "ties":
            return same_trim(ours, theirs, tensors_of(Path(case.table["base_model"])))
        return (
            one_rounding(ours, theirs)
            if case.expect == "rounded"
            else agreement(case, ours, theirs)
        )

    def nearer(self, case: Case, ours: dict, theirs: dict) -> "Verdict":
        """Recycler's bfloat16 merge must be as close to mergekit's float32 merge as mergekit's is."""
        error, truth = self.run(
            self.theirs, {**case.table, "dtype": "float32", "out_dtype": "float32"}
        )
        assert not error, error
        mine, its = (relative_error(tensors, truth) for tensors in (ours, theirs))
        remark = f"relative error against float32: recycler {mine:.2e}, mergekit {its:.2e}"
        return Verdict("" if mine <= its else remark, remark, mine / its)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a case: `wrong` is empty if it is as expected; the largest remark is shown."""

    wrong: str = ""
    remark: str = ""
    size: float = 0.0


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(safetensors.torch.load(file.read_bytes()))
    return found


def outcome(error: str, tensors: dict) -> str:
    if error:
        return "refused"
    finite = all(tensor.isfinite().all() for tensor in tensors.values())
    return "merged" if finite else "not finite"


def same_layout(ours: dict, theirs: dict) -> str:
    """Return what differs in names, dtypes and shapes."""
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd:
        return f"tensors only one of them wrote: {odd[:3]}"
    for name, tensor in ours.items():
        other = theirs[name]
        if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            return f"{name}: recycler {tensor.dtype} {list(tensor.shape)}, mergekit {other.dtype} {list(other.shape)}"
    return ""


def agreement(case: Case, ours: dict, theirs: dict) -> Verdict:
    """Largest difference, relative to a tensor's largest magnitude.

    If weighted terms cancel to within float32 rounding, the order of the sum decides the sign that TIES
    elects. Only such entries, recomputed in float64, may differ more.
    """
    worst, where, tossed = 0.0, "", 0
    for name, tensor in ours.items():
        gap = (tensor.double() - theirs[name].double()).abs()
        gap /= theirs[name].double().abs().max().item() or 1.0
        apart = gap > TOLERANCE
        if (
            apart.any()
            and case.table["merge_method"] == "ties"
            and undecided(case, name)[apart].all()
        ):
            tossed += int(apart.sum())
            gap[apart] = 0.0
        if gap.max().item() >= worst:
            worst, where = gap.max().item(), name
    remark = f"largest difference {worst:.1e} at {where}"
    if tossed:
        remark += f"; {tossed} entries where the vote is even to within rounding"
    return Verdict(remark if worst > TOLERANCE else "", remark, worst)


def undecided(case: Case, name: str) -> torch.Tensor:
    """Entries whose TIES votes sum to less than float32 resolves; none if parameters vary by layer."""
    shared, models = case.table["parameters"], case.table.get("models", [])
    base = tensors_of(Path(case.table["base_model"]))[name].double()
    if not models or any(isinstance(v, list) for m in models for v in m["parameters"].values()):
        return torch.zeros_like(base, dtype=torch.bool)
    terms = []
    for model in models:
        own = model["parameters"]
        delta = tensors_of(Path(model["model"]))[name].double() - base
        least = (
            delta.abs()
            .flatten()
            .topk(max(1, int(own.get("density", 1.0) * delta.numel())))
            .values[-1]
        )
        kept = torch.where(delta.abs() >= least, delta, 0.0)
        scale = delta.abs().sum() / kept.abs().sum() if shared.get("rescale") else 1.0
        terms.append(own["weight"] * scale * kept)
    votes = torch.stack(terms)
    return votes.sum(0).abs() <= 2**-22 * votes.abs().sum(0)


def one_rounding(ours: dict, theirs: dict) -> Verdict:
    """Check that entries differ by at most one step of the output dtype, and few of them."""
    steps = torch.cat([(ordinals(t) - ordinals(theirs[name])).abs() for name, t in ours.items()])
    share, most = (steps > 0).double().mean().item(), int(steps.max())
    remark = f"{share:.1e} of entries apart, at most {most} step"
    return Verdict("" if most <= 1 and share <= ROUNDED else remark, remark, share)


def ordinals(tensor: torch.Tensor) -> torch.Tensor:
    """Map 16-bit floats to integers in the same order; neighbours differ by 1."""
    bits = tensor.flatten().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def same_trim(ours: dict, theirs: dict, base: dict) -> Verdict:
    """Entries at the trim threshold may differ, but not the magnitudes that are kept."""
    other = total = 0
    for name, tensor in ours.items():
        mine, its = (t.double() - base[name].double() for t in (tensor, theirs[name]))
        if not torch.equal(mine.abs().flatten().sort().values, its.abs().flatten().sort().values):
            return Verdict(
                f"{name}: {int((mine != 0).sum())} entries kept, mergekit {int((its != 0).sum())}"
            )
        other += int(((mine != 0) & (its == 0)).sum())
        total += int((mine != 0).sum())
    return Verdict("", f"{other / total:.1%} of the kept entries are others", other / total)


def relative_error(tensors: dict, truth: dict) -> float:
    """Norm of the difference over the norm of the truth, over all tensors."""
    gap = sum(
        float((t.double() - truth[name].double()).square().sum()) for name, t in tensors.items()
    )
    return (gap / sum(float(t.double().square().sum()) for t in truth.values())) ** 0.5


def compare_merges(python: Path, work: Path, only: str) -> int:
    """Run the grid, print failures and a table; returns the number of failures."""
    cases = [case for case in grid(make_pools(work / "pools")) if only in case.name]
    pair = Pair(python, work)
    verdicts: dict[tuple[str, str], list[Verdict]] = {}
    for case in cases:
        verdict = pair.verdict(case)
        verdicts.setdefault((case.table["merge_method"], case.expect), []).append(verdict)
        if verdict.wrong:
            print(f"FAILED {case.name} [{case.pool}]: {verdict.wrong}", flush=True)
        elif "vote" in verdict.remark:
            print(f"agreed {case.name} [{case.pool}]: {verdict.remark}", flush=True)
    pair.close()
    failures = sum(bool(verdict.wrong) for found in verdicts.values() for verdict in found)
    print(f"\n{len(cases)} recipes, {failures} failed\n")
    print("| method | expected | recipes | failed | at worst |\n|---|---|---|---|---|")
    for (method, expect), found in sorted(verdicts.items()):
        worst = max((v for v in found if not v.wrong), key=lambda v: v.size, default=Verdict())
        failed = sum(bool(verdict.wrong) for verdict in found)
        print(f"| {method} | {expect} | {len(found)} | {failed} | {worst.remark} |")
    print("\nExpected differences:")
    for key, (ours, theirs, reason) in DIFFERENCES.items():
        print(f"  {key}: recycler {ours}, mergekit {theirs}: {reason}")
    return failures


def main() -> None:
    """Install mergekit if needed, compare, clean up."""
    parser = argparse.ArgumentParser(description=__doc__)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--venv", type=Path, default=cache / "recycler-bench" / "mergekit")
    parser.add_argument("--work", type=Path, help="Folder for pools; default: a temporary one.")
    parser.add_argument("--only", default="", help="Cases whose name holds this text.")
    parser.add_argument("--speed", action="store_true", help="Time both tools on large pools.")
    parser.add_argument("--cores", type=int, default=0, help="For --speed; 0: all.")
    parser.add_argument("--rounds", type=int, default=2, help="Runs of each tool, alternating.")
    parser.add_argument("--methods", default="linear,ties,dare_ties", help="For --speed.")
    given = parser.parse_args()
    python = tools.mergekit_venv(given.venv.absolute())
    work = Path(tempfile.mkdtemp(prefix="recycler-merges-", dir=given.work))
    try:
        print(f"mergekit {tools.mergekit_version(python)}")
        if given.speed:
            compare_speed(python, work, given.methods.split(","), given.cores, given.rounds)
            failures = 0
        else:
            failures = compare_merges(python, work, given.only)
        print(f"\nMeasured on: {machine()}.")
    finally:
        shutil.rmtree(work)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
