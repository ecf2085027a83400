"""The verdict: differences by their closed form, and a sentence that says no more than is known."""

from math import erf, sqrt

import numpy as np
import pytest

from recycler.front.verdict import Rival, Verdict, verdict
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import State, Trial

ITEMS = 400
TWO = Objectives((Objective("up", "value", "max"), Objective("down", "value", "min")))


def items_around(mean, noise):
    """Outcomes of exactly this mean; equal noise is the same items' difficulty."""
    values = noise - noise.mean() + mean
    return Outcomes(tuple(range(len(values))), tuple(values.tolist()))


def scored(number, name, kind="search", **splits):
    """A trial and its outcomes: split -> objective -> outcomes or a plain score."""
    evaluations = {
        split: Evaluation(
            split=split,
            scores={n: o.score() if isinstance(o, Outcomes) else o for n, o in found.items()},
            outcomes={n: o for n, o in found.items() if isinstance(o, Outcomes)},
        )
        for split, found in splits.items()
    }
    recipe = Recipe("linear", (Ingredient(f"f{number}", name, 1.0),), "float32")
    return Trial(
        number=number,
        kind=kind,
        name=name,
        recipe=recipe,
        state=State.COMPLETE,
        evaluations=evaluations,
    )


def outcomes(trial, split):
    return trial.evaluations[split].outcomes


def held(pick, rivals, objectives=TWO, scales=(1.0, 1.0), **more):
    return verdict(pick, "knee", rivals, objectives, np.array(scales), outcomes, **more)


def single_of(found):
    return found.against("best single")


def test_the_difference_of_averages_follows_its_normal_law():
    rng = np.random.default_rng(3)
    easy, jitter = rng.normal(size=ITEMS), rng.normal(size=ITEMS)
    flat = items_around(0.0, easy)
    pick = scored(5, "search 1", test={"up": items_around(0.3, easy + jitter), "down": flat})
    single = scored(0, "single:a", "single", test={"up": items_around(0.2, easy), "down": flat})
    found = held(pick, [single], scales=(2.0, 1.0))
    # the mean over two objectives of a lead of 0.1 in steps of 2; its error is the jitter's
    error = jitter.std() / sqrt(ITEMS) / 2 / 2
    assert single_of(found).difference == pytest.approx(0.1 / 2 / 2)
    assert single_of(found).interval == pytest.approx(
        (0.025 - 1.96 * error, 0.025 + 1.96 * error), abs=0.15 * error
    )
    expected = (1 + erf(0.025 / error / sqrt(2))) / 2
    assert single_of(found).p_better == pytest.approx(expected, abs=0.02)
    assert (found.split, found.items, single_of(found).name) == ("test", (ITEMS, ITEMS), "a")


def test_smaller_is_better_where_the_objective_says_so():
    noise = np.random.default_rng(0).normal(size=50)
    both = {"up": items_around(0.0, noise)}
    pick = scored(5, "search 1", test={**both, "down": items_around(1.0, noise)})
    single = scored(0, "single:a", "single", test={**both, "down": items_around(1.2, noise)})
    found = held(pick, [single])
    assert single_of(found).difference == pytest.approx(0.1)
    assert single_of(found).p_better == 1.0  # the same noise on every item: no doubt


def test_weights_of_the_objectives_come_in_with_the_scales():
    weighted = Objectives(
        (Objective("up", "value", "max", weight=3.0), Objective("down", "value", "min"))
    )
    scores = [Score(0.0, 0.1, 9), Score(1.0, 0.1, 9)]
    pick = scored(5, "search 1", test={"up": scores[1], "down": scores[1]})
    single = scored(0, "single:a", "single", test={"up": scores[0], "down": scores[0]})
    found = held(pick, [single], objectives=weighted, scales=1.0 / weighted.weights)
    assert single_of(found).difference == pytest.approx((3 * 1.0 - 1.0) / 2)
    assert found.weighted
    assert "in the scaled, weighted average" in found.sentence


def test_the_best_single_is_picked_on_other_items_than_those_reported():
    lucky = {"up": Score(0.9, 0.1, 9), "down": Score(0.0, 0.1, 9)}
    plain = {"up": Score(0.5, 0.1, 9), "down": Score(0.0, 0.1, 9)}
    single_a = scored(0, "single:a", "single", select=lucky, test=plain)
    single_b = scored(1, "single:b", "single", select=plain, test=lucky)
    pick = scored(5, "search 1", select=plain, test=lucky)
    found = held(pick, [single_a, single_b])
    assert single_of(found).name == "a"
    assert single_of(found).difference == pytest.approx(0.2)


def test_the_report_is_on_the_most_honest_items_that_all_were_scored_on():
    one = {"up": Score(0.5, 0.1, 9), "down": Score(0.0, 0.1, 9)}
    single = scored(0, "single:a", "single", dev=one, test=one)
    assert held(scored(5, "s", dev=one, test=one), [single]).split == "test"
    early = held(scored(5, "s", dev=one), [single])
    assert early.split == "dev"
    assert early.sentence.endswith("9 dev items per task. Optimistic: the search saw these items.")
    assert held(scored(5, "s", select=one), [single]) is None
    assert held(scored(5, "s", dev=one), []) is None


def test_a_rival_that_is_the_merge_itself_is_no_rival():
    one = {"up": Score(0.5, 0.1, 9), "down": Score(0.0, 0.1, 9)}
    single, soup = scored(0, "single:a", "single", test=one), scored(7, "greedy 1", test=one)
    found = held(single, [single, soup])
    assert single_of(found) is None
    assert found.against("best baseline").trial == 7
    assert found.sentence.startswith(
        "Trial 0 (knee) is your best single checkpoint itself (a), and is ahead of the best baseline"
    )
    assert held(soup, [single, soup]).against("best baseline") is None


def test_a_rival_below_a_floor_is_called_so() -> None:
    one = {"up": Score(0.5, 0.1, 9), "down": Score(0.0, 0.1, 9)}
    more = {"up": Score(0.9, 0.1, 9), "down": Score(0.2, 0.1, 9)}
    pick, single = scored(5, "search 1", test=one), scored(0, "single:a", "single", test=more)
    for worst, below in ((-0.1, True), (-0.2, False), (np.inf, False)):  # inf: not known yet
        found = verdict(
            pick,
            "knee",
            [single],
            TWO,
            np.ones(2),
            outcomes,
            lambda split, worst=worst: np.array([-np.inf, worst]),
        )
        assert single_of(found).below is below
        assert ("(a), which is below a floor, by" in found.sentence) is below


def comparison(role, difference, low, high, p):
    return Rival(0, "math-2", role, difference, (low, high), p)


AHEAD = comparison("best single", 0.034, 0.021, 0.047, 0.9995)
SAID = Verdict(
    trial=41,
    role="knee",
    split="test",
    itself="",
    comparisons=(AHEAD, comparison("best baseline", 0.012, -0.001, 0.025, 0.96)),
    items=(1000, 1000),
    weighted=False,
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "Trial 41 (knee) beats your best single checkpoint (math-2) by 0.034 [0.021, 0.047] in "
            "the scaled average with probability > 0.99, and is ahead of the best baseline (math-2) by "
            "0.012 [-0.001, 0.025] (0.96), on 1000 test items per task.",
        ),
        (
            {
                "comparisons": (
                    AHEAD,
                    comparison("best baseline", -0.012, -0.025, -0.001, 0.02),
                    comparison("reference", -0.012, -0.025, -0.001, 0.02),
                ),
                "items": (9, 12),
            },
            "Trial 41 (knee) beats your best single checkpoint (math-2) by 0.034 [0.021, 0.047] in "
            "the scaled average with probability > 0.99, is worse than the best baseline (math-2) by "
            "0.012 [0.001, 0.025] (0.98), and the reference math-2 by 0.012 [0.001, 0.025] (0.98), "
            "on 9 to 12 test items per task.",
        ),
        (
            {
                "comparisons": (comparison("best single", 0.01, -0.02, 0.04, 0.71),),
                "items": (0, 0),
            },
            "Trial 41 (knee) is ahead of your best single checkpoint (math-2) by 0.010 "
            "[-0.020, 0.040] in the scaled average with probability 0.71.",
        ),
        (
            {
                "comparisons": (comparison("best single", -0.01, -0.04, 0.02, 0.29),),
                "split": "dev",
            },
            "Trial 41 (knee) is behind your best single checkpoint (math-2) by 0.010 "
            "[-0.020, 0.040] in the scaled average with probability 0.71, on 1000 dev items per task. "
            "Optimistic: the search saw these items.",
        ),
    ],
)
def test_the_sentence_claims_what_the_interval_allows(changes, sentence):
    made = {name: getattr(SAID, name) for name in SAID.__dataclass_fields__} | changes
    assert Verdict(**made).sentence == sentence
