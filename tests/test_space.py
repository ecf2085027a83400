"""Spaces: points and recipes both ways, what study files may ask for, and searches that need it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from contracts.sampler import study_plan
from hypothesis import given
from hypothesis import strategies as st
from pools import merged_tensors, pool_of

from recycler.errors import InvalidConfig
from recycler.evaluate.results import evaluation_of, read_values
from recycler.execute.inline import Inline
from recycler.loop import run
from recycler.nouns.evaluation import Evaluation
from recycler.nouns.plan import Plan
from recycler.nouns.space import Space, settings_of
from recycler.nouns.trial import Job
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

KNOWN = ("lambda", "density", "normalize")
FULL = {"lambda": [0.3, 1.5], "density": {"each": [0.2, 1.0]}, "layer_groups": 3}


def wide_plan(space: Mapping[str, Any], n: int = 3, m: int = 1, **changes: Any) -> Plan:
    made = settings_of(space, "ties", KNOWN, 6)
    base = ("base", "sha256:base")
    given = {"method": "ties", "base": base, "space": made, **changes}
    return study_plan(given.pop("sampler", "auto"), n, m, **given)


# --- points and recipes ---


@given(st.integers(0, 10**6), st.sampled_from([0.0, -0.05, -0.5]), st.booleans(), st.booleans())
def test_a_point_comes_back_from_its_recipe(seed, least, groups, ranges):
    space = {"least_weight": least}
    space |= {"layer_groups": 3} if groups else {}
    space |= {"lambda": [0.3, 1.5], "density": {"each": [0.2, 1.0]}} if ranges else {}
    plan, rng = wide_plan(space), np.random.default_rng(seed)
    point = plan.points.draw(rng, 1.0)
    np.testing.assert_array_equal(plan.points.project(point), point)
    again = plan.points.point_of(plan.merge_at(point))
    np.testing.assert_allclose(again, point, atol=1e-9)


def test_a_plain_space_is_the_weights_themselves():
    plan, w = study_plan("auto", 4, 1), np.random.default_rng(0).dirichlet(np.ones(4))
    assert plan.points.is_plain
    assert plan.points.coordinates == plan.names
    assert plan.merge_at(w) == plan.recipe(tuple(w))
    assert plan.points.point_of(plan.recipe(tuple(w))).tobytes() == w.tobytes()


def test_a_single_checkpoint_lies_where_nothing_changes_its_task_vector():
    plan = wide_plan({"lambda": [0.5, 1.5], "density": [0.2, 1.0], "layer_groups": 2})
    point = plan.points.point_of(plan.recipe((0.0, 1.0, 0.0)))
    np.testing.assert_allclose(point, [0, 1, 0, 0, 1, 0, 0.5, 1.0])


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("least", [0.0, -0.2])
def test_the_sparsest_point_has_few_checkpoints_in_all_groups(most, least):
    plan = wide_plan({"layer_groups": 2, "least_weight": least, "lambda": [0.0, 1.0]}, n=4)
    for seed in range(20):
        drawn = plan.points.draw(np.random.default_rng(seed), 0.5)
        point = plan.points.sparsest(drawn, most)
        weights = plan.points.weights(point)
        assert (np.abs(weights) > 1e-12).any(axis=0).sum() <= max(most, 1)
        np.testing.assert_allclose(weights.sum(axis=1), 1.0)
        assert weights.min() >= least - 1e-12
        assert point[-1] == drawn[-1]


def test_groups_of_layers_have_their_own_weights_in_the_merge(tmp_path):
    """Against sums by hand; embeddings go with the first group, the final norm with the last."""
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [f"model.layers.{i}.mlp.weight" for i in range(4)]
    contents = [
        {name: torch.full((2, 2), float(10 * c + k)) for k, name in enumerate(names)}
        for c in (1, 2)
    ]
    pool = pool_of(tmp_path, contents)
    ingredients = tuple((c.name, c.fingerprint()) for c in pool.checkpoints)
    space = settings_of({"layer_groups": 2}, "linear", (), 4)
    plan = study_plan("auto", 2, 1, ingredients=ingredients, space=space)
    recipe = plan.merge_at(np.array([0.25, 0.75, 1.0, 0.0]))
    found = {name: float(t[0, 0]) for name, t in merged_tensors(pool, recipe).items()}
    first, last = 0.25 * 10 + 0.75 * 20, 10.0
    assert found == {
        names[0]: first + 0,
        names[1]: last + 1,
        names[2]: first + 2,
        names[3]: first + 3,
        names[4]: last + 4,
        names[5]: last + 5,
    }


# --- what a study file may ask for ---


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"beta": [0, 1]}, "'beta' can't be searched"),
        ({"lambda": [1.0, 0.5]}, "search.space.lambda is [1.0, 0.5]"),
        ({"lambda": {"each": [0.1, 1]}}, "search.space.lambda is"),
        ({"lambda": 0.5}, "search.space.lambda is 0.5"),
        ({"density": [0.0, 1.0]}, "search.space.density is [0.0, 1.0]"),
        ({"density": [0.5, 1.2]}, "search.space.density"),
        ({"density": {"every": [0.5, 1.0]}}, "search.space.density"),
        ({"density": ["a", "b"]}, "search.space.density"),
        ({"layer_groups": 1}, "the checkpoints have 6 layers"),
        ({"layer_groups": 7}, "search.space.layer_groups is 7"),
        ({"layer_groups": True}, "search.space.layer_groups is True"),
        ({"least_weight": 0.1}, "search.space.least_weight is 0.1"),
        ({"least_weight": "x"}, "search.space.least_weight is 'x'"),
    ],
)
def test_a_wrong_space_is_refused_with_its_key(space, words):
    with pytest.raises(InvalidConfig) as caught:
        settings_of(space, "ties", KNOWN, 6)
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_setting_that_the_method_lacks_is_refused():
    with pytest.raises(InvalidConfig, match="'linear' has no lambda"):
        settings_of({"lambda": [0.1, 1.0]}, "linear", ("normalize",), 6)


def test_groups_of_layers_cover_all_layers_without_overlap():
    for count in range(2, 8):
        groups = settings_of({"layer_groups": count}, "linear", (), 7)["layer_groups"]
        assert [layer for start, stop in groups for layer in range(start, stop)] == list(range(7))


# --- searches ---


def best_of(plan: Plan, gain: Any) -> float:
    """The best gain that a whole study finds."""
    store = SqlStore("sqlite://")
    store.create_study(plan)

    def score(job: Job) -> Evaluation:
        return evaluation_of(job, {"f0": read_values(gain(job.recipe))}, "", {})

    run(plan, store, Proposer(plan), Inline(lambda: score), phases=())
    return max(t.means("dev")["f0"] for t in store.trials(plan.name))


@pytest.mark.parametrize("sampler", ["auto", "nehvi"])
def test_a_factor_and_densities_are_found(sampler):
    """Best at λ = 0.6, densities 0.3, 0.5 and 0.8, and weights 0.5, 0.3, 0.2: gain 0."""
    space = {"lambda": [0.2, 1.8], "density": {"each": [0.1, 1.0]}}
    plan = wide_plan(space, evaluations=60, sampler=sampler)
    wanted = {"w0": (0.5, 0.3), "w1": (0.3, 0.5), "w2": (0.2, 0.8)}

    def gain(recipe):
        factor = recipe.settings.get("lambda", 1.0)
        miss = (factor - 0.6) ** 2
        items = {item.name: item for item in recipe.ingredients}
        for name, (weight, density) in wanted.items():
            item = items.get(name)
            miss += ((item.weight if item else 0.0) - weight) ** 2
            miss += 0.2 * ((item.settings.get("density", 1.0) if item else 1.0) - density) ** 2
        return -miss

    without = best_of(wide_plan({}, evaluations=60, sampler=sampler), gain)
    found = best_of(plan, gain)
    assert without < -0.16  # λ = 1 costs as much
    assert found > -0.005


def test_negative_weights_are_found_where_they_are_best():
    """Best at 1.2, -0.2, 0: gain 0; without negative weights at least 0.06 is lost."""
    wanted = np.array([1.2, -0.2, 0.0])

    def gain(recipe):
        return -float(((np.array(recipe.vector(("w0", "w1", "w2"))) - wanted) ** 2).sum())

    assert best_of(wide_plan({}, evaluations=40), gain) <= -0.06
    assert best_of(wide_plan({"least_weight": -0.3}, evaluations=40), gain) > -0.003


def test_spaces_have_a_coordinate_a_group_and_checkpoint_and_a_range():
    space = Space.of(("a", "b"), settings_of(FULL, "ties", KNOWN, 6))
    assert space.d == 3 * 2 + 1 + 2
    assert space.coordinates[:2] == ("a [0, 2)", "b [0, 2)")
    assert space.coordinates[-3:] == ("lambda", "density a", "density b")
