"""Plans and trials: what is decided before a study starts, compared when it is resumed."""

import json
from dataclasses import replace

import pytest

from recycler.errors import InvalidConfig
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan, Reference
from recycler.nouns.recipe import Ingredient, Recipe, canonical
from recycler.nouns.trial import BASELINES, Kind, Trial

PLAN = Plan(
    name="study",
    ingredients=(("a", "sha256:1"), ("b", "sha256:2"), ("c", "sha256:3")),
    objectives=Objectives(
        (
            Objective("loss", "bits_per_byte", scale=0.1, cluster="passage"),
            Objective("secret", "odd", "max", "points", "a_task", held_out=True),
        )
    ),
    sampler="paper",
    settings={"sigma": 1.0, "box": (0.0, 1.0)},
    evaluations=7,
    greedy=False,
    seed=3,
    merge_settings={"normalize": True, "layers": {"0": (1, 2)}},
    dtype="bfloat16",
    base=("base", "sha256:0"),
    items={"dev": 5, "select": 6, "test": 7, "seed": 1},
    evaluator={"kind": "lm-eval", "tasks": "/tasks"},
    finalists=4,
    failed_share=0.25,
)


def reread(plan):
    return Plan.from_json(json.loads(canonical(plan.to_json())))


def test_a_plan_survives_json():
    again = reread(PLAN)
    assert again.to_json() == PLAN.to_json()
    assert (again.ingredients, again.objectives) == (PLAN.ingredients, PLAN.objectives)
    assert (again.base, again.dtype, again.greedy) == (PLAN.base, "bfloat16", False)
    plain = Plan(name="p", ingredients=(("a", "f"),), objectives=PLAN.objectives)
    assert reread(plain) == plain


def test_a_plan_read_back_has_no_change_though_json_turned_its_tuples_to_lists():
    assert reread(PLAN).changes(PLAN) == {}
    assert PLAN.changes(reread(PLAN)) == {}


CHANGED = {
    "leave_one_out": True,
    "references": (Reference("production", Recipe.of_model("production", "sha256:9", {})),),
    "space": {"layer_groups": [[0, 2], [2, 4]]},
    "racing": {"blocks": [0.5, 1.0], "chance": 0.1, "gain": 0.0},
    "name": "other",
    "ingredients": (("b", "sha256:2"), ("a", "sha256:1"), ("c", "sha256:3")),
    "objectives": Objectives((Objective("loss", "bits_per_byte"),)),
    "sampler": "nehvi",
    "settings": {"sigma": 2.0, "box": (0.0, 1.0)},
    "evaluations": 8,
    "greedy": True,
    "seed": 4,
    "method": "ties",
    "merge_settings": {},
    "dtype": "float32",
    "base": None,
    "items": {"dev": 5, "select": 6, "test": 7, "seed": 2},
    "evaluator": {"kind": "python"},
    "finalists": 5,
    "failed_share": 0.5,
    "fill": 0.1,
    "stop_gain": 0.01,
    "stop_after": 20,
    "warm_start": ("earlier",),
    "warm": ({"study": "earlier", "trial": 3, "weights": [0.5, 0.5, 0.0], "copy": True},),
}


@pytest.mark.parametrize("field", [f for f in Plan.__dataclass_fields__ if f != "measures"])
def test_each_changed_field_is_told_with_both_values(field):
    other = replace(PLAN, **{field: CHANGED[field]})
    changes = PLAN.changes(other)
    assert changes == {field: (PLAN.to_json()[field], other.to_json()[field])}
    assert changes[field][0] != changes[field][1]


def test_what_changed_of_a_measure_is_told_by_the_names_of_its_parts():
    names = [o.name for o in PLAN.objectives]
    one = replace(PLAN, measures={n: {"data of task 't'": "sha256:1", "metric": n} for n in names})
    assert one.changes(replace(one, evaluator={"kind": "lm-eval", "tasks": "/moved"})) == {}
    other = {n: {"data of task 't'": "sha256:2", "metric": n} for n in names}
    assert list(one.changes(replace(one, measures=other))) == ["data of task 't'"]
    fewer = dict(list(other.items())[1:])
    assert f"objective {names[0]!r}" in one.changes(replace(one, measures=fewer))
    assert len(set(one.measure_ids.values())) == len(names)


def test_the_recipe_of_a_weight_vector_follows_the_order_of_the_pool():
    recipe = PLAN.recipe((0.0, 0.25, 0.75))
    assert recipe == Recipe(
        "linear",
        (Ingredient("sha256:2", "b", 0.25), Ingredient("sha256:3", "c", 0.75)),
        "bfloat16",
        Ingredient("sha256:0", "base", 1.0),
        PLAN.merge_settings,
    )
    assert recipe.vector(PLAN.names) == (0.0, 0.25, 0.75)
    assert (PLAN.n, PLAN.names) == (3, ("a", "b", "c"))


@pytest.mark.parametrize("weights", [(1.0,), (0.25, 0.25, 0.25, 0.25)])
def test_a_weight_vector_of_another_length_is_refused(weights):
    with pytest.raises(ValueError, match="zip"):
        PLAN.recipe(weights)


def test_a_negative_budget_is_refused():
    with pytest.raises(InvalidConfig, match="evaluations is -1"):
        replace(PLAN, evaluations=-1)


def test_a_trial_knows_its_means_on_each_split_and_whether_it_is_on_top_of_the_budget():
    evaluation = Evaluation(split="dev", scores={"loss": Score(1.5, 0.1, 5)})
    trials = {
        kind: Trial(
            number=0,
            kind=kind,
            name=kind,
            recipe=PLAN.recipe((1.0, 0.0, 0.0)),
            evaluations={"dev": evaluation},
        )
        for kind in Kind
    }
    assert [kind for kind in Kind if trials[kind].is_baseline] == list(BASELINES)
    assert trials["search"].means("dev") == {"loss": 1.5}
    assert trials["search"].means("test") == {}


def test_the_distance_to_the_base_needs_a_base():
    near = Objectives((Objective("near", "merge.distance"),))
    assert replace(PLAN, objectives=near).base == ("base", "sha256:0")
    with pytest.raises(InvalidConfig, match=r"'near': merge\.distance .* the study has none"):
        replace(PLAN, objectives=near, base=None)


def test_a_single_checkpoint_is_itself_whatever_the_method():
    ties = replace(PLAN, method="ties", merge_settings={"density": 0.5}, base=("b0", "sha256:0"))
    single, mixed = ties.recipe([0.0, 1.0, 0.0][: ties.n]), ties.recipe([1 / ties.n] * ties.n)
    assert (single.method, dict(single.settings)) == ("linear", {})
    assert (mixed.method, dict(mixed.settings)) == ("ties", {"density": 0.5})
