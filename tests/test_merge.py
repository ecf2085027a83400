"""Merging: exact against float64, bit for bit where it must be, live and disk alike."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import toy
from contracts.merge_method import bits, tensors
from pools import folder_of, merge_to, merged_tensors, pool_of, recipe_of
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

import recycler.merge.sources as sources_module
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint, Incompatible, InvalidConfig
from recycler.merge import kernels
from recycler.merge.methods import METHODS, mask_key
from recycler.merge.plain import as_tensor, random24
from recycler.merge.resident import Resident
from recycler.merge.sources import Sources, blocks
from recycler.merge.stream import Digest, merged, merges
from recycler.nouns.recipe import Ingredient, Recipe

# dtype -> (torch dtype, bits of the significand behind the point, smallest normal exponent)
FORMATS = {
    "float32": (torch.float32, 23, -126),
    "bfloat16": (torch.bfloat16, 7, -126),
    "float16": (torch.float16, 10, -14),
}


def ulp(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """Distance of neighbouring numbers of a dtype at |x|, in float64."""
    _, digits, smallest = FORMATS[dtype]
    exponent = torch.frexp(x.abs())[1].clamp(min=smallest + 1) - 1
    return torch.ldexp(torch.ones_like(x), exponent - digits)


# --- linear against float64 ---


@pytest.mark.parametrize("out", FORMATS)
@pytest.mark.parametrize(
    "dtypes",
    [["float32"] * 3, ["bfloat16"] * 3, ["float16"] * 3, ["float32", "bfloat16", "float16"]],
    ids="-".join,
)
def test_linear_is_the_float64_sum_rounded_once(tmp_path, dtypes, out):
    """Half an ulp of the output for the rounding, and float32's own error bound for the sum.

    A float32 sum of n products with rounded weights is off by at most (n+1) 2^-24 Σ|w x|.
    """
    weights = [0.7, -0.2, 0.5]
    inputs = [tensors(1, (37, 501), d, seed=i)[0] for i, d in enumerate(dtypes)]
    pool = Pool.open([folder_of(tmp_path / f"c{i}", {"x": x}) for i, x in enumerate(inputs)])
    found = merged_tensors(pool, recipe_of(pool, weights, out))["x"]
    terms = torch.stack([w * x.double() for w, x in zip(weights, inputs, strict=True)])
    exact, size = terms.sum(0), terms.abs().sum(0)
    bound = 0.5 * ulp(exact, out) * (1 + 2**-7) + 1.01 * (3 + 1) * 2**-24 * size
    assert found.dtype == getattr(torch, out)
    assert ((found.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("out", ["bfloat16", "float16"])
def test_half_precision_is_within_one_ulp_where_nothing_cancels(tmp_path, out):
    weights = [0.1003, 0.2111, 0.2977, 0.3909]  # of no short sums, so that ties are rare
    inputs = [x.abs() + 0.1 for x in tensors(4, (300, 700), out)]  # more than one chunk
    pool = Pool.open([folder_of(tmp_path / f"c{i}", {"x": x}) for i, x in enumerate(inputs)])
    found = merged_tensors(pool, recipe_of(pool, weights, out))["x"].double()
    exact = sum(w * x.double() for w, x in zip(weights, inputs, strict=True))
    assert ((found - exact).abs() <= 1.0 * ulp(exact, out)).all()
    nearest = exact.to(getattr(torch, out)).double()
    assert (found == nearest).double().mean() > 0.999  # ties aside, the nearest number itself


def test_float32_sums_of_dyadic_weights_are_within_one_ulp(tmp_path):
    inputs = [x.abs() for x in tensors(3, (200, 301), "float32")]
    pool = Pool.open([folder_of(tmp_path / f"c{i}", {"x": x}) for i, x in enumerate(inputs)])
    found = merged_tensors(pool, recipe_of(pool, [0.5, 0.25, 0.25]))["x"].double()
    exact = 0.5 * inputs[0].double() + 0.25 * inputs[1].double() + 0.25 * inputs[2].double()
    assert ((found - exact).abs() <= ulp(exact, "float32")).all()


# --- one-hot, permutations, odd tensors ---


def odd_tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Scalars, zero sizes, whole numbers, booleans, and a matrix with every special value."""
    rng = torch.Generator().manual_seed(seed)
    matrix = torch.randn((6, 7), generator=rng)
    matrix[0, :4] = torch.tensor([-0.0, float("inf"), float("-inf"), float("nan")])
    return {
        "matrix": matrix.to(dtype),
        "scalar": torch.randn((), generator=rng).to(dtype),
        "nothing": torch.zeros((0, 4), dtype=dtype),
        "positions": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_hot_returns_the_checkpoint_bit_for_bit(tmp_path, dtype):
    """Zero weights skip their tensors: 0 times the infinities of the others makes no NaN."""
    content = [odd_tensors(seed, dtype) for seed in range(3)]
    pool = Pool.open([folder_of(tmp_path / f"c{i}", c) for i, c in enumerate(content)])
    for hot, checkpoint in enumerate(pool.checkpoints):
        recipe = recipe_of(pool, [float(i == hot) for i in range(3)], checkpoint.dtype)
        digest = merge_to(tmp_path / f"out{hot}", pool, recipe)
        assert digest == checkpoint.fingerprint()
        assert Checkpoint.open(folder_with_config(tmp_path / f"out{hot}")).fingerprint() == digest
        found = safetensors.torch.load_file(tmp_path / f"out{hot}" / "model.safetensors")
        assert {name: bits(t) for name, t in found.items()} == {
            name: bits(t) for name, t in content[hot].items()
        }


def folder_with_config(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def test_minus_zero_survives_a_sum_that_it_dominates(tmp_path):
    minus = torch.tensor([-0.0, -0.0])
    pool = Pool.open([folder_of(tmp_path / f"c{i}", {"x": minus.clone()}) for i in range(2)])
    found = merged_tensors(pool, recipe_of(pool, [0.5, 0.5]))["x"]
    assert bits(found) == bits(minus)  # (-0.0)·½ + (-0.0)·½ is -0.0 in IEEE arithmetic


def test_permuting_the_pool_and_its_weights_gives_the_same_bytes(drawer, tmp_path):
    weights = dict(zip(drawer, [0.5, 0.125, 0.3, 0.075], strict=True))
    digests, files = set(), set()
    for number, order in enumerate(list(permutations(drawer))[::5]):
        pool = Pool.open(order)
        recipe = recipe_of(pool, [weights[folder] for folder in order], "bfloat16")
        digests.add(merge_to(tmp_path / str(number), pool, recipe))
        files.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert (len(digests), len(files)) == (1, 1)


def test_whole_numbers_are_kept_where_equal_and_refused_where_not(tmp_path):
    make = {i: {**odd_tensors(i), "matrix": torch.randn(6, 7)} for i in range(3)}
    make[2]["positions"] = torch.arange(5) + 1
    pool = Pool.open([folder_of(tmp_path / f"c{i}", c) for i, c in make.items()])
    kept = merged_tensors(pool, recipe_of(pool, [0.5, 0.5, 0.0]))
    assert kept["positions"].dtype == torch.int64
    assert torch.equal(kept["positions"], torch.arange(5))
    with pytest.raises(Incompatible, match="'positions' holds whole numbers that differ"):
        merged_tensors(pool, recipe_of(pool, [0.5, 0.0, 0.5]))


def test_scalars_and_empty_tensors_merge_and_reload(tmp_path):
    content = [{"s": torch.tensor(float(i)), "e": torch.zeros((2, 0))} for i in (1, 3)]
    pool = Pool.open([folder_of(tmp_path / f"c{i}", c) for i, c in enumerate(content)])
    merge_to(tmp_path / "out", pool, recipe_of(pool, [0.25, 0.75]))
    found = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert found["s"].item() == 0.25 * 1 + 0.75 * 3
    assert found["s"].shape == ()
    assert found["e"].shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_cut_while_it_is_merged_is_named(tmp_path, dtype):
    """The order of sums is known, so that nothing but the sums reads the file."""
    pool = pool_of(tmp_path, [{"x": torch.full((3000,), float(i)).to(dtype)} for i in range(3)])
    recipe = recipe_of(pool, [0.2, 0.3, 0.5])
    file = pool.checkpoints[1].path / "model.safetensors"
    with Sources(pool) as sources:
        sources.rank("c0")
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(
            BrokenCheckpoint, match=r"c1/model.safetensors ended 100 bytes early in tensor 'x'"
        ):
            list(merged(recipe, sources))


def test_a_file_cut_after_the_pool_was_opened_is_named(tmp_path):
    folder = folder_of(tmp_path / "c0", {"x": torch.ones(1000)})
    pool = Pool.open([folder])
    recipe = recipe_of(pool, [1.0])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        BrokenCheckpoint, match=r"c0/model.safetensors ended 100 bytes early in tensor 'x'"
    ):
        merged_tensors(pool, recipe)


# --- the kernels and the definitions ---

STEPS = [
    ("linear", {}),
    ("linear", {"normalize": "weights"}),
    ("slerp", {}),
    ("task_arithmetic", {"lambda": 0.7, "normalize": "count"}),
    ("ties", {"density": 0.4}),
    ("ties", {"density": 0.4, "sign": "plain", "normalize": "count", "rescale": "density"}),
    ("ties", {"density": 0.7, "sign": "count", "normalize": "none", "rescale": "l1"}),
    ("ties", {"density": 0.7, "sign": "none", "lambda": -0.3}),
    ("dare_linear", {"density": 0.3, "seed": 5}),
    ("dare_linear", {"density": 0.6, "rescale": "none", "normalize": "weights"}),
    ("dare_ties", {"density": 0.3, "seed": 5}),
    ("dare_ties", {"density": 0.6, "rescale": "l1", "sign": "count", "normalize": "weights"}),
]
STEP_IDS = [f"{method}-{'-'.join(map(str, s.values()))}" for method, s in STEPS]
MIXES = {
    "float32": ["float32"] * 4,
    "bfloat16": ["bfloat16"] * 4,
    "float16": ["float16"] * 4,
    "float64": ["float64"] * 4,
    "halves": ["bfloat16", "float16", "bfloat16", "float16"],
    "all": ["float32", "bfloat16", "float16", "float64"],
    "wide-base": ["bfloat16", "bfloat16", "bfloat16", "float32"],
}
OUTS = ("float32", "bfloat16", "float16", "float64")


def special(seed: int, dtype: str) -> dict[str, torch.Tensor]:
    """A tensor of three blocks and a rest, a scalar, nothing, ties, signed zeros, large and tiny."""
    kind = getattr(torch, dtype)
    rng = torch.Generator().manual_seed(seed)
    large = torch.randn(3 * 4096 + 1500, generator=rng)
    large[seed * 7 : seed * 7 + 6] = torch.tensor([-0.0, 3e3, -3e3, 1e3, 1e-41, 0.0])
    return {
        "large": large.reshape(-1, 4).to(kind),
        "ties": (torch.randint(-3, 4, (5000,), generator=rng) / 4).to(kind),
        "scalar": torch.randn((), generator=rng).to(kind),
        "nothing": torch.zeros((0, 4), dtype=kind),
    }


@pytest.fixture(scope="module", params=MIXES)
def mixed(request, tmp_path_factory) -> tuple[Pool, list[dict[str, torch.Tensor]]]:
    """Three checkpoints and a base of some dtypes, and what is in them, the base last."""
    contents = [special(i, dtype) for i, dtype in enumerate(MIXES[request.param])]
    root = tmp_path_factory.mktemp("mixed")
    return pool_of(root, contents[:3], contents[3]), contents


def definition(
    pool: Pool, contents: list[dict[str, torch.Tensor]], recipe: Recipe, name: str
) -> torch.Tensor:
    """The method on whole tensors, its inputs in the order of sums."""
    method = METHODS[recipe.method]
    by_name = dict(zip([*pool.names, "base"], contents, strict=True))
    with Sources(pool) as sources:
        order = sorted(recipe.ingredients, key=lambda item: (sources.rank(item.name), item.weight))
    seed = int(recipe.settings.get("seed", 0))
    keys = [mask_key(seed, item.fingerprint, name) for item in order]
    density = recipe.settings.get("density", 1.0)
    return method(
        [by_name[item.name][name] for item in order],
        [item.weight for item in order],
        by_name["base"][name] if method.needs_base else None,
        {
            **recipe.settings,
            "keys": keys,
            "density": [item.settings.get("density", density) for item in order],
        },
    ).to(getattr(torch, recipe.dtype))


def settled(tensor: torch.Tensor) -> bytes:
    """The bytes, every NaN the same one."""
    return bits(torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor))


@pytest.mark.parametrize(("method", "settings"), STEPS, ids=STEP_IDS)
def test_kernels_give_the_bytes_of_the_definition(mixed, method, settings, monkeypatch):
    """In every dtype, in and out, across the borders of blocks, with one thread and three."""
    pool, contents = mixed
    weights = [0.6, 0.4, 0.0] if method == "slerp" else [0.7, -0.2, 0.45]
    for out in OUTS:
        recipe = recipe_of(pool, weights, out, method, **settings)
        expected = {name: definition(pool, contents, recipe, name) for name in contents[0]}
        for block_bytes, threads in ((1 << 20, 1), (1, 1), (1, 3)):
            monkeypatch.setattr(sources_module, "BLOCK_BYTES", block_bytes)
            found = merged_tensors(pool, recipe, threads=threads)
            for name in expected:
                assert found[name].shape == expected[name].shape
                assert settled(found[name]) == settled(expected[name]), (name, out, threads)


def test_small_blocks_are_several_blocks(monkeypatch):
    """Guards the test above: its large tensor must not fit one block."""
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 1)
    assert blocks(3 * 4096 + 1500, 3) == [
        (0, 4096), (4096, 8192), (8192, 12288), (12288, 13788),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_each_checkpoint_may_have_its_own_density(mixed, method):
    pool, contents = mixed
    own = [{"density": d} for d in (0.2, 0.9, 1.0)]
    recipe = recipe_of(pool, [0.5, 0.25, 0.5], "float32", method, own)
    found = merged_tensors(pool, recipe)
    for name in contents[0]:
        assert settled(found[name]) == settled(definition(pool, contents, recipe, name))


# --- laws that hold for every method ---


@pytest.mark.parametrize("method", METHODS)
def test_one_hot_returns_the_parent_bit_for_bit(mixed, method):
    pool, contents = mixed
    for hot, checkpoint in enumerate(pool.checkpoints):
        weights = [float(i == hot) for i in range(3)]
        found = merged_tensors(pool, recipe_of(pool, weights, checkpoint.dtype, method))
        for name, tensor in contents[hot].items():
            assert bits(found[name]) == bits(tensor)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_no_weight_at_all_returns_the_base_bit_for_bit(mixed, method):
    pool, contents = mixed
    assert pool.base is not None
    recipe = recipe_of(pool, [0.0] * 3, pool.base.dtype, method, density=0.5)
    assert {n: bits(t) for n, t in merged_tensors(pool, recipe).items()} == {
        n: bits(t) for n, t in contents[3].items()
    }


def drawer_of_twins(root: Path) -> tuple[list[Path], Path]:
    """Four folders of which two hold the same bytes, and a base; many numbers are tied."""
    made = [
        {k: v for k, v in special(seed, "bfloat16").items() if k != "nothing"}
        for seed in (0, 1, 1, 2, 3)
    ]
    folders = [folder_of(root / f"c{i}", content) for i, content in enumerate(made)]
    return folders[:4], folders[4]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "slerp"])
def test_permuting_and_renaming_the_pool_changes_no_byte(tmp_path, method):
    """The second and third hold the same bytes, with equal weights but another density each."""
    folders, base = drawer_of_twins(tmp_path)
    weights = dict(zip(folders, [0.4, 0.3, 0.3, -0.2], strict=True))
    own = dict(zip(folders, [{"density": d} for d in (0.5, 0.25, 0.75, 1.0)], strict=True))
    found, ids = set(), set()
    for order in permutations(range(4)):
        names = [f"n{place}" for place in order]  # other names each time
        pool = Pool.from_entries(
            "p",
            [{"name": n, "path": folders[i]} for n, i in zip(names, order[::-1], strict=True)],
            {"name": "base", "path": base},
        )
        recipe = recipe_of(
            pool,
            [weights[c.path] for c in pool.checkpoints],
            "float32",
            method,
            [own[c.path] for c in pool.checkpoints],
        )
        ids.add(recipe.id)
        found.add(b"".join(settled(t) for t in merged_tensors(pool, recipe).values()))
    assert (len(found), len(ids)) == (1, 1)


def test_masks_depend_on_seed_bytes_and_name_alone(tmp_path):
    """Not on the other checkpoints, the other tensors, the pool's order or global generators."""
    rng = torch.Generator().manual_seed(0)
    x, y, b = (torch.randn(9000, generator=rng) for _ in range(3))
    contents = {"x": x, "y": y}
    base = {"x": b, "y": torch.zeros(9000)}
    alone = pool_of(tmp_path / "alone", [contents], base)
    more = pool_of(tmp_path / "more", [{"x": y, "y": x}, contents], base)
    settings = {"density": 0.3, "seed": 4}
    first = merged_tensors(alone, recipe_of(alone, [1.0], method="dare_linear", **settings))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again = merged_tensors(more, recipe_of(more, [0.0, 1.0], method="dare_linear", **settings))
    assert {n: bits(t) for n, t in first.items()} == {n: bits(t) for n, t in again.items()}
    key = mask_key(4, alone.checkpoints[0].fingerprint(), "x")
    kept = random24(key, torch.arange(9000)) < round(0.3 * 2**24)
    assert torch.equal(first["x"] != b, kept)
    other = merged_tensors(
        alone, recipe_of(alone, [1.0], method="dare_linear", **{**settings, "seed": 5})
    )
    assert bits(other["x"]) != bits(first["x"])


def test_zero_weights_skip_infinities_for_every_method(tmp_path):
    wild = {"x": torch.full((4,), float("inf")), "y": torch.full((4,), float("nan"))}
    calm = [{"x": torch.full((4,), v), "y": torch.full((4,), -v)} for v in (1.0, 2.0)]
    pool = pool_of(tmp_path, [*calm, wild], {n: torch.zeros(4) for n in "xy"})
    for method in METHODS:
        made = merged_tensors(pool, recipe_of(pool, [0.5, 0.5, 0.0], method=method))
        assert all(torch.isfinite(t).all() for t in made.values()), method


# --- several recipes in one pass, and what is remembered between merges ---


def some_recipes(pool: Pool) -> list[Recipe]:
    """Recipes of every method that share a pool, some with equal weights, one of one checkpoint."""
    return [
        recipe_of(pool, [0.2, 0.3, 0.5], "bfloat16"),
        recipe_of(pool, [0.0, 1.0, 0.0], "float32"),
        recipe_of(pool, [0.25, 0.0, 0.75], "float16", "slerp"),
        recipe_of(pool, [0.5, 0.5, -0.5], "float32", "task_arithmetic"),
        recipe_of(pool, [0.5, 0.5, -0.5], "bfloat16", "ties", density=0.3),
        recipe_of(pool, [0.1, 0.2, 0.3], "float32", "ties", density=0.3, scope="model"),
        recipe_of(pool, [0.0, 0.2, 0.3], "float32", "dare_ties", density=0.5),
        recipe_of(pool, [0.4, 0.0, 0.0], "float64", "dare_linear", density=0.5, rescale="l1"),
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_recipes_merged_together_give_the_bytes_of_each_alone(tmp_path, threads):
    contents = [
        special(i, d) for i, d in enumerate(["bfloat16", "float32", "bfloat16", "bfloat16"])
    ]
    pool = pool_of(tmp_path, contents[:3], contents[3])
    recipes = some_recipes(pool)
    alone = [{n: settled(t) for n, t in merged_tensors(pool, r).items()} for r in recipes]
    with Sources(pool) as sources:
        together: list[dict[str, bytes]] = [{} for _ in recipes]
        for made in merges(recipes, sources, threads=threads):
            for (spec, held), found in zip(made, together, strict=True):
                found[spec.name] = settled(as_tensor(held, spec, "cpu"))
    assert together == alone


def test_recipes_of_tensors_of_other_shapes_are_not_merged_together(tmp_path):
    """Two vocabularies: the blocks of one recipe would not fill the tensors of the other."""
    contents = [{"e.weight": torch.ones(rows, 2)} for rows in (9, 5000, 6000)]
    pool = pool_of(tmp_path, contents)
    few, many = (
        recipe_of(pool, weights, vocabulary="common")
        for weights in ([0.5, 0.5, 0.0], [0.0, 0.5, 0.5])
    )
    with Sources(pool) as sources, pytest.raises(InvalidConfig, match="names or shapes"):
        list(merges([few, many], sources))


def test_thresholds_of_another_base_are_not_taken(tmp_path):
    """One `Sources`, two recipes that differ in nothing but their base."""
    contents = [special(i, "float32") for i in range(4)]
    pool = pool_of(tmp_path, contents[:3], contents[3])
    own = recipe_of(pool, [0.5, 0.5, 0.0], method="ties", density=0.3, rescale="l1")
    third = pool.checkpoints[2]
    other = replace(own, base=Ingredient(third.fingerprint(), third.name, 1.0))
    for scope in ("tensor", "model"):
        pair = [replace(r, settings={**r.settings, "scope": scope}) for r in (own, other)]
        alone = [{n: settled(t) for n, t in merged_tensors(pool, r).items()} for r in pair]
        with Sources(pool) as sources:
            found = [{s.name: settled(t) for s, t in merged(r, sources)} for r in pair]
        assert found == alone


@pytest.mark.parametrize("threads", [1, 3])
def test_one_threshold_over_the_model_keeps_exactly_its_share(tmp_path, threads):
    """Ties across tensors go to the first names, and in them to the lowest places."""
    rng = torch.Generator().manual_seed(1)
    names = {"b": 9000, "a": 5000, "d": 1, "c": 700}
    base = {n: torch.randint(-2, 3, (k,), generator=rng).bfloat16() for n, k in names.items()}
    x = {n: torch.randint(-2, 3, (k,), generator=rng).bfloat16() for n, k in names.items()}
    pool = pool_of(tmp_path, [x], base)
    for density in (0.0001, 0.1, 0.35, 0.5, 0.9):
        settings = {"density": density, "scope": "model"}
        recipe = recipe_of(pool, [1.0], method="ties", **settings)
        found = merged_tensors(pool, recipe, threads=threads)
        flat = torch.cat([(x[n] - base[n]).float() for n in sorted(names)])
        order = sorted(range(len(flat)), key=lambda j: (-abs(float(flat[j])), j))
        expected = torch.zeros(len(flat))
        chosen = order[: max(1, int(density * len(flat)))]
        expected[chosen] = flat[chosen]
        assert torch.equal(
            torch.cat([found[n] - base[n].float() for n in sorted(names)]), expected
        )


def test_one_threshold_over_a_model_of_float64_is_refused(tmp_path):
    contents = [{"x": torch.arange(4.0, dtype=torch.float64) * i} for i in range(2)]
    pool = pool_of(tmp_path, contents[1:], contents[0])
    with pytest.raises(InvalidConfig, match="'x' is float64"):
        merged_tensors(pool, recipe_of(pool, [0.5], method="ties", density=0.5, scope="model"))


def test_a_tensor_that_one_checkpoint_lacks_is_refused_in_every_order(tmp_path):
    """Not dropped where the checkpoint without it has the first fingerprint."""
    contents = [{"x": torch.ones(2)}, {"x": torch.zeros(2), "y": torch.ones(3)}]
    for number, order in enumerate((contents, contents[::-1])):
        pool = pool_of(tmp_path / str(number), order)
        with pytest.raises(Incompatible, match="has no tensor 'y'"):
            merged_tensors(pool, recipe_of(pool, [0.5, 0.5]))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ties", {}),
        ("ties", {"scope": "model"}),
        ("ties", {"rescale": "l1"}),
        ("dare_ties", {"rescale": "l1"}),
        ("slerp", {}),
    ],
)
def test_what_was_found_out_once_is_not_read_for_again(tmp_path, monkeypatch, method, settings):
    contents = [special(i, "bfloat16") for i in range(4)]
    pool = pool_of(tmp_path, contents[:3], contents[3])
    last = 0.0 if method == "slerp" else -0.25
    settings = settings if method == "slerp" else {"density": 0.3, **settings}
    first, second = (
        recipe_of(pool, [a, b, last], "bfloat16", method, **settings)
        for a, b in ((0.5, 0.25), (0.2, 0.9))
    )
    read, plain, whole = [0], os.preadv, kernels.read_rows

    def counting(handle, buffers, offset):
        read[0] += (got := plain(handle, buffers, offset))
        return got

    def counting_rows(handles, offsets, rows):
        read[0] += rows.nbytes
        return whole(handles, offsets, rows)

    monkeypatch.setattr(os, "preadv", counting)
    monkeypatch.setattr(kernels, "read_rows", counting_rows)
    counts, made = [], []
    with Sources(pool) as sources:
        for recipe in (first, second):
            read[0] = 0
            made.append({s.name: settled(t) for s, t in merged(recipe, sources)})
            counts.append(read[0])
    inputs = 2 if method == "slerp" else 4
    assert counts[1] == inputs * pool.checkpoints[0].nbytes  # each input once
    assert counts[0] > 1.9 * counts[1]
    assert made[1] == {n: settled(t) for n, t in merged_tensors(pool, second).items()}


HASH_SEEDS = """
import sys
from pathlib import Path
from recycler.merge.folder import write_weights
from recycler.merge.methods import METHODS
from recycler.merge.sources import Sources
from recycler.checkpoints.pool import Pool
from recycler.nouns.recipe import Ingredient, Recipe
pool = Pool.open(sys.argv[2:-1], sys.argv[-1])
base = Ingredient(pool.base.fingerprint(), pool.base.name, 1.0)
for method in sorted(METHODS):
    weights = (.2, .8, 0) if method == "slerp" else (.2, .3, .4)
    entries = {(c.fingerprint(), c.name, w) for c, w in zip(pool.checkpoints, weights)}
    settings = {} if method in ("linear", "slerp") else {"density": .4, "lambda": .9}
    items = tuple(Ingredient(*entry) for entry in entries)
    recipe = Recipe(method, items, "bfloat16", base, settings)
    with Sources(pool) as sources:
        print(method, recipe.id, write_weights(recipe, sources, Path(sys.argv[1]), threads=2)[0])
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_five_hash_seeds_give_one_digest_for_each_method(drawer, tmp_path):
    """The ingredients come from a set, whose order the hash seed decides."""
    running = []
    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", HASH_SEEDS, tmp_path / str(seed), *drawer],
                env={**os.environ, "PYTHONHASHSEED": str(seed)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    said = {process.communicate(timeout=120)[0] for process in running}
    assert len(said) == 1
    lines = said.pop().splitlines()
    assert [line.split()[0] for line in lines] == sorted(METHODS)
    assert len({line.split("sha256:")[1] for line in lines}) == len(METHODS)


# --- live and disk, real models ---

KINDS = {
    "llama-untied": {"kind": "llama"},
    "llama-tied": {"kind": "llama", "tied": True},
    "qwen2-tied-bf16": {"kind": "qwen2", "tied": True, "dtype": "bfloat16"},
    "gpt2": {"kind": "gpt2"},
}
PROMPT = torch.tensor([[5, 80, 9, 200, 33, 7]])


@pytest.fixture(scope="module", params=KINDS)
def pool(request, tmp_path_factory) -> Pool:
    """Three checkpoints of each architecture and a base."""
    *folders, base = toy.drawer(tmp_path_factory.mktemp(request.param), **KINDS[request.param])
    return Pool.open(folders, base)


def complete(folder: Path, pool: Pool) -> Path:
    """Add what transformers needs besides weights."""
    (folder / "config.json").write_bytes((pool.checkpoints[0].path / "config.json").read_bytes())
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_live_and_disk_hold_the_same_bytes(pool, tmp_path, method):
    dtype = pool.checkpoints[0].dtype
    last = 0.0 if method == "slerp" else 0.3
    settings = {} if method in ("linear", "slerp") else {"density": 0.4, "lambda": 0.9}
    recipe = recipe_of(pool, [0.5, 0.2, last], dtype, method, **settings)
    resident = Resident(pool, dtype)
    resident.load(recipe_of(pool, [0.1, 0.8, 0.1], dtype))  # traces of an earlier merge must go
    digest, _ = resident.load(recipe)
    assert merge_to(tmp_path / "out", pool, recipe, threads=3) == digest
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    state = resident.model.state_dict()
    assert {n: bits(t) for n, t in written.items()} == {n: bits(state[n]) for n in written}


def test_live_model_computes_what_the_written_folder_computes(pool, tmp_path):
    dtype = pool.checkpoints[0].dtype
    recipe = recipe_of(pool, [0.5, 0.2, 0.3], dtype)
    resident = Resident(pool, dtype)
    resident.load(recipe)
    merge_to(tmp_path / "out", pool, recipe)
    again = AutoModelForCausalLM.from_pretrained(complete(tmp_path / "out", pool))
    assert again.dtype == getattr(torch, dtype)
    with torch.no_grad():
        assert torch.equal(again(PROMPT).logits, resident.model(PROMPT).logits)


def test_one_hot_live_is_the_checkpoint_that_transformers_loads(pool):
    dtype = pool.checkpoints[0].dtype
    resident = Resident(pool, dtype)
    for hot, checkpoint in enumerate(pool.checkpoints):
        digest, _ = resident.load(recipe_of(pool, [float(i == hot) for i in range(3)], dtype))
        assert digest == checkpoint.fingerprint()
        with torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(checkpoint.path)(PROMPT).logits
            assert torch.equal(resident.model(PROMPT).logits, expected)


def test_shards_reload_as_one_model(pool, tmp_path):
    dtype = pool.checkpoints[0].dtype
    recipe = recipe_of(pool, [0.6, 0.4, 0.0], dtype)
    whole = merge_to(tmp_path / "whole", pool, recipe)
    assert merge_to(tmp_path / "shards", pool, recipe, shard_bytes=20_000) == whole
    files = sorted(f.name for f in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == pool.checkpoints[0].nbytes
    one, many = (
        AutoModelForCausalLM.from_pretrained(complete(tmp_path / name, pool)).state_dict()
        for name in ("whole", "shards")
    )
    assert {n: bits(t) for n, t in one.items()} == {n: bits(t) for n, t in many.items()}
    assert Checkpoint.open(tmp_path / "shards").fingerprint() == whole


def test_a_shard_holds_a_tensor_that_is_larger_than_the_limit(tmp_path):
    content = {"a": torch.ones(100), "b": torch.ones(2), "c": torch.ones(2)}
    pool = Pool.open([folder_of(tmp_path / "c0", content)])
    merge_to(tmp_path / "out", pool, recipe_of(pool, [1.0]), shard_bytes=16)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }


def test_base_model_without_its_prefix_gives_the_logits_of_a_plain_merge(tmp_path):
    """GPT-2 saved as `GPT2Model`: names lack `transformer.`, so no parameter is found by name."""
    folders, models = [], []
    for seed in range(2):
        model = toy.model("gpt2", seed)
        model.transformer.save_pretrained(tmp_path / f"base-{seed}")
        toy.tokenizer().save_pretrained(tmp_path / f"base-{seed}")
        folders.append(tmp_path / f"base-{seed}")
        models.append(model)
    pool = Pool.open(folders)
    assert not any(name.startswith("transformer.") for name in pool.checkpoints[0].tensors)
    expected = toy.model("gpt2", 0)
    states = [model.state_dict() for model in models]
    expected.load_state_dict({n: 0.25 * states[0][n] + 0.75 * states[1][n] for n in states[0]})
    recipe = recipe_of(pool, [0.25, 0.75])
    resident = Resident(pool, "float32")
    resident.load(recipe_of(pool, [1.0, 0.0]))
    digest, _ = resident.load(recipe)
    assert isinstance(resident.model, GPT2LMHeadModel)
    with torch.no_grad():
        ours, plain = resident.model(PROMPT).logits, expected(PROMPT).logits
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert merge_to(tmp_path / "out", pool, recipe) == digest
    again = AutoModelForCausalLM.from_pretrained(complete(tmp_path / "out", pool))
    with torch.no_grad():
        assert torch.equal(again(PROMPT).logits, ours)


def test_a_folder_saved_without_its_head_is_refused(tmp_path):
    """An untied Llama saved without `lm_head.weight` must not be scored with a random head."""
    folder = toy.checkpoint(tmp_path / "headless")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Incompatible, match=r"parameter 'lm_head\.weight', which no checkpoint"):
        Resident(Pool.open([folder]), "float32")


def test_a_resident_model_takes_an_untied_head_only_if_it_has_one(tmp_path):
    """The shell is the pool's first checkpoint: a tied one has no place for a merged head."""
    tied = toy.checkpoint(tmp_path / "tied", seed=0, tied=True)
    free = toy.checkpoint(tmp_path / "free", seed=1)
    pool = Pool.open([free, tied])
    recipe = recipe_of(pool, [0.5, 0.5])
    resident = Resident(pool, "float32")
    digest, _ = resident.load(recipe)
    assert merge_to(tmp_path / "out", pool, recipe) == digest
    embedding, head = resident.model.model.embed_tokens.weight, resident.model.lm_head.weight
    states = [Resident(Pool.open([f]), "float32").model.state_dict() for f in (free, tied)]
    assert torch.equal(head, 0.5 * states[0]["lm_head.weight"] + 0.5 * states[1]["lm_head.weight"])
    assert not torch.equal(head, embedding)
    with pytest.raises(Incompatible, match=r"'lm_head\.weight'.* no such tensor") as caught:
        Resident(Pool.open([tied, free]), "float32").load(recipe)
    assert caught.value.hint


def test_a_merge_that_is_held_already_is_not_made_again(drawer):
    pool = Pool.open(drawer[:2])
    resident = Resident(pool, "float32")
    recipe = recipe_of(pool, [0.5, 0.5])
    first, _ = resident.load(recipe)
    with torch.no_grad():  # were it merged again, this mark would be gone
        resident.model.model.norm.weight[0] = 42.0
    assert resident.load(recipe)[0] == first
    assert resident.model.model.norm.weight[0] == 42.0


def test_half_a_merge_never_counts_as_loaded(tmp_path):
    folders = toy.drawer(tmp_path, n=2)
    pool = Pool.open(folders)
    whole, other = recipe_of(pool, [0.5, 0.5]), recipe_of(pool, [0.0, 1.0])
    resident = Resident(pool, "float32")
    expected, _ = resident.load(whole)
    fresh = Sources(pool)
    good, resident.sources = resident.sources, fresh
    (folders[1] / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(BrokenCheckpoint):
        resident.load(other)
    (tmp_path / "away").rename(folders[1] / "model.safetensors")
    resident.sources = good
    with torch.no_grad():
        resident.model.model.norm.weight[0] = 42.0
    assert resident.load(whole)[0] == expected
    assert resident.model.model.norm.weight[0] != 42.0


def test_digest_does_not_depend_on_the_order_of_tensors(drawer):
    pool = Pool.open(drawer[:1])
    with Sources(pool) as sources:
        made = [(s, t.clone()) for s, t in merged(recipe_of(pool, [1.0]), sources)]
    forward, backward = Digest(), Digest()
    for spec, tensor in made:
        forward.add(spec, tensor)
    for spec, tensor in reversed(made):
        backward.add(spec, tensor)
    assert forward.value == backward.value == pool.checkpoints[0].fingerprint()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_0_in_float32_gives_zeros_and_not_what_memory_held(tmp_path, dtype):
    folders = [folder_of(tmp_path / f"c{i}", {"x": torch.ones(5000).to(dtype)}) for i in range(2)]
    pool = Pool.open(folders)
    found = merged_tensors(pool, recipe_of(pool, [1e-60, -1e-60]))["x"]
    assert not found.any()
