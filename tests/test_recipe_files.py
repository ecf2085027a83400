"""Recipe files: recycler's own and mergekit's, in and out, and what is refused by name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml
from pools import merge_to

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import Incompatible, InvalidConfig, NotFound
from recycler.export import merge_file
from recycler.merge.methods import METHODS
from recycler.merge.recipes.mergekit import mergekit_recipe
from recycler.merge.recipes.own import own_recipe, read_recipe
from recycler.nouns.layers import places, value_at
from recycler.nouns.recipe import Ingredient, Recipe

Q = "model.layers.{}.self_attn.q_proj.weight"
MLP = "model.layers.{}.mlp.up_proj.weight"


def written(file: Path, table: Any) -> Path:
    file.write_text(yaml.safe_dump(table))
    return file


def fingerprint(checkpoint: Checkpoint, exact: bool) -> str:
    return checkpoint.fingerprint()


def read(file: Path) -> tuple[Recipe, Pool]:
    found = read_recipe(file, fingerprint)
    return found.recipe, found.pool


def own_table(drawer: list[Path], method: str = "ties", n: int = 2, **changes: Any) -> dict:
    """Recycler's own form: the first n of the drawer with weights, the last as base."""
    table = {
        "method": method,
        "checkpoints": [{"path": str(f), "weight": 0.5} for f in drawer[:n]],
        "base": str(drawer[3]),
    }
    return {**table, **changes}


def their_table(drawer: list[Path], method: str = "ties", n: int = 2, **changes: Any) -> dict:
    """Mergekit's form of the same."""
    table = {
        "merge_method": method,
        "models": [{"model": str(f), "parameters": {"weight": 0.5}} for f in drawer[:n]],
        "base_model": str(drawer[3]),
    }
    return {**table, **changes}


def weights_at(recipe: Recipe, pool: Pool, tensor: str, key: str = "weight") -> list[float]:
    """What each checkpoint's parameter is for one tensor, in the order of the pool."""
    place = places(list(pool.checkpoints[0].tensors))[tensor]
    by_name = {item.name: item for item in recipe.ingredients}
    return [
        value_at(by_name[name].settings.get(key, by_name[name].weight), place)
        for name in pool.names
    ]


# --- both forms ---


def test_own_and_mergekit_files_say_the_same_merge(drawer, tmp_path):
    checkpoints = [
        {"path": str(drawer[0]), "weight": 1},
        {"path": str(drawer[1]), "weight": 3},
    ]
    own = {"method": "linear", "checkpoints": checkpoints, "settings": {"normalize": True}}
    own["dtype"] = "float32"
    models = [{"model": c["path"], "parameters": {"weight": c["weight"]}} for c in checkpoints]
    theirs = {"merge_method": "linear", "models": models, "dtype": "float32"}
    recipe, pool = read(written(tmp_path / "own.yaml", own))
    assert recipe == read(written(tmp_path / "mergekit.yaml", theirs))[0]  # normalized by default
    assert list(recipe.vector(pool.names)) == [1.0, 3.0]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "slerp"])
def test_a_mergekit_file_without_parameters_takes_mergekits_defaults(drawer, tmp_path, method):
    theirs = {
        "linear": {"normalize": "weights"},
        "dare_linear": {"rescale": "l1"},
        "dare_ties": {"rescale": "l1"},
    }.get(method, {})
    recipe, _ = read(written(tmp_path / "m.yaml", their_table(drawer, method)))
    assert dict(recipe.settings) == theirs


def test_json_is_read_as_well(drawer, tmp_path):
    table = own_table(drawer, settings={"density": 0.5, "lambda": 0.7, "sign": "plain"})
    (tmp_path / "r.json").write_text(json.dumps(table))
    recipe, _ = read(tmp_path / "r.json")
    assert recipe == read(written(tmp_path / "r.yaml", table))[0]
    assert dict(recipe.settings) == {"density": 0.5, "lambda": 0.7, "sign": "plain"}
    assert recipe.base is not None
    assert recipe.base.name == drawer[3].name


def test_settings_that_say_nothing_new_leave_the_recipe_as_it_was(drawer, tmp_path):
    plain, _ = read(written(tmp_path / "a.yaml", own_table(drawer)))
    usual = {"normalize": True, "rescale": False, "density": 1, "sign": "weighted", "lambda": 1}
    same, _ = read(written(tmp_path / "b.yaml", own_table(drawer, settings=usual)))
    assert same == plain
    assert same.id == plain.id


def test_a_models_own_weight_goes_before_the_common_one(drawer, tmp_path):
    table = {
        "merge_method": "linear",
        "models": [
            {"model": str(drawer[0]), "parameters": {"weight": 0.25}},
            {"model": str(drawer[1])},
        ],
        "parameters": {"weight": 0.5, "normalize": False},
        "dtype": "bfloat16",
    }
    recipe, pool = read(written(tmp_path / "mergekit.yaml", table))
    assert recipe.vector(pool.names) == (0.25, 0.5)
    assert recipe.dtype == "bfloat16"


def test_the_output_dtype_goes_before_the_dtype(drawer, tmp_path):
    table = their_table(drawer, dtype="float32", out_dtype="float16")
    assert read(written(tmp_path / "m.yaml", table))[0].dtype == "float16"


def test_folders_of_one_name_can_be_merged_from_mergekits_file(tmp_path):
    """`runs/a/last` and `runs/b/last`, as trainers leave them; mergekit's file has no names."""
    folders = [toy.checkpoint(tmp_path / run / "last", seed=i) for i, run in enumerate("ab")]
    models = [{"model": str(f), "parameters": {"weight": 0.5}} for f in folders]
    file = written(tmp_path / "m.yaml", {"merge_method": "linear", "models": models})
    recipe, pool = read(file)
    assert [c.path for c in pool.checkpoints] == folders
    assert recipe.vector(pool.names) == (0.5, 0.5)


def test_relative_paths_are_relative_to_the_file(drawer, tmp_path):
    (tmp_path / "here").symlink_to(drawer[0])
    table = {"checkpoints": [{"path": "here", "weight": 1.0}]}
    (tmp_path / "sub").mkdir()
    file = written(tmp_path / "recipe.yaml", table)
    os.chdir(tmp_path / "sub")
    recipe, _ = read(file)
    assert recipe.ingredients[0].fingerprint == Checkpoint.open(drawer[0]).fingerprint()


def test_mergekits_relative_paths_are_seen_from_here_first_and_then_from_the_file(
    drawer, tmp_path
):
    (tmp_path / "files").mkdir()
    (tmp_path / "both").symlink_to(drawer[0])
    (tmp_path / "files" / "both").symlink_to(drawer[1])
    (tmp_path / "files" / "there").symlink_to(drawer[2])
    models = [{"model": m, "parameters": {"weight": 0.5}} for m in ("both", "there")]
    table = {"merge_method": "linear", "models": models}
    _, pool = read(written(tmp_path / "files" / "m.yaml", table))
    assert [c.path.resolve() for c in pool.checkpoints] == [drawer[0], drawer[2]]


@pytest.mark.parametrize("listed", [True, False])
def test_the_base_may_be_listed_among_the_models_or_not(drawer, tmp_path, listed):
    table = their_table(drawer)
    if listed:
        table["models"].insert(0, {"model": str(drawer[3])})
    recipe, pool = read(written(tmp_path / "m.yaml", table))
    assert pool.names == (drawer[0].name, drawer[1].name)
    assert recipe.base is not None
    assert recipe.base.name == drawer[3].name


@pytest.mark.parametrize(
    ("source", "donor"), [(None, 3), ("base", 3), ("1", 1), ("3", 3)], ids=str
)
def test_the_tokenizer_comes_from_the_base_or_whom_the_file_names(drawer, tmp_path, source, donor):
    table = their_table(drawer)
    if source is not None:
        table["tokenizer_source"] = source if source == "base" else str(drawer[int(source)])
    found = read_recipe(written(tmp_path / "m.yaml", table), fingerprint)
    assert found.donor.path == drawer[donor]


def test_the_own_form_names_its_donor(drawer, tmp_path):
    table = own_table(drawer, donor=drawer[1].name)
    assert read_recipe(written(tmp_path / "r.yaml", table), fingerprint).donor.path == drawer[1]
    table["donor"] = "nobody"
    with pytest.raises(NotFound, match="'nobody'"):
        read(written(tmp_path / "r.yaml", table))


def test_what_changes_no_byte_for_mergekit_changes_none_here(drawer, tmp_path):
    plain = their_table(drawer)
    noisy = their_table(drawer, parameters={"int8_mask": True})
    noisy["models"][0]["parameters"]["int8_mask"] = True
    assert (
        read(written(tmp_path / "a.yaml", plain))[0]
        == read(written(tmp_path / "b.yaml", noisy))[0]
    )


# --- parameters that vary ---


def test_gradients_and_filters_of_a_mergekit_file_reach_their_tensors(drawer, tmp_path):
    table = their_table(drawer)
    table["models"][0]["parameters"] = {
        "weight": [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.25}],
        "density": [0.4, 0.8],
    }
    recipe, pool = read(written(tmp_path / "m.yaml", table))
    assert weights_at(recipe, pool, MLP.format(0)) == [0.0, 0.5]
    assert weights_at(recipe, pool, MLP.format(1)) == [1.0, 0.5]
    assert weights_at(recipe, pool, Q.format(1)) == [0.25, 0.5]
    by_name = {item.name: item for item in recipe.ingredients}
    place = places(list(pool.checkpoints[0].tensors))
    densities = [
        value_at(by_name[pool.names[0]].settings["density"], place[name])
        for name in ("model.embed_tokens.weight", Q.format(0), Q.format(1), "lm_head.weight")
    ]
    assert densities == [0.4, 0.4, 0.8, 0.4]


def slices(drawer: list[Path], **changes: Any) -> dict:
    """Two slices of a layer each; parameters at every level."""
    table = {
        "merge_method": "ties",
        "base_model": str(drawer[3]),
        "slices": [
            {
                "sources": [
                    {
                        "model": str(drawer[0]),
                        "layer_range": [0, 1],
                        "parameters": {"weight": 0.1},
                    },
                    {"model": str(drawer[1]), "layer_range": [0, 1]},
                ],
                "parameters": {"weight": 0.2},
            },
            {
                "sources": [
                    {
                        "model": str(drawer[0]),
                        "layer_range": [1, 2],
                        "parameters": {"weight": [{"filter": "mlp", "value": 0.3}]},
                    },
                    {"model": str(drawer[1]), "layer_range": [1, 2]},
                ]
            },
        ],
        "parameters": {"weight": 0.4, "density": 0.5},
    }
    return {**table, **changes}


def test_sources_go_before_slices_and_slices_before_the_whole_file(drawer, tmp_path):
    recipe, pool = read(written(tmp_path / "m.yaml", slices(drawer)))
    assert weights_at(recipe, pool, Q.format(0)) == [0.1, 0.2]
    assert weights_at(recipe, pool, MLP.format(1)) == [0.3, 0.4]
    assert weights_at(recipe, pool, Q.format(1)) == [0.4, 0.4]
    assert weights_at(recipe, pool, "model.embed_tokens.weight") == [0.1, 0.2]
    assert weights_at(recipe, pool, "model.norm.weight") == [0.4, 0.4]
    assert all(item.settings["density"] == 0.5 for item in recipe.ingredients)


def test_a_methods_own_parameter_may_be_set_by_slice(drawer, tmp_path):
    table = slices(drawer)
    table["slices"][1]["parameters"] = {"lambda": 0.25, "normalize": False, "int8_mask": True}
    table["parameters"] |= {"lambda": 0.75}
    recipe, pool = read(written(tmp_path / "m.yaml", table))
    where = places(list(pool.checkpoints[0].tensors))
    at = {
        key: [value_at(recipe.settings[key], where[Q.format(layer)]) for layer in (0, 1)]
        for key in ("lambda", "normalize")
    }
    assert at == {"lambda": [0.75, 0.25], "normalize": [None, False]}
    plain = slices(drawer)
    halved = merge_file(written(tmp_path / "m.yaml", table), tmp_path / "halved")
    whole = merge_file(written(tmp_path / "p.yaml", plain), tmp_path / "whole")
    assert halved["digest"] != whole["digest"]


@pytest.mark.parametrize(
    "t", [0.25, [0, 1], [{"filter": "mlp", "value": [0.5, 1]}, {"value": 0.3}]]
)
def test_the_t_of_slerp_weighs_the_other_model(drawer, tmp_path, t):
    table = {
        "merge_method": "slerp",
        "models": [{"model": str(f)} for f in drawer[:2]],
        "base_model": str(drawer[0]),
        "parameters": {"t": t},
    }
    recipe, pool = read(written(tmp_path / "m.yaml", table))
    expected = {
        0.25: {MLP: [0.25, 0.25], Q: [0.25, 0.25]},
        "gradient": {MLP: [0.0, 1.0], Q: [0.0, 1.0]},
        "filters": {MLP: [0.5, 1.0], Q: [0.3, 0.3]},
    }[t if t == 0.25 else "gradient" if t == [0, 1] else "filters"]
    for name, values in expected.items():
        for layer, value in enumerate(values):
            assert weights_at(recipe, pool, name.format(layer)) == pytest.approx(
                [1 - value, value]
            )


def test_the_t_of_slerp_may_be_set_by_slice(drawer, tmp_path):
    table = slices(drawer, merge_method="slerp", base_model=str(drawer[1]), parameters={"t": 0.75})
    for entry in table["slices"]:
        entry["parameters"] = {}
        for source in entry["sources"]:
            source.pop("parameters", None)
    table["slices"][0]["parameters"] = {"t": 0.25}
    recipe, pool = read(written(tmp_path / "m.yaml", table))
    by_name = dict(zip(pool.names, weights_at(recipe, pool, Q.format(0)), strict=True))
    assert by_name == {drawer[0].name: 0.25, drawer[1].name: 0.75}
    by_name = dict(zip(pool.names, weights_at(recipe, pool, Q.format(1)), strict=True))
    assert by_name == {drawer[0].name: 0.75, drawer[1].name: 0.25}


# --- out ---

OUT = [
    ("linear", {"normalize": True}),
    ("linear", {}),
    ("task_arithmetic", {"lambda": 0.8, "normalize": True}),
    ("ties", {"density": 0.4, "lambda": 1.2}),
    ("ties", {"density": [0.2, 0.8], "normalize": False, "rescale": True}),
    ("ties", {"density": [{"filter": "mlp", "value": 0.3}, {"value": 0.9}]}),
    ("dare_linear", {"density": 0.5, "rescale": "l1"}),
    ("dare_ties", {"density": 0.5, "rescale": False, "normalize": True}),
]
OWN_ALONE = [
    ("slerp", {}),
    ("linear", {"normalize": "count"}),
    ("ties", {"density": 0.4, "sign": "plain"}),
    ("ties", {"density": 0.4, "scope": "model"}),
    ("ties", {"normalize": [{"filter": "mlp", "value": "count"}, {"value": "weights"}]}),
    ("dare_linear", {"density": 0.5}),
    ("dare_linear", {"density": 0.5, "rescale": "l1", "seed": 7}),
    ("task_arithmetic", {"lambda": [{"layers": [0, 1], "value": 0.5}, {"value": 1.0}]}),
    ("task_arithmetic", {"missing": "skip"}),
]


@pytest.mark.parametrize(("method", "settings"), [*OUT, *OWN_ALONE])
def test_recipes_written_into_the_merged_folder_reproduce_its_digest(
    drawer, tmp_path, method, settings
):
    table = own_table(drawer, method, settings=settings, dtype="bfloat16")
    table["checkpoints"][0]["weight"] = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]
    done = merge_file(written(tmp_path / "r.yaml", table), tmp_path / "out")
    again = merge_file(tmp_path / "out" / "recipe.yaml", tmp_path / "again")
    assert again["digest"] == done["digest"]
    proofs = [
        json.loads((tmp_path / name / "recycler.json").read_text()) for name in ("out", "again")
    ]
    assert proofs[0] == proofs[1]
    theirs = tmp_path / "out" / "mergekit.yaml"
    assert theirs.exists() == ((method, settings) in OUT)
    if theirs.exists():
        assert merge_file(theirs, tmp_path / "theirs")["digest"] == done["digest"]


def test_a_weight_and_its_schedule_are_multiplied_in_what_is_written(drawer, tmp_path):
    """As the merge does: `weight` among a checkpoint's settings scales its weight by tensor."""
    pool = Pool.open(drawer[:2])
    first, second = (Ingredient(c.fingerprint(), c.name, 0.5) for c in pool.checkpoints)
    schedule = [{"filter": "mlp", "value": [0.5, 1.0]}, {"value": 2.0}]
    scheduled = Ingredient(first.fingerprint, first.name, 0.5, {"weight": schedule})
    recipe = Recipe("linear", (scheduled, second), "float32")
    digest = merge_to(tmp_path / "out", pool, recipe)
    for name, form in (("own", own_recipe), ("theirs", mergekit_recipe)):
        again, again_pool = read(written(tmp_path / f"{name}.yaml", form(recipe, pool)))
        assert merge_to(tmp_path / name, again_pool, again) == digest


def test_a_base_that_only_fills_gaps_is_written_too(drawer, tmp_path):
    table = own_table(drawer, "linear", settings={"missing": "base"})
    recipe, pool = read(written(tmp_path / "r.yaml", table))
    assert read(written(tmp_path / "again.yaml", own_recipe(recipe, pool)))[0] == recipe
    theirs = their_table(drawer, "linear", missing="base", parameters={"normalize": False})
    assert read(written(tmp_path / "m.yaml", theirs))[0] == recipe
    del table["base"]
    with pytest.raises(InvalidConfig, match="linear needs a base checkpoint"):
        read(written(tmp_path / "r.yaml", table))


# --- what is refused ---


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"merge_method": "linear", "models": [{"model": "a"}], "tokenizer_source": "union"},
            "tokenizer_source",
        ),
        ({"merge_method": "passthrough", "models": []}, "'passthrough' is not a merge method"),
        ({"method": "linear"}, "`checkpoints` must list"),
        ({"method": "linear", "checkpoints": [{"path": "a"}]}, "`checkpoints` must list"),
        ({"checkpoints": [{"path": "A", "weight": ["x", 0.2]}]}, "expected a number"),
        ({"checkpoints": [{"path": "A", "weight": "x"}]}, "weight is 'x', expected a number"),
        ({"checkpoints": [{"path": "A", "weight": True}]}, "weight is True, expected a number"),
        (
            {"checkpoints": [{"path": "A", "weight": [{"filter": "mlp", "value": "x"}]}]},
            "weight is 'x', expected a number",
        ),
        ({"checkpoints": [{"path": "A", "weight": float("nan")}]}, "expected a number"),
        ({"checkpoints": [{"path": "A", "weight": 0}]}, "at least one weight other than zero"),
        ({"checkpoints": [{"path": "A", "weight": 1}], "dtype": "bf16"}, "dtype is 'bf16'"),
        ({"checkpoints": [{"path": "A", "weight": 1}], "wieghts": 1}, "key 'wieghts'"),
        ({"checkpoints": [{"path": "A", "weight": 1}], "settings": [1]}, r"settings is \[1\]"),
        (
            {"checkpoints": [{"path": "A", "weight": 1}], "settings": {"density": 0.5}},
            "key 'density' is not supported",
        ),
        ({"method": "ties", "checkpoints": [{"path": "A", "weight": 1}]}, "ties needs a base"),
        ({"merge_method": "linear", "models": [{"parameters": {"weight": 1}}]}, "has no `model:`"),
        ({"merge_method": "linear", "models": ["A"]}, "has no `model:`"),
        ({"merge_method": "linear", "models": []}, "`models:` lists nothing"),
        ({"merge_method": "linear"}, "exactly one of `models:` and `slices:`"),
        ({"merge_method": "linear", "slices": 3}, "`slices` must list"),
        ({"merge_method": "linear", "slices": []}, "`slices` must list"),
        ({"merge_method": "linear", "models": [{"model": "A+lora"}]}, "not a plain folder"),
        ({"merge_method": "linear", "models": [{"model": "A"}], "chat_template": "x"}, "'chat_template'"),
        ({"merge_method": "linear", "models": [{"model": "A", "rate": 2}]}, "key 'rate'"),
        (
            {"merge_method": "linear", "models": [{"model": "A", "parameters": {"rate": 2}}]},
            "key 'rate'",
        ),
        (
            {"merge_method": "linear", "models": [{"model": "A"}], "parameters": {"rate": 2}},
            "key 'rate'",
        ),
        ({"merge_method": "linear", "models": [{"model": "A"}], "parameters": 2}, "parameters is 2"),
        ({"merge_method": "linear", "models": [{"model": "A"}, {"model": "A"}]}, "twice"),
        ({"merge_method": "slerp", "models": [{"model": "A"}], "parameters": {"t": 0}}, "slerp needs"),
        ("linear", "holds no recipe"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_says_what_is_wrong(drawer, tmp_path, table, message):
    text = yaml.safe_dump(table)
    for key in ("path", "model"):
        text = text.replace(f"{key}: A", f"{key}: {drawer[0]}")
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=message) as caught:
        read_recipe(file, fingerprint)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("density", 0, "density is 0.0, expected a share above 0"),
        ("density", 1.5, "density is 1.5, expected a share above 0"),
        ("density", "half", "density is 'half', expected a share"),
        ("density", True, "density is True, expected a share"),
        ("density", [0.5, 1.5], "density is 1.5, expected a share"),
        ("density", [{"filter": "mlp", "value": 0}], "density is 0.0, expected a share"),
        ("lambda", "x", "lambda is 'x', expected a number"),
        ("lambda", float("inf"), "lambda holds inf, expected a number"),
        ("lambda", [], "lambda is an empty list"),
        ("rescale", "foo", "rescale is 'foo', expected one of none, l1, density"),
        ("normalize", "sum", "normalize is 'sum', expected one of none, weights, count"),
        ("sign", "majority", "sign is 'majority', expected one of"),
        ("sign", True, "sign is True, expected one of"),
        ("scope", "layer", "scope is 'layer', expected one of tensor, model"),
        ("seed", 1.5, "seed is 1.5, expected a whole number"),
        ("seed", "x", "seed is 'x', expected a whole number"),
        ("missing", "ignore", "missing is 'ignore'"),
        ("vocabulary", "union", "vocabulary is 'union'"),
        ("lamda", 1, "key 'lamda' is not supported"),
    ],
)
def test_settings_of_a_wrong_kind_are_refused_before_anything_is_written(
    drawer, tmp_path, monkeypatch, key, value, message
):
    """Not even the temporary folder is made."""
    made: list[Path] = []
    monkeypatch.setattr("recycler.export.unfinished", made.append)
    method = {"scope": "ties", "seed": "dare_ties"}.get(key, "ties")
    file = written(tmp_path / "r.yaml", own_table(drawer, method, settings={key: value}))
    with pytest.raises(InvalidConfig, match=message) as caught:
        merge_file(file, tmp_path / "out")
    assert caught.value.hint
    assert "r.yaml" in caught.value.message
    assert made == []


@pytest.mark.parametrize("value", [0, 1.5, "x", [{"filter": "mlp", "value": "x"}]])
def test_a_checkpoints_own_density_is_looked_at_too(drawer, tmp_path, value):
    table = own_table(drawer)
    table["checkpoints"][1]["density"] = value
    with pytest.raises(InvalidConfig, match=f"{drawer[1].name}: density is .* expected a share"):
        read(written(tmp_path / "r.yaml", table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([0, 2], "expected the same for all, beginning at layer 1"),  # overlaps the first slice
        ([1, 3], "end at layer 3, the models have 2 layers"),
        ([2, 3], "beginning at layer 1"),
        (5, "layers 5 is not a range"),
        ([1], r"layers \[1\] is not a range"),
        (None, "layers None is not a range"),
        ([2, 1], r"layers \[2, 1\] is not a range"),
    ],
)
def test_slices_may_not_move_layers(drawer, tmp_path, change, message):
    table = slices(drawer)
    for source in table["slices"][1]["sources"]:
        source["layer_range"] = change
    with pytest.raises(InvalidConfig, match=message):
        read(written(tmp_path / "m.yaml", table))


def test_slices_of_other_models_are_refused(drawer, tmp_path):
    table = slices(drawer)
    table["slices"][1]["sources"][1]["model"] = str(drawer[2])
    with pytest.raises(InvalidConfig, match=f"lists the models .*{drawer[2].name}"):
        read(written(tmp_path / "m.yaml", table))


def test_slerp_refuses_weights_and_a_t_that_is_no_number(drawer, tmp_path):
    table = their_table(drawer, "slerp", base_model=str(drawer[0]), parameters={"t": "x"})
    with pytest.raises(InvalidConfig, match="key 'weight' is not supported"):
        read(written(tmp_path / "m.yaml", table))
    for model in table["models"]:
        del model["parameters"]
    with pytest.raises(InvalidConfig, match="t is 'x', expected a number"):
        read(written(tmp_path / "m.yaml", table))
    table["parameters"] = {}
    with pytest.raises(InvalidConfig, match="slerp needs the parameter `t`"):
        read(written(tmp_path / "m.yaml", table))


def test_a_method_that_is_misspelt_is_told_the_nearest(drawer, tmp_path):
    for table in (own_table(drawer, "tie"), their_table(drawer, "tie")):
        with pytest.raises(InvalidConfig, match="'tie' is not a merge method") as caught:
            read(written(tmp_path / "r.yaml", table))
        assert "did you mean 'ties'" in caught.value.hint


def test_tensors_that_no_filter_gives_a_weight_are_named(drawer, tmp_path):
    table = own_table(drawer, "linear")
    table["checkpoints"][0]["weight"] = [{"filter": "mlp", "value": 1.0}]
    with pytest.raises(InvalidConfig, match=r"has no weight for tensor 'lm_head\.weight'"):
        merge_file(written(tmp_path / "r.yaml", table), tmp_path / "out")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["r.yaml"]


def test_a_recipe_file_that_is_not_there_or_not_yaml_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"nowhere\.yaml can't be read"):
        read_recipe(tmp_path / "nowhere.yaml", fingerprint)
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(InvalidConfig, match=r"bad\.yaml is not valid YAML"):
        read_recipe(tmp_path / "bad.yaml", fingerprint)


def test_checkpoints_of_two_architectures_are_refused(drawer, tmp_path):
    other = toy.checkpoint(tmp_path / "gpt2", "gpt2")
    table = {"checkpoints": [{"path": str(f), "weight": 0.5} for f in (drawer[0], other)]}
    with pytest.raises(Incompatible, match="can't be merged"):
        read(written(tmp_path / "r.yaml", table))


@pytest.mark.parametrize("source", [None, "base"])
def test_a_base_outside_the_list_gives_config_and_tokenizer_of_a_linear_merge(
    drawer, tmp_path, source
):
    table = their_table(drawer, "linear")
    table["base_model"] = str(drawer[3])
    if source:
        table["tokenizer_source"] = source
    file = read_recipe(written(tmp_path / "m.yaml", table), fingerprint)
    assert file.donor.path == drawer[3]
    assert file.recipe.base is None
    assert drawer[3].name not in file.recipe.weights
    table["tokenizer_source"] = "union"
    with pytest.raises(InvalidConfig, match="'union' is not supported"):
        read_recipe(written(tmp_path / "u.yaml", table), fingerprint)
