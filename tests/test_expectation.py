"""Expected gains: luck is taken from the scores it made, and nothing from scores without any."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contracts.sampler import bowls, opening, proceed, study_plan

from recycler.front.expectation import expected, predicted
from recycler.front.front import front_rows
from recycler.front.pareto import nondominated
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import State, Trial
from recycler.search.function import search
from recycler.search.samplers import Proposer

N, M, LUCK = 5, 2, 0.1


def with_scores(trial: Trial, split: str, gains: Sequence[float], stderr: float) -> Trial:
    scores = {f"f{j}": Score(float(g), stderr, 100) for j, g in enumerate(gains)}
    found = Evaluation(split=split, scores=scores)
    return replace(trial, evaluations={**trial.evaluations, split: found})


def drawer(seed: int = 0, luck: float = LUCK) -> tuple[Plan, list[Trial], Array]:
    """A ledger of random merges whose scores are bowls and luck, and the (k, m) bowls."""
    plan, function = study_plan("dirichlet", N, M), bowls(N, M)
    trials = proceed(plan, opening(plan, function), function, 40)
    truth = plan.objectives.gains([t.means("dev") for t in trials])
    noisy = truth + luck * np.random.default_rng(seed).standard_normal(truth.shape)
    return (
        plan,
        [with_scores(t, "dev", g, luck) for t, g in zip(trials, noisy, strict=True)],
        truth,
    )


def expected_gains(plan: Plan, trials: list[Trial], split: str = "dev") -> Array:
    reference = Proposer(plan).reference(trials)
    assert reference is not None
    found = expected(plan, trials, reference, split)
    return np.array([found[t.number] for t in trials if t.number in found])


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def test_what_is_expected_is_nearer_to_the_truth_than_the_scores() -> None:
    """A bowl of 5 weights has 15 coefficients: of 47 merges' noise a share of √(15/47) would stay."""
    shares = []
    for seed in range(4):
        plan, trials, truth = drawer(seed)
        scores = plan.objectives.gains([t.means("dev") for t in trials])
        shares.append(rms(expected_gains(plan, trials) - truth) / rms(scores - truth))
    assert max(shares) < 0.8
    assert np.mean(shares) < 0.7


def test_the_best_of_many_does_not_keep_the_luck_that_made_it_the_best() -> None:
    luck, left, gain = [], [], []
    for seed in range(8):
        plan, trials, truth = drawer(seed)
        scores = plan.objectives.gains([t.means("dev") for t in trials]).mean(1)
        found, true = expected_gains(plan, trials).mean(1), truth.mean(1)
        best = int(scores.argmax())
        luck.append(scores[best] - true[best])
        left.append(found[best] - true[best])
        gain.append(true[found.argmax()] - true[best])
    assert np.mean(luck) > 0.08
    assert np.mean(left) < 0.75 * np.mean(luck)
    assert np.mean(gain) > 0


def test_scores_without_noise_stay_what_they_are() -> None:
    plan, function = study_plan("dirichlet", N, M), bowls(N, M)
    exact = [
        with_scores(t, "dev", list(t.means("dev").values()), 0.0)
        for t in proceed(plan, opening(plan, function), function, 30)
    ]
    scores = plan.objectives.gains([t.means("dev") for t in exact])
    assert (expected_gains(plan, exact) == scores).all()


def test_properties_of_a_merge_stay_what_they_are() -> None:
    plan, trials, _ = drawer()
    kept = Objective("f1", metric="merge.nonzero", direction="min")
    plan = replace(plan, objectives=Objectives((plan.objectives.all[0], kept)))
    counts = np.random.default_rng(0).integers(1, 6, len(trials))
    for i, (trial, count) in enumerate(zip(trials, counts, strict=True)):
        scores = {**trial.evaluations["dev"].scores, "f1": Score(float(count), 0.0, 0)}
        trials[i] = replace(trial, evaluations={"dev": Evaluation(split="dev", scores=scores)})
    found = expected_gains(plan, trials)
    assert (found[:, 1] == -counts).all()
    assert (found[:, 0] != [t.means("dev")["f0"] for t in trials]).all()


def test_select_items_say_more_and_their_level_does_not_matter() -> None:
    """Measured again on as many items, half of the merges; those items are easier by 3."""
    plan, trials, truth = drawer()
    again = truth + 3.0 + LUCK * np.random.default_rng(9).standard_normal(truth.shape)
    checked = [
        with_scores(t, "select", again[i], LUCK) if i % 2 else t for i, t in enumerate(trials)
    ]
    rows = slice(1, None, 2)
    found = expected_gains(plan, checked, "select")
    assert len(found) == len(truth[rows])
    np.testing.assert_allclose(found.mean(0), again[rows].mean(0), atol=0.02)
    errors, alone = found - 3.0 - truth[rows], expected_gains(plan, trials)[rows] - truth[rows]
    assert rms(errors - errors.mean(0)) < rms(alone - alone.mean(0))
    shifted = [
        with_scores(t, "select", again[i] + 7.0, LUCK) if i % 2 else t
        for i, t in enumerate(trials)
    ]
    np.testing.assert_allclose(expected_gains(plan, shifted, "select"), found + 7.0, atol=1e-9)


def test_who_was_stopped_early_is_believed_less() -> None:
    """The same lucky scores, once from all items and once from an eighth of them."""
    plan, trials, _ = drawer()
    number = len(trials) - 1
    lucky = [s + 0.3 for s in trials[number].means("dev").values()]
    whole = [*trials[:-1], with_scores(trials[number], "dev", lucky, LUCK)]
    eighth = with_scores(trials[number], "dev", lucky, LUCK * 8**0.5)
    begun = [*trials[:-1], replace(eighth, state=State.PRUNED)]
    sure, doubtful = expected_gains(plan, whole)[number], expected_gains(plan, begun)[number]
    assert (doubtful < sure).all()
    assert (sure < lucky).all()


def test_a_prediction_knows_how_far_off_it_may_be() -> None:
    """Bowls at points that nobody scored lie within the deviations."""
    plan, trials, _ = drawer()
    function, rng = bowls(N, M), np.random.default_rng(7)
    reference = Proposer(plan).reference(trials)
    assert reference is not None
    misses, spreads = [], []
    for w in rng.dirichlet(np.ones(N), 40):
        found = predicted(plan, trials, reference, plan.recipe(tuple(w)))
        assert found is not None
        mean, deviation = found
        misses.append((mean - function(w)) / deviation)
        spreads.append(deviation)
    assert 0.3 < rms(np.array(misses)) < 1.6
    assert 0.01 < np.mean(spreads) < LUCK


def test_where_racing_stopped_some_the_front_is_of_what_is_expected() -> None:
    plan, trials, _ = drawer()
    begun = [replace(t, state=State.PRUNED) if t.number % 3 else t for t in trials]
    found = {t.number: g for t, g in zip(begun, expected_gains(plan, begun), strict=True)}
    members = [t.number for t in front_rows(begun, plan.objectives, "dev", expected=found)]
    gains = np.array(list(found.values()))
    assert members == np.flatnonzero(nondominated(gains)).tolist()
    whole = front_rows(trials, plan.objectives, "dev", expected=found)
    assert whole == front_rows(trials, plan.objectives, "dev")
    assert members != [t.number for t in whole]


def test_a_search_picks_by_what_is_expected_and_its_members_by_their_scores() -> None:
    rng, bowl = np.random.default_rng(0), bowls(N, M)

    def noisy(w: Array) -> list[tuple[float, float]]:
        return [(g + LUCK * rng.standard_normal(), LUCK) for g in bowl(w)]

    front = search(noisy, N, ["max", "max"], evaluations=30, sampler="dirichlet", greedy=False)
    assert front.expected is not None
    scores = front.gains("dev")
    assert front_rows(front.trials, front.objectives, "dev") == list(front.trials)
    assert front.steps is not None
    assert front.prefer() == front.trials[int((front.expected / front.steps).sum(1).argmax())]
    truth = np.array(
        [bowl(np.array(t.recipe.vector([f"w{i}" for i in range(N)]))) for t in front.trials]
    )
    assert rms(front.expected - truth) < rms(scores - truth)


@pytest.mark.parametrize("options", [{"n": 1}, {"n": 2, "evaluations": 0}])
def test_searches_too_small_to_expect_anything_still_have_a_pick(options: Any) -> None:
    front = search(lambda w: [float(w[0]), -float(w[0])], directions=["max", "max"], **options)
    assert front.knee() in front.trials
    assert front.prefer({"f0": 1.0}) == max(front.trials, key=lambda t: t.means("dev")["f0"])
