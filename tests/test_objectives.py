"""Objectives: directions, units, scales, and the published pool of arXiv 2412.04144."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from recycler.errors import InvalidConfig, NotFound
from recycler.front.front import front_rows
from recycler.front.pareto import nondominated
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import KNOWN_METRICS, Floor, Objective, Objectives
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import State, Trial

TABLE_2 = Path(__file__).parent / "data" / "khalifa_table2.csv"
BENCHMARKS = ("MBPP", "GSM8K", "IFEval", "MMLU-Pro", "MuSR")


@pytest.fixture(scope="module")
def rows():
    """The 16 checkpoints of the paper's Table 2, scores in percent."""
    with TABLE_2.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["id"]) for row in table] == list(range(1, 17))
    return [{name: float(row[name]) for name in BENCHMARKS} for row in table]


def higher_is_better(*names):
    return Objectives(tuple(Objective(name, "accuracy", "max", "percent") for name in names))


def as_trial(number, scores):
    """Checkpoint `number` of the paper as a scored single."""
    return Trial(
        number=number,
        kind="single",
        name=f"single:{number}",
        recipe=Recipe("linear", (Ingredient(f"sha256:{number:02}", str(number), 1.0),), "float32"),
        state=State.COMPLETE,
        evaluations={
            "dev": Evaluation(
                split="dev", scores={name: Score(mean, 1.0, 500) for name, mean in scores.items()}
            )
        },
    )


# --- the published pool ---


@pytest.mark.parametrize(
    ("names", "front"),
    [
        (("MBPP", "IFEval"), {3, 5, 12, 14}),
        (("MBPP", "MuSR"), {5, 6, 7, 11, 13, 15}),
        (("MMLU-Pro", "IFEval"), {3, 4, 12, 14, 16}),
        (("MBPP", "IFEval", "GSM8K"), {3, 5, 12, 14}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_fronts_of_the_papers_pool(rows, names, front):
    objectives = higher_is_better(*names)
    trials = [as_trial(number, scores) for number, scores in enumerate(rows, 1)]
    assert {trial.number for trial in front_rows(trials, objectives, "dev")} == front
    keep = nondominated(objectives.gains(rows))
    assert {number for number, kept in enumerate(keep, 1) if kept} == front
    assert front_rows(trials, objectives, "test") == []  # nothing was scored there


@pytest.mark.parametrize(
    ("names", "correlation"),
    [
        (("MBPP", "IFEval"), -0.35),
        (("MBPP", "MuSR"), -0.40),
        (("GSM8K", "IFEval"), 0.61),
        (("IFEval", "MuSR"), 0.72),
    ],
)
def test_rank_correlations_of_the_papers_pool(rows, names, correlation):
    gains = higher_is_better(*names).gains(rows)
    assert spearmanr(gains[:, 0], gains[:, 1]).statistic == pytest.approx(correlation, abs=0.005)


def test_turning_every_score_into_an_error_rate_to_minimize_keeps_the_papers_front(rows):
    errors = [{name: 100.0 - score for name, score in row.items()} for row in rows]
    lower = Objectives((Objective("MBPP", "error", "min"), Objective("IFEval", "error", "min")))
    keep = nondominated(lower.gains(errors))
    assert np.flatnonzero(keep).tolist() == [2, 4, 11, 13]


# --- one objective ---


def test_known_metrics_bring_direction_and_unit_also_behind_a_filter():
    for metric, (direction, unit) in KNOWN_METRICS.items():
        objective = Objective("a", f"{metric},some-filter")
        assert (objective.direction, objective.unit, objective.task) == (direction, unit, "a")


def test_what_the_user_writes_wins_over_what_is_known():
    objective = Objective("a", "acc", "min", "points", "arc")
    assert (objective.direction, objective.unit, objective.task) == ("min", "points", "arc")
    assert objective.sign == -1.0


@pytest.mark.parametrize("name", ["", " ", "two words", "1st", "a/b", "ünï code"])
def test_a_name_that_is_not_a_plain_word_is_refused(name):
    with pytest.raises(InvalidConfig, match="is not a plain word") as refused:
        Objective(name)
    assert repr(name) in refused.value.message


def test_an_unknown_metric_must_state_its_direction():
    for ask in (lambda o: o.sign, lambda o: o.directed(), lambda o: Objectives((o,)).gains([{}])):
        with pytest.raises(InvalidConfig, match=r"'odd'.*no known direction") as refused:
            ask(Objective("a", "odd"))
        assert "direction: max" in refused.value.hint
    with pytest.raises(InvalidConfig, match="'up'"):
        Objective("a", "acc", "up")


def test_a_direction_is_the_users_then_the_tasks_then_the_known_one():
    asked = Objectives(
        (
            Objective("mine", "acc", "min"),
            Objective("tasks", "acc", "task"),
            Objective("known", "acc", "task"),
            Objective("odd", "odd"),
        )
    )
    told = {
        "mine": {"direction": "max"},
        "tasks": {"direction": "min"},
        "odd": {"direction": "max"},
    }
    assert [o.direction for o in asked.directed(told)] == ["min", "min", "max", "max"]
    with pytest.raises(InvalidConfig, match="'odd'"):
        asked.directed({})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_must_be_positive(scale):
    with pytest.raises(InvalidConfig, match="scale is"):
        Objective("a", scale=scale)


# --- several objectives ---


def test_gains_turn_only_what_is_minimized_and_leave_out_what_is_held_out():
    objectives = Objectives(
        (
            Objective("loss", "bits_per_byte"),
            Objective("secret", held_out=True),
            Objective("acc"),
        )
    )
    gains = objectives.gains([{"acc": 0.5, "loss": 1.5, "secret": 9.0}, {"loss": 1.0}])
    assert gains[0].tolist() == [-1.5, 0.5]
    assert gains[1, 0] == -1.0
    assert np.isnan(gains[1, 1])
    assert objectives.raw(gains)[0].tolist() == [1.5, 0.5]
    assert objectives.gains([]).shape == (0, objectives.m) == (0, 2)


def test_objectives_are_found_by_name_and_split_into_searched_and_held_out():
    objectives = Objectives((Objective("a"), Objective("b", held_out=True)))
    assert [o.name for o in objectives] == ["a", "b"]
    assert [o.name for o in objectives.searched] == ["a"]
    assert [o.name for o in objectives.held_out] == ["b"]
    assert objectives["b"].held_out
    with pytest.raises(NotFound, match="no objective 'c'") as refused:
        objectives["c"]
    assert "a, b" in refused.value.hint


def test_two_objectives_of_one_name_and_nothing_to_search_are_refused():
    with pytest.raises(InvalidConfig, match="'a' is listed twice"):
        Objectives((Objective("a"), Objective("b"), Objective("a")))
    for nothing in ((), (Objective("a", held_out=True),)):
        with pytest.raises(InvalidConfig, match="no objective to search"):
            Objectives(nothing)


# --- floors and weights ---


@pytest.mark.parametrize(
    ("text", "baseline", "at_half"),
    [
        (0.6, "", 0.6),
        (0, "", 0.0),
        ("0.6", "", 0.6),
        ("-2e-1", "", -0.2),
        ("best-single", "best-single", 0.5),
        ("uniform - 0.02", "uniform", 0.48),
        ("merge-best + 0.1", "merge-best", 0.6),
        ("best-single * 0.98", "best-single", 0.49),
        ("single:sft-a-2 - 1", "single:sft-a-2", -0.5),
        ("  uniform   -0.5 ", "uniform", 0.0),
    ],
)
def test_a_floor_is_a_number_or_a_baseline_shifted_or_scaled(text, baseline, at_half):
    floor = Floor.parse(text, "a")
    assert floor.baseline == baseline
    assert floor.score(0.5) == pytest.approx(at_half, abs=1e-15)
    assert Objective("a", floor=text).limit == floor


@pytest.mark.parametrize(
    "text",
    [
        *("", "best", "best-single-0.5", "uniform / 2", "uniform - x", "single:", "single: a"),
        *("0.5 - 0.1", "nan", "uniform - 0.1 - 0.1", True, float("inf")),
    ],
)
def test_a_floor_that_cannot_be_read_is_refused_by_its_objective(text):
    with pytest.raises(InvalidConfig, match=r"objective 'a': floor is") as refused:
        Objective("a", floor=text)
    assert "best-single, uniform, merge-best and single:NAME" in refused.value.hint


def test_a_floor_on_what_the_search_cannot_see_is_refused():
    with pytest.raises(InvalidConfig, match="held out and has a floor"):
        Objective("a", held_out=True, floor=0.5)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_a_positive_number(weight):
    with pytest.raises(InvalidConfig, match="weight is"):
        Objective("a", weight=weight)


def test_weights_follow_the_order_of_the_objectives():
    assert Objectives((Objective("a"), Objective("b", weight=2.0))).weights.tolist() == [1.0, 2.0]


def test_only_known_properties_of_a_merge_can_be_objectives():
    assert Objective("few", "merge.nonzero").of_merge
    assert (Objective("near", "merge.distance").direction, Objective("a").of_merge) == (
        "min",
        False,
    )
    with pytest.raises(InvalidConfig, match=r"'merge\.size'") as refused:
        Objective("a", "merge.size", "min")
    assert "merge.nonzero, merge.distance" in refused.value.hint
