"""Settings over a model: gradients and filters against values worked out by hand."""

import hypothesis
import hypothesis.strategies as st
import pytest

from recycler.errors import InvalidConfig
from recycler.nouns.layers import (
    Place,
    checked,
    layer_count,
    layer_range,
    places,
    scalars,
    value_at,
    varies,
)

EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"


def names(layers: int) -> list[str]:
    inner = [f"model.layers.{i}.{part}.weight" for i in range(layers) for part in ("mlp", "attn")]
    return [EMBED, *inner, NORM, "lm_head.weight"]


def over_layers(setting, layers: int, part: str = "mlp") -> list:
    where = places(names(layers))
    return [value_at(setting, where[f"model.layers.{i}.{part}.weight"]) for i in range(layers)]


def outside(setting, layers: int) -> list:
    where = places(names(layers))
    return [value_at(setting, where[name]) for name in (EMBED, NORM, "lm_head.weight")]


# --- places ---


def test_the_first_number_in_a_name_is_its_layer():
    where = places(
        ["model.layers.11.mlp.experts.3.weight", "model.layers.2.ln.weight", EMBED, NORM]
    )
    assert [place.layer for place in where.values()] == [11, 2, -1, 12]
    assert {place.layers for place in where.values()} == {12}
    assert [place.inside for place in where.values()] == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("transformer.wte.weight", -1),
        ("transformer.wpe.weight", -1),
        ("gpt_neox.embed_in.weight", -1),
        ("embed_out.weight", 1),
        ("lm_head.weight", 1),
        ("model.layers.0.mlp.weight", 0),
        ("model.layers0.weight", 1),
    ],
)
def test_what_lies_before_and_behind_the_layers(name, layer):
    where = places([name, "model.layers.0.norm.weight"])
    assert where[name] == Place(name, layer, 1)


def test_a_model_without_layers_has_places_too():
    where = places(["a", "wte"])
    assert (where["a"], where["wte"]) == (Place("a", 0, 0), Place("wte", -1, 0))
    assert [value_at([0.25, 0.75], place) for place in where.values()] == [0.25, 0.25]


# --- values ---


def test_a_scalar_holds_everywhere():
    assert over_layers(0.5, 3) == [0.5] * 3
    assert outside("weights", 3) == ["weights"] * 3
    assert not varies(0.5)


@pytest.mark.parametrize(
    ("gradient", "layers", "expected"),
    [
        ([0, 1], 2, [0, 1]),
        ([0, 1], 5, [0, 0.25, 0.5, 0.75, 1]),
        ([0, 1, 0], 5, [0, 0.5, 1, 0.5, 0]),
        ([0, 1, 0], 4, [0, 2 / 3, 2 / 3, 0]),  # at 0, 2/3, 4/3 and 2 of the values' places
        ([1, 2, 4, 8], 3, [1, 3, 8]),  # more values than layers: 0, 1.5 and 3
        ([5], 3, [5, 5, 5]),
        ([0, 1], 1, [1]),  # one layer stands at the end, as in mergekit
        ([3, 7, 9], 1, [9]),
    ],
)
def test_a_gradient_runs_linearly_from_the_first_layer_to_the_last(gradient, layers, expected):
    assert over_layers(gradient, layers) == pytest.approx(expected, abs=1e-15)
    assert outside(gradient, layers) == [gradient[0]] * 3
    assert varies(gradient)


@hypothesis.given(
    values=st.lists(st.floats(-4, 4), min_size=1, max_size=6), layers=st.integers(1, 12)
)
def test_a_gradient_stays_between_its_values_and_ends_on_the_last(values, layers):
    found = over_layers(values, layers)
    low, high = min(values), max(values)
    assert all(low - 1e-12 <= v <= high + 1e-12 for v in found)
    assert found[-1] == values[-1]
    if layers > 1:
        assert found[0] == values[0]


def test_the_first_filter_that_is_part_of_the_name_wins():
    setting = [
        {"filter": "attn", "value": 1.0},
        {"filter": "layers.1", "value": [2.0, 3.0]},
        {"value": 4.0},
        {"filter": "mlp", "value": 5.0},
    ]
    assert over_layers(setting, 3, "attn") == [1.0, 1.0, 1.0]
    assert over_layers(setting, 3, "mlp") == [4.0, 2.5, 4.0]
    assert outside(setting, 3) == [4.0] * 3


def test_where_no_entry_fits_there_is_no_value():
    assert over_layers([{"filter": "attn", "value": 1.0}], 2, "mlp") == [None, None]


def test_layers_bound_an_entry_and_the_gradient_in_it():
    setting = [{"layers": [0, 3], "value": [0, 1]}, {"layers": [3, 6], "value": [5, 7]}]
    assert over_layers(setting, 6) == [0, 0.5, 1, 5, 6, 7]
    assert outside(setting, 6) == [0, 5, 5]  # embeddings go with the first, the rest with the last


def test_a_range_in_the_middle_holds_nothing_outside_the_layers():
    setting = [{"layers": [1, 2], "filter": "mlp", "value": [8, 9]}, {"value": 1}]
    assert over_layers(setting, 3, "mlp") == [1, 9, 1]  # one layer stands at the end
    assert over_layers(setting, 3, "attn") == [1, 1, 1]
    assert outside(setting, 3) == [1, 1, 1]


def test_a_range_beyond_the_last_layer_ends_there():
    assert over_layers([{"layers": [0, 99], "value": [0, 1]}], 3) == [0, 0.5, 1]
    assert outside([{"layers": [1, 99], "value": 2}, {"value": 1}], 3) == [1, 2, 2]


# --- checking ---


def test_checked_settings_are_in_plain_form():
    assert checked(1, "x") == 1.0
    assert type(checked(1, "x")) is float
    assert checked(True, "x") is True
    assert checked("weights", "x") == "weights"
    assert checked((0, 1), "x") == [0.0, 1.0]
    assert checked({"value": 1}, "x") == [{"value": 1.0}]
    assert checked([{"filter": "*", "value": 1}, {"filter": None, "value": (0, 1)}], "x") == [
        {"value": 1.0},
        {"value": [0.0, 1.0]},
    ]
    assert checked([{"layers": (0, 2), "filter": "mlp", "value": 1}], "x") == [
        {"layers": [0, 2], "filter": "mlp", "value": 1.0}
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([], "is an empty list"),
        (None, "holds None, expected a number"),
        (float("nan"), "holds nan, expected a number"),
        ([1, "a"], "holds 'a', expected a number"),
        ([1, True], "holds True, expected a number"),
        ([[1]], r"holds \[1\], expected a number"),
        ([{"value": 1}, 2], "found the entry 2"),
        ([{"filter": "mlp"}], "found the entry"),
        ([{"filter": "mlp", "value": 1, "weight": 2}], "found the entry"),
        ([{"value": [{"value": 1}]}], "entries are nested"),
        ([{"value": {"value": 1}}], "entries are nested"),
        ([{"value": []}], "is an empty list"),
        ([{"value": 1, "layers": [2, 2]}], r"layers \[2, 2\] is not a range"),
        ([{"value": 1, "layers": [-1, 2]}], "is not a range"),
        ([{"value": 1, "layers": [0, 2, 4]}], "is not a range"),
        ([{"value": 1, "layers": [0, 2.0]}], "is not a range"),
        ([{"value": 1, "layers": [False, True]}], "is not a range"),
        ([{"value": 1, "layers": 3}], "layers 3 is not a range"),
    ],
)
def test_a_setting_of_another_form_is_refused_where_it_stands(setting, message):
    with pytest.raises(InvalidConfig, match=message) as caught:
        checked(setting, "r.yaml: density")
    assert caught.value.message.startswith("r.yaml: density")
    assert caught.value.hint


def test_a_range_of_layers_is_two_whole_numbers():
    assert layer_range((0, 8), "x") == [0, 8]


def test_every_value_of_a_setting_is_found():
    setting = [{"filter": "mlp", "value": [1.0, 2.0]}, {"layers": [0, 1], "value": "x"}]
    assert scalars(setting) == [1.0, 2.0, "x"]
    assert scalars(0.5) == [0.5]
    assert scalars([1.0, 2.0]) == [1.0, 2.0]


# --- several stacks ---

VISION = [f"model.vision_tower.encoder.layers.{i}.q.weight" for i in range(4)]
TEXT = [f"model.language_model.layers.{i}.q.weight" for i in range(2)]
OUTSIDE = [
    "model.vision_tower.embeddings.patch_embedding.weight",
    "model.language_model.norm.weight",
]


def test_a_gradient_runs_over_each_stack_of_layers():
    where = places([*VISION, *TEXT, *OUTSIDE])
    assert [value_at([0.0, 1.0], where[n]) for n in VISION] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [value_at([0.0, 1.0], where[n]) for n in TEXT] == [0.0, 1.0]
    assert [where[n].layer for n in OUTSIDE] == [-1, 2]
    assert layer_count([*VISION, *TEXT, *OUTSIDE]) == 2


def test_ranges_of_layers_are_shares_of_every_stack():
    """As slices and layer groups give them, in layers of the text."""
    where = places([*VISION, *TEXT, *OUTSIDE])
    halves = [{"layers": [0, 1], "value": 1.0}, {"layers": [1, 2], "value": 2.0}]
    assert [value_at(halves, where[n]) for n in VISION] == [1.0, 1.0, 2.0, 2.0]
    assert [value_at(halves, where[n]) for n in TEXT] == [1.0, 2.0]
    assert [value_at(halves, where[n]) for n in OUTSIDE] == [1.0, 2.0]
    long = [f"text.layers.{i}.w" for i in range(7)]
    short = [f"audio.layers.{i}.w" for i in range(3)]
    where = places([*long, *short])
    for cut in range(1, 7):  # whatever the cut, every layer is in one range, and in order
        two = [{"layers": [0, cut], "value": 1.0}, {"layers": [cut, 7], "value": 2.0}]
        found = [value_at(two, where[name]) for name in short]
        assert found == sorted(found)
        assert found.count(1.0) == -(-cut * 3 // 7)


def test_the_decoders_layers_are_the_main_ones():
    names = [f"encoder.block.{i}.layer.0.w" for i in range(6)]
    names += [f"decoder.block.{i}.layer.1.w" for i in range(3)]
    where = places([*names, "shared.weight", "lm_head.weight", "projector.linear.0.weight"])
    assert layer_count(names) == 3
    assert [where[name].layer for name in names] == [*range(6), *range(3)]
    assert where["shared.weight"].layer == -1
    assert where["lm_head.weight"].layer == where["projector.linear.0.weight"].layer == 3
