"""The front: who is on it, how surely, and which member a preference picks."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest

from recycler.errors import InvalidConfig, NotFound
from recycler.front import pareto
from recycler.front.front import (
    Front,
    Member,
    floor_gains,
    front_rows,
    meeting,
    volume,
)
from recycler.front.resampling import probabilities
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import State, Trial

# `speed` is better when larger, `loss` when smaller; `secret` is not searched.
OBJECTIVES = Objectives(
    (
        Objective("speed", "value", "max"),
        Objective("loss", "value", "min"),
        Objective("secret", held_out=True),
    )
)
DRAWER = [  # (speed, loss), fastest first
    (10.0, 3.0),
    (9.0, 1.4),
    (6.0, 1.2),
    (2.0, 1.0),
]


def trial(number, speed, loss, split="dev"):
    scores = {"speed": Score(speed, 0.1, 50), "loss": Score(loss, 0.1, 50)}
    return Trial(
        number=number,
        kind="search",
        name=f"search {number}",
        recipe=Recipe("linear", (Ingredient(f"f{number}", str(number), 1.0),), "float32"),
        state=State.COMPLETE,
        evaluations={split: Evaluation(split=split, scores=scores)},
    )


def front(points=DRAWER, reference=(0.0, -4.0)):
    return Front(
        objectives=OBJECTIVES,
        members=tuple(Member(trial(i, *point), 0.9) for i, point in enumerate(points)),
        basis="dev",
        certainty="dev",
        reference=None if reference is None else np.array(reference),
    )


# --- membership and volume ---


def test_rows_of_the_front_are_those_that_nobody_beats_in_both_directions():
    trials = [trial(0, 1.0, 1.0), trial(1, 2.0, 2.0), trial(2, 1.0, 2.0), trial(3, 2.0, 2.0)]
    assert [t.number for t in front_rows(trials, OBJECTIVES, "dev")] == [0, 1, 3]


def test_a_trial_without_scores_on_the_split_is_not_on_its_front():
    trials = [trial(0, 1.0, 1.0), trial(1, 0.0, 9.0, split="test")]
    assert [t.number for t in front_rows(trials, OBJECTIVES, "test")] == [1]


def test_gains_are_larger_is_better_and_nan_where_nothing_was_scored():
    assert front().gains("dev").tolist() == [[speed, -loss] for speed, loss in DRAWER]
    assert np.isnan(front().gains("test")).all()


def test_volume_is_the_area_above_the_reference_or_none_while_it_is_unknown():
    # steps from the right: 10 wide to loss 3, 9 to 1.4, 6 to 1.2, 2 to 1.0
    assert front().hypervolume("dev") == pytest.approx(10 * 1 + 9 * 1.6 + 6 * 0.2 + 2 * 0.2)
    assert front().hypervolume("test") is None
    assert front(reference=None).hypervolume("dev") is None
    assert volume([], OBJECTIVES, np.zeros(2), "dev") is None


# --- picks ---


def test_the_knee_is_the_balanced_member():
    assert front().knee().number == 1


@pytest.mark.parametrize(
    ("weights", "number"),
    [
        ({"speed": 1.0}, 0),
        ({"loss": 1.0}, 3),
        ({"speed": 1.0, "loss": 1.0}, 1),
        ({"speed": 1.0, "loss": 0.05}, 0),
        ({"speed": 0.05, "loss": 1.0}, 3),
        ({"speed": 4.0, "loss": 4.0}, 1),  # only the ratio counts
    ],
)
def test_a_preference_picks_the_largest_weighted_sum_in_units_of_the_fronts_range(weights, number):
    assert front().prefer(weights).number == number


def test_a_preference_is_weighed_in_steps_of_the_scale_if_there_is_one():
    # one step of loss is worth 1 / 0.04 = 25 units of speed: the smallest loss is best
    scaled = replace(front(), steps=np.array([1.0, 0.04]))
    assert scaled.prefer({"speed": 1.0, "loss": 1.0}).number == 3
    assert replace(front(), steps=np.array([1.0, 50.0])).prefer().number == 0


def test_a_preference_does_not_depend_on_the_units_of_the_scores():
    stretched = front([(1000 * speed, loss / 1000) for speed, loss in DRAWER])
    for ratio in np.linspace(0, 1, 21):
        wanted = {"speed": ratio, "loss": 1 - ratio}
        assert stretched.prefer(wanted).number == front().prefer(wanted).number


@pytest.mark.parametrize(
    ("floors", "number"),
    [
        ({}, 1),
        ({"speed": 9.5}, 0),
        ({"loss": 1.4}, 1),
        ({"speed": 6.0, "loss": 1.4}, 1),  # met exactly; for loss the floor is a ceiling
        ({"loss": 1.3}, 2),
        ({"loss": 1.1}, 3),
        ({"speed": 5.0, "loss": 1.3}, 2),
    ],
)
def test_floors_are_raw_scores_and_the_best_average_of_those_who_meet_them_is_picked(
    floors, number
):
    assert front().above(floors).number == number


def test_floors_that_nobody_meets_are_answered_with_what_there_is():
    with pytest.raises(NotFound, match=r"no member of the front meets .*'speed': 11") as refused:
        front().above({"speed": 11.0})
    assert "speed 10, loss 1" in refused.value.hint
    with pytest.raises(NotFound):  # each alone is met, both together are not
        front().above({"speed": 9.5, "loss": 1.2})


@pytest.mark.parametrize("name", ["sped", "secret"])
def test_only_objectives_of_the_search_can_be_preferred_or_given_a_floor(name):
    for pick in (front().prefer, front().above):
        with pytest.raises(InvalidConfig, match=f"{name!r} is not an objective of the search"):
            pick({name: 1.0})


def test_an_empty_front_has_no_member_to_pick():
    empty = front([])
    for pick in (empty.knee, lambda: empty.prefer({"speed": 1}), lambda: empty.above({})):
        with pytest.raises(NotFound, match="the front is empty"):
            pick()


def test_one_member_alone_is_every_pick():
    alone = front([(1.0, 1.0)])
    assert alone.knee().number == alone.prefer({"loss": 1}).number == 0
    assert alone.above({"speed": 1.0}).number == 0


# --- probabilities ---

ONE = Objectives((Objective("speed", "value", "max"),))


def scored(*pairs):
    return [{"speed": Score(mean, stderr, 0)} for mean, stderr in pairs]


@pytest.mark.parametrize("gap", [0.0, 0.5, 2.0])
def test_two_candidates_without_items_follow_the_normal_law_of_their_difference(gap):
    # the better one leads with probability Phi(gap / sqrt(s1^2 + s2^2)); 2000 draws: 4 errors
    chances = probabilities([{}, {}], scored((gap, 0.6), (0.0, 0.8)), ONE)
    expected = (1 + erf(gap / sqrt(2))) / 2
    assert chances == pytest.approx([expected, 1 - expected], abs=0.045)
    assert chances.sum() == pytest.approx(1.0)


def test_two_candidates_with_items_follow_the_normal_law_of_their_paired_difference():
    rng = np.random.default_rng(0)
    easy = rng.normal(size=400)
    noise = rng.normal(size=400)
    noise += 0.05 - noise.mean()  # a lead of 0.05 +- 1/20, hidden in items of spread 1
    outcomes = [Outcomes(tuple(range(400)), tuple(values)) for values in (easy + noise, easy)]
    chances = probabilities(
        [{"speed": items} for items in outcomes], [{"speed": o.score()} for o in outcomes], ONE
    )
    expected = (1 + erf(0.05 / (noise.std() / 20) / sqrt(2))) / 2
    assert chances[0] == pytest.approx(expected, abs=0.045)


def test_pairing_sees_a_small_steady_lead_that_separate_errors_do_not():
    easy = np.random.default_rng(0).normal(size=50)
    outcomes = [Outcomes(tuple(range(50)), tuple(values)) for values in (easy + 0.01, easy)]
    scores = [{"speed": items.score()} for items in outcomes]
    assert probabilities([{"speed": o} for o in outcomes], scores, ONE).tolist() == [1.0, 0.0]
    assert probabilities([{}, {}], scores, ONE) == pytest.approx([0.5, 0.5], abs=0.08)
    shifted = Outcomes(tuple(range(1, 51)), outcomes[1].values)  # other items: can't be paired
    unpaired = probabilities([{"speed": outcomes[0]}, {"speed": shifted}], scores, ONE)
    assert unpaired == pytest.approx([0.5, 0.5], abs=0.08)


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.3])
def test_who_was_stopped_after_some_items_leads_by_the_normal_law_of_its_estimate(gap):
    """Estimates are made against who has all items, so what those items do to both cancels."""
    rng = np.random.default_rng(3)
    whole = Outcomes(tuple(range(100)), tuple(rng.normal(size=100)))
    begun = Outcomes(tuple(range(12)), tuple(rng.normal(size=12)))
    scores = [{"speed": whole.score()}, {"speed": Score(whole.score().mean + gap, 0.2, 12)}]
    chances = probabilities([{"speed": whole}, {"speed": begun}], scores, ONE)
    expected = (1 + erf(gap / 0.2 / sqrt(2))) / 2
    assert chances == pytest.approx([1 - expected, expected], abs=0.045)


def test_dependent_items_make_the_lead_less_sure():
    rng = np.random.default_rng(1)
    noise = np.repeat(rng.normal(size=16), 25)
    noise += 0.1 - noise.mean()
    ids, clusters = tuple(range(400)), tuple(np.repeat(np.arange(16), 25).tolist())

    def chance(clusters):
        outcomes = [Outcomes(ids, tuple(v), (), clusters) for v in (noise, 0.0 * noise)]
        scores = [{"speed": o.score()} for o in outcomes]
        return probabilities([{"speed": o} for o in outcomes], scores, ONE)[0]

    # blocks of 25 that move together: the error is that of 16 items, not of 400
    expected = (1 + erf(0.1 / (noise.std() / 4) / sqrt(2))) / 2
    assert chance(clusters) == pytest.approx(expected, abs=0.06)
    assert chance(()) > 0.95 > chance(clusters)


def test_probabilities_agree_with_a_direct_simulation_over_resampled_items():
    rng = np.random.default_rng(5)
    k, items = 4, 60
    offsets = {"speed": [0.2, 0.1, 0.0, -0.1], "loss": [0.1, 0.0, -0.1, 0.05]}
    values = {  # (k, items) raw outcomes; loss is smaller-is-better
        name: rng.normal(size=items) + rng.normal(size=(k, items)) + np.array(offset)[:, None]
        for name, offset in offsets.items()
    }
    weights = {"speed": np.ones(items), "loss": rng.integers(1, 9, items).astype(float)}
    outcomes = [
        {
            name: Outcomes(tuple(range(items)), tuple(values[name][i]), tuple(weights[name]))
            for name in offsets
        }
        for i in range(k)
    ]
    scores = [{name: item.score() for name, item in row.items()} for row in outcomes]
    chances = probabilities(outcomes, scores, OBJECTIVES, seed=1)

    wins = np.zeros(k)
    for _ in range(3000):
        gains = np.empty((k, 2))
        for column, (name, sign) in enumerate([("speed", 1.0), ("loss", -1.0)]):
            picked = rng.integers(0, items, items)
            drawn, weight = values[name][:, picked], weights[name][picked]
            gains[:, column] = sign * (drawn * weight).sum(axis=1) / weight.sum()
        wins += [not ((gains >= g).all(1) & (gains > g).any(1)).any() for g in gains]
    assert chances == pytest.approx(wins / 3000, abs=0.05)
    assert ((chances > 0.05) & (chances < 0.95)).sum() >= 2  # the case is not decided


def test_probabilities_are_reproducible_and_those_of_nobody_are_empty():
    pair = scored((0.1, 1.0), (0.0, 1.0))
    once = probabilities([{}, {}], pair, ONE, seed=7)
    assert once.tolist() == probabilities([{}, {}], pair, ONE, seed=7).tolist()
    assert once.tolist() != probabilities([{}, {}], pair, ONE, seed=8).tolist()
    assert probabilities([], [], ONE).shape == (0,)


def test_one_item_of_twenty_does_not_make_a_front_certain():
    """Closed form: the one item that differs is left out of (19/20)^20 of the draws."""
    all_right = Outcomes(tuple(range(20)), (1.0,) * 20)
    one_wrong = Outcomes(tuple(range(20)), (1.0,) * 19 + (0.0,))
    found = [{"speed": o} for o in (all_right, one_wrong)]
    p = probabilities(found, [{"speed": o["speed"].score()} for o in found], ONE)
    tied = 0.95**20  # then one unseen item for each decides: better, alike or worse
    assert p[0] == pytest.approx(1 - tied / 4, abs=0.03)
    assert p[1] == pytest.approx(tied * 3 / 4, abs=0.03)


def test_items_without_spread_are_not_taken_for_certain():
    """Same values on all items, two merges: the sample's spread is 0, the truth is not known."""
    found = [{"speed": Outcomes(tuple(range(4)), (v,) * 4)} for v in (1.0, 1.1)]
    p = probabilities(found, [{"speed": o["speed"].score()} for o in found], ONE)
    assert p.tolist() == pytest.approx([0.25, 0.75], abs=0.03)  # ±0.1 and ±0.11 against 0.1


def test_equal_candidates_are_both_on_the_front():
    twins = [{"speed": Outcomes((0, 1), (0.0, 1.0))}] * 2
    assert probabilities(twins, [{"speed": Score(0.5, 0.5, 2)}] * 2, ONE).tolist() == [1.0, 1.0]


def test_knee_of_the_front_is_the_knee_of_its_gains():
    made = front()
    assert made.knee() is made.trials[pareto.knee(made.gains("dev"))]


# --- floors ---


def baseline(number, kind, name, speed, loss, state=State.COMPLETE):
    made = trial(number, speed, loss)
    return replace(
        made,
        kind=kind,
        name=name,
        state=state,
        evaluations=made.evaluations if state == State.COMPLETE else {},
    )


LEDGER = [
    baseline(0, "single", "single:a", 4.0, 2.0),
    baseline(1, "single", "single:b", 1.0, 1.0),
    baseline(2, "single", "single:c", 1.0, 3.0),
    baseline(3, "uniform", "uniform", 3.0, 1.5),
    baseline(4, "merge-best", "merge-best", 2.0, 1.2),
]


def with_floors(speed=None, loss=None):
    return Objectives(
        (
            Objective("speed", "value", "max", floor=speed),
            Objective("loss", "value", "min", floor=loss),
        )
    )


@pytest.mark.parametrize(
    ("speed", "loss", "gains"),
    [
        (None, None, [-np.inf, -np.inf]),
        (2.5, 1.5, [2.5, -1.5]),
        ("best-single", "best-single", [4.0, -1.0]),
        ("best-single * 0.5", "best-single + 0.5", [2.0, -1.5]),
        ("uniform - 1", "merge-best", [2.0, -1.2]),
        ("single:c + 1", "single:a * 1.5", [2.0, -3.0]),
    ],
)
def test_floors_are_the_baselines_scores_turned_to_gains(speed, loss, gains):
    found = floor_gains(LEDGER, with_floors(speed, loss), "dev")
    assert found == pytest.approx(gains, abs=1e-12)


def test_a_floor_awaits_its_baseline_and_is_lost_with_it():
    wanted = with_floors("uniform")
    running = [*LEDGER[:3], baseline(3, "uniform", "uniform", 0, 0, "running")]
    assert floor_gains(LEDGER[:3], wanted, "dev")[0] == np.inf  # not proposed yet
    assert floor_gains(running, wanted, "dev")[0] == np.inf
    failed = [*LEDGER[:3], baseline(3, "uniform", "uniform", 0, 0, "failed")]
    assert np.isnan(floor_gains(failed, wanted, "dev")[0])
    assert floor_gains(LEDGER, wanted, "test")[0] == np.inf  # not scored on these items yet


def test_a_failed_single_is_no_best_single():
    lost = [baseline(0, "single", "single:a", 9, 9, "failed"), *LEDGER[1:]]
    assert floor_gains(lost, with_floors("best-single"), "dev")[0] == 1.0
    assert np.isnan(floor_gains(lost, with_floors("single:a"), "dev")[0])


def test_references_that_are_one_merge_share_its_score():
    # one single is best at both: merge-best is that single, and the ledger holds it once
    best = [baseline(0, "single", "single:a", 4.0, 1.0), *LEDGER[1:4]]
    assert floor_gains(best, with_floors("merge-best"), "dev")[0] == 4.0
    # two singles, each best at one: merge-best is their uniform soup
    two = [*LEDGER[:2], LEDGER[3]]
    assert floor_gains(two, with_floors("merge-best"), "dev")[0] == 3.0
    assert floor_gains(LEDGER[:1], with_floors("uniform"), "dev")[0] == 4.0  # one checkpoint


def test_the_front_above_floors_is_the_front_of_those_who_meet_them():
    trials = [trial(i, *point) for i, point in enumerate(DRAWER)]
    floors = np.array([3.0, -1.4])  # speed at least 3, loss at most 1.4
    assert [t.number for t in front_rows(trials, OBJECTIVES, "dev", floors)] == [1, 2]
    beaten = [*trials, trial(9, 8.0, 1.4)]  # by trial 1
    assert [t.number for t in front_rows(beaten, OBJECTIVES, "dev", floors)] == [1, 2]
    assert meeting(trials, OBJECTIVES, "dev", floors).tolist() == [False, True, True, False]


def test_where_nobody_meets_the_floors_the_front_is_of_all_and_says_so():
    trials = [trial(i, *point) for i, point in enumerate(DRAWER)]
    floors = np.array([9.5, -1.2])  # each is met by somebody
    assert [t.number for t in front_rows(trials, OBJECTIVES, "dev", floors)] == [0, 1, 2, 3]
    assert not replace(front(), floors=floors).feasible
    assert replace(front(DRAWER[:1]), floors=np.array([9.5, -np.inf])).feasible
    assert front().feasible


def test_without_a_preference_the_objectives_weights_count():
    for weights, number in (((1.0, 1.0), 1), ((1.0, 0.05), 0), ((0.05, 1.0), 3)):
        objectives = Objectives(
            (
                Objective("speed", "value", "max", weight=weights[0]),
                Objective("loss", "value", "min", weight=weights[1]),
            )
        )
        assert replace(front(), objectives=objectives).prefer().number == number
