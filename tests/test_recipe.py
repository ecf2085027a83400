"""Recipes: one id for one merge, whatever the pool's order and the checkpoints' names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recycler.errors import InvalidConfig
from recycler.nouns.recipe import DTYPES, Ingredient, Recipe, canonical

prints = st.text("0123456789abcdef", min_size=1, max_size=3)
weights = st.floats(-2, 2)
ingredients = st.lists(
    st.builds(Ingredient, prints, st.text(min_size=1, max_size=4), weights),
    min_size=1,
    max_size=6,
    unique_by=lambda item: item.name,
).filter(lambda items: any(item.weight for item in items))


def recipe(*items, **changes):
    return Recipe(**{"method": "linear", "ingredients": items, "dtype": "float32", **changes})


A, B = Ingredient("f1", "a", 0.25), Ingredient("f2", "b", 0.75)


@given(ingredients, st.randoms(use_true_random=False))
def test_the_order_of_the_pool_changes_nothing(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert recipe(*shuffled) == recipe(*items)
    assert recipe(*shuffled).id == recipe(*items).id


@given(ingredients)
def test_names_do_not_enter_the_id_even_where_two_checkpoints_have_the_same_bytes(items):
    # renaming in reverse also reverses the order of names among equal fingerprints
    renamed = [
        Ingredient(item.fingerprint, f"{len(items) - i:03}", item.weight)
        for i, item in enumerate(sorted(items, key=lambda item: item.name))
    ]
    assert recipe(*renamed).id == recipe(*items).id


@given(ingredients, prints, st.sampled_from([0.0, -0.0]))
def test_zero_weights_are_dropped(items, fingerprint, zero):
    more = recipe(*items, Ingredient(fingerprint, "not in it", zero))
    assert more == recipe(*items)
    assert all(item.weight for item in more.ingredients)
    assert "not in it" not in more.weights


@given(ingredients)
def test_a_recipe_survives_json_to_the_last_bit(items):
    made = recipe(*items, base=Ingredient("f0", "base", 1.0), settings={"density": 0.5})
    again = Recipe.from_json(json.loads(canonical(made.to_json())))
    assert again == made
    assert again.id == made.id


def test_whatever_changes_the_bytes_changes_the_id():
    ids = [
        recipe(A, B).id,
        recipe(A).id,
        recipe(A, Ingredient("f2", "b", 0.75 + 2**-53)).id,
        recipe(A, Ingredient("f3", "b", 0.75)).id,
        recipe(A, B, method="ties").id,
        recipe(A, B, dtype="bfloat16").id,
        recipe(A, B, base=Ingredient("f0", "base", 1.0)).id,
        recipe(A, B, settings={"density": 0.5}).id,
        recipe(A, B, settings={"density": 0.6}).id,
    ]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids)


def test_the_id_of_a_recipe_never_changes_between_versions():
    # a ledger written by another version must find its recipes again
    assert recipe(A, B, settings={"b": 1, "a": None}).id == "6a731060db4ac391"


def test_the_order_of_settings_does_not_enter_the_id():
    assert recipe(A, settings={"a": 1, "b": 2}).id == recipe(A, settings={"b": 2, "a": 1}).id


def test_weights_are_listed_largest_first_and_put_back_in_the_order_of_the_pool():
    made = recipe(A, B, Ingredient("f0", "c", 0.25))
    assert list(made.weights.items()) == [("b", 0.75), ("a", 0.25), ("c", 0.25)]
    assert made.vector(["c", "zero", "b", "a"]) == (0.25, 0.0, 0.75, 0.25)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_name(weight):
    with pytest.raises(InvalidConfig, match="weight of 'b'"):
        recipe(A, Ingredient("f2", "b", weight))


@pytest.mark.parametrize("items", [(), (Ingredient("f1", "a", 0.0),)])
def test_a_recipe_of_nothing_is_refused(items):
    with pytest.raises(InvalidConfig, match="at least one weight other than zero"):
        recipe(*items)


def test_an_unknown_dtype_is_refused_with_the_known_ones():
    with pytest.raises(InvalidConfig, match="'int8'") as refused:
        recipe(A, dtype="int8")
    assert all(dtype in refused.value.message for dtype in DTYPES)


def test_canonical_json_is_one_text_for_one_content():
    assert canonical({"b": [1, 2.5], "a": {"d": None, "c": "é"}}) == (
        '{"a":{"c":"é","d":null},"b":[1,2.5]}'
    )
