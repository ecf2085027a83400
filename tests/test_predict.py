"""Predictions without evaluating: right on known landscapes, honest about doubt, and the best weights."""

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from contracts.sampler import SPACES, bowls, opening, proceed, study_plan
from studies import NAME, World, build, finished

from recycler.cli.main import cli
from recycler.errors import Conflict, InvalidConfig
from recycler.front.asked import point_in, weighted
from recycler.front.prediction import Forecaster, Prediction
from recycler.front.proposals import Proposals, foreseen, preference_grid, preference_of
from recycler.front.results import Results
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.reading import Reading
from recycler.search.samplers import Proposer


def study(
    n: int = 3, m: int = 2, count: int = 20, stderr: float = 0.0, luck: bool = False, **changes
) -> Results:
    """A search over bowls; with `luck` the scores have an error of that size."""
    plan, function = study_plan("dirichlet", n, m, **changes), bowls(n, m)
    rng = np.random.default_rng(0)

    def scored(w: Array) -> list[float]:
        return [v + stderr * luck * rng.standard_normal() for v in function(w)]

    trials = proceed(plan, opening(plan, scored), scored, count)
    told = [
        {o: Score(s.mean, stderr, 100) for o, s in t.evaluations["dev"].scores.items()}
        for t in trials
    ]
    found = [Evaluation(split="dev", scores=scores) for scores in told]
    trials = [replace(t, evaluations={"dev": e}) for t, e in zip(trials, found, strict=True)]
    return reading(plan, trials)


@cache
def noisy() -> Results:
    return study(stderr=0.01, luck=True)


def reading(plan, trials) -> Results:
    corner = Proposer(plan).reference(trials)
    status = {"status": "running", "reference": None if corner is None else list(corner)}
    return Results(
        Reading(
            event=1,
            status=status,
            plan=plan,
            trials=tuple(trials),
            looked_at=1,
            outcomes=lambda number, split: {},
            answers=lambda number, split, objective: None,
        )
    )


@cache
def forecaster_of(results: Results) -> Forecaster:
    return Forecaster(results)


def at(results: Results, weights) -> Prediction:
    names = results.plan.names
    return forecaster_of(results).at(
        weighted(results.plan, dict(zip(names, weights, strict=True)))
    )


def widths(prediction: Prediction) -> Array:
    return np.array([f.dev[1] - f.dev[0] for f in prediction.forecasts])


def test_the_truth_of_a_bowl_lies_in_the_intervals_and_near_what_is_expected() -> None:
    results, truth = study(n=4, count=25, stderr=0.01, luck=True), bowls(4, 2)
    rows = np.random.default_rng(5).dirichlet(np.ones(4), 60)
    inside, errors, spread = [], [], []
    for w in rows:
        for f, value in zip(at(results, w).forecasts, truth(w), strict=True):
            inside.append(f.mean[0] <= value <= f.mean[1])
            errors.append(f.expected - value)
            spread.append(value)
    assert np.mean(inside) >= 0.85
    assert np.std(errors) < 0.15 * np.std(spread)


def test_scores_without_noise_are_met_exactly_and_a_scored_merge_is_named() -> None:
    results = study(stderr=0.0)
    for trial in results.trials[3:12]:
        told = at(results, trial.recipe.vector(results.plan.names))
        assert told.trial == trial.number
        assert told.distance == 0
        for f in told.forecasts:
            score = trial.means("dev")[f.objective.name]
            assert f.dev == (score, score)
            assert f.expected == pytest.approx(score, abs=2e-3)


def test_intervals_grow_outside_and_distance_is_told() -> None:
    results = study(count=10, stderr=0.01, luck=True)
    ray = [at(results, (1 + t, -t, 0.0)) for t in (0.0, 0.25, 0.5, 1.0, 2.0)]
    sizes = np.array([widths(p) for p in ray])
    assert (np.diff(sizes[1:], axis=0) > 0).all()
    assert not ray[0].notes
    assert "the weight of w1 is -0.5, the search allows 0 to 1" in ray[2].notes[0]
    assert "far from all" in ray[-1].notes[1]
    assert "distance 2.00" in ray[-1].notes[1]


def test_the_mean_is_less_sure_than_the_dev_score_by_the_error_of_the_score() -> None:
    """Dev items are shared by all merges: their luck is in the mean's interval only."""
    told = at(study(stderr=0.05), (0.4, 0.3, 0.3))
    for f in told.forecasts:
        assert f.mean[1] - f.mean[0] > 1.9 * 1.64 * 0.05
        assert f.dev[1] - f.dev[0] < f.mean[1] - f.mean[0]


@pytest.mark.parametrize("wanted", [(1.0, 0.0), (0.5, 0.5), (0.2, 0.8)])
def test_a_proposal_is_the_best_of_all_weights_by_brute_force(wanted) -> None:
    results = noisy()
    forecaster = forecaster_of(results)
    found = Proposals(forecaster).suggest(np.array(wanted))
    lattice = np.array(
        [(i, j, 100 - i - j) for i, j in itertools.product(range(101), repeat=2) if i + j <= 100]
    )
    values = forecaster.gains(lattice / 100) / results.scales @ np.array(wanted)
    w = np.array(found.prediction.recipe.vector(results.plan.names))
    value = float((forecaster.gains(w[None]) / results.scales @ np.array(wanted))[0])
    assert value >= values.max() - 1e-9
    assert abs(w - lattice[values.argmax()] / 100).max() <= 0.02
    assert (np.round(w, 3) == w).all()
    best = np.array([t.recipe.vector(results.plan.names) for t in results.trials])
    assert found.average == pytest.approx(
        value - (forecaster.gains(best) / results.scales @ np.array(wanted)).max()
    )
    assert 0.5 <= found.p_better <= 1


def test_proposals_respect_floors_and_max_nonzero() -> None:
    """Without them the best for the first objective breaks both."""
    free = study(n=4)
    first = Proposals(Forecaster(free)).suggest(np.array([1.0, 0.0]))
    second = first.prediction.forecasts[1].expected
    assert len(first.prediction.recipe.ingredients) > 2
    floor = second + 0.3 * (-second)
    objectives = Objectives(
        (
            Objective("f0", "value", "max", scale=1.0),
            Objective("f1", "value", "max", scale=1.0, floor=floor),
        )
    )
    bounded = study(n=4, objectives=objectives, settings={"max_nonzero": 2})
    found = Proposals(Forecaster(bounded)).suggest(np.array([1.0, 0.0]))
    assert found.meets_floors
    assert found.prediction.forecasts[1].expected >= floor - 1e-9
    assert len(found.prediction.recipe.ingredients) <= 2
    assert found.prediction.forecasts[0].expected < first.prediction.forecasts[0].expected


def test_the_number_of_checkpoints_is_exact() -> None:
    objectives = Objectives(
        (Objective("f0", "value", "max", scale=1.0), Objective("size", "merge.nonzero", scale=1.0))
    )
    plan = study_plan("dirichlet", 3, 2, objectives=objectives)

    def scored(w: Array) -> list[float]:
        return [bowls(3, 1)(w)[0], float(np.count_nonzero(w))]

    results = reading(plan, proceed(plan, opening(plan, scored), scored, 12))
    told = at(results, (0.5, 0.5, 0.0)).forecasts[1]
    assert told.exact
    assert (told.expected, told.dev) == (2.0, (2.0, 2.0))
    small = Proposals(Forecaster(results)).suggest(np.array([0.0, 1.0]))
    assert len(small.prediction.recipe.ingredients) == 1


def test_a_point_of_every_space_is_found_again_and_continued_outside() -> None:
    for space in SPACES:
        plan = study_plan("dirichlet", 3, 2, space=space, method="ties")
        point = plan.points.draw(np.random.default_rng(1), 1.0)
        found, outside = point_in(plan, plan.merge_at(point))
        assert found == pytest.approx(point, abs=1e-9)
        assert not outside
    plan = study_plan("dirichlet", 3, 2, space={"least_weight": -0.2})
    found, outside = point_in(plan, plan.recipe((1.5, -0.4, -0.1)))
    assert plan.points.weights(found)[0] == pytest.approx([1.5, -0.4, -0.1])
    assert outside == ["the weight of w1 is -0.4, the search allows -0.2 to 1"]


def test_a_grid_of_preferences_has_the_corners_and_spreads() -> None:
    for m, count in [(1, 1), (2, 5), (3, 7), (5, 12)]:
        grid = preference_grid(m, count)
        assert grid.shape == (count, m)
        assert grid.sum(axis=1) == pytest.approx(1)
        assert len(np.unique(grid, axis=0)) == count
        assert {tuple(row) for row in np.eye(m)} <= {tuple(row) for row in grid}
    assert preference_grid(3, 4)[3] == pytest.approx(1 / 3)


def test_few_trials_and_none_are_told() -> None:
    assert (
        "only 5 trials are scored for 3 coordinates" in at(study(count=0), (0.5, 0.5, 0)).notes[0]
    )
    assert not at(study(count=4), (0.5, 0.5, 0)).notes
    with pytest.raises(Conflict, match="0 scored trials"):
        Forecaster(reading(study_plan("dirichlet", 3, 2), []))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"w0": 0.5, "w9": 0.5}, "no checkpoint 'w9'"),
        ({"w0": 0.5, "w1": 0.4}, "sum to 0.9"),
        ({"w0": float("nan")}, "sum to nan"),
    ],
)
def test_weights_that_no_merge_of_the_study_has_are_refused(weights, said) -> None:
    with pytest.raises(InvalidConfig, match=said) as caught:
        foreseen(study(count=2), [weights])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("preference", "said"),
    [({"f7": 1.0}, "no objective 'f7'"), ({"f0": -1.0}, "0 or more"), ({"f0": 0.0}, "above 0")],
)
def test_a_preference_that_means_nothing_is_refused(preference, said) -> None:
    with pytest.raises(InvalidConfig, match=said):
        preference_of(Forecaster(study(count=2)), preference)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return finished(tmp_path_factory.getbasetemp())


def test_the_command_predicts_weights_and_recipes_alike(world, tmp_path) -> None:
    def call(*arguments: str) -> str:
        found = CliRunner().invoke(cli, ["--store", world.store, "predict", NAME, *arguments])
        assert found.exit_code == 0, found.output
        return found.stdout

    names = world.open().plan.names
    weights = dict(zip(names, (0.5, 0.3, 0.2), strict=True))
    recipe = tmp_path / "mine.yaml"
    entries = [
        {"path": str(folder), "weight": w}
        for folder, w in zip(world.folders, weights.values(), strict=True)
    ]
    recipe.write_text(
        yaml.safe_dump(
            {"method": "linear", "checkpoints": entries, "dtype": world.open().plan.dtype}
        )
    )
    text = ",".join(f"{name}={w}" for name, w in weights.items())
    table = json.loads(call("--weights", text, "--recipe", str(recipe), "--grid", "3", "--json"))
    first, second = table["predictions"]
    assert first == second
    assert list(first["objectives"]) == table["objectives"]
    assert len(table["proposals"]) == 3
    shown = call("--weights", text, "--grid", "3")
    assert "scored trials" in " ".join(shown.split())
    assert "Weights expected best for each preference" in shown


def test_predictions_are_evaluated_as_tries(tmp_path) -> None:
    made = build(tmp_path, evaluations=2).open()
    a, b, _ = made.plan.names
    table = made.predict({a: 0.4, b: 0.6}, prefer=[{"text": 1.0}], evaluate=True)
    asked = [row["id"] for row in (*table["predictions"], *table["proposals"])]
    assert [row["id"] for row in table["evaluated"]] == list(dict.fromkeys(asked))
    for row in table["evaluated"]:
        assert row["state"] == "complete"
        assert set(row["test"]) == {"text", "choice", "word"}
        assert made.trial(row["trial"]).recipe.id == row["id"]
    assert made.plan.evaluations == 2
    assert made.status["status"] == "complete"
