"""The scale of averages, and the decision: what to take, including to keep what one has."""

from dataclasses import replace

import numpy as np
import pytest
from test_front import trial as merge
from test_verdict import items_around, outcomes, scored

import recycler
from recycler.front.decision import Choice, Decision, choose
from recycler.front.front import Front, Member
from recycler.front.results import Results
from recycler.front.scale import steps, words
from recycler.front.verdict import verdict
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Recipe
from recycler.store.sql import SqlStore

TWO = Objectives((Objective("speed", "value", "max"), Objective("loss", "value", "min")))


# --- the scale ---


def test_a_step_is_the_range_of_the_non_dominated_singles():
    gains = np.array([[4.0, 0.0], [2.0, 2.0], [0.0, 4.0], [-9.0, -9.0]])
    assert steps(TWO, gains).tolist() == [4.0, 4.0]  # the dominated one does not count


def test_one_broken_checkpoint_does_not_stretch_a_step():
    sound = np.array([[0.60, -1.00], [0.55, -0.97], [0.50, -0.93]])
    broken = np.array([[0.61, -1.93]])  # over-trained on the first, so it is non-dominated
    alone, both = steps(TWO, sound), steps(TWO, np.vstack((sound, broken)))
    assert both[1] == pytest.approx(2 * (0.985 - 0.93))  # twice from the best to the median
    assert both == pytest.approx(alone, rel=0.6)


def test_a_step_is_given_or_at_least_two_errors_or_one():
    given = Objectives((Objective("given", scale=0.25), Objective("noisy"), Objective("constant")))
    gains = np.array([[0.0, 0.50, 0.7], [0.9, 0.51, 0.7]])
    errors = np.full((2, 3), 0.02) * [1, 1, 0]
    assert steps(given, gains, errors).tolist() == [0.25, 0.04, 1.0]
    assert steps(given, np.empty((0, 3))).tolist() == [0.25, 1.0, 1.0]


def test_a_single_that_dominates_all_others_leaves_the_range_of_all():
    gains = np.array([[3.0, 3.0], [1.0, 2.0], [2.0, 1.0]])
    assert steps(TWO, gains).tolist() == [2.0, 2.0]


def test_the_scale_in_words():
    made = Objectives((Objective("prose", "bits_per_byte"), Objective("fmt", weight=2.0)))
    assert words(made, [0.07, 0.3]) == (
        "One step of the average: 0.07 bits/byte of prose = 0.3 of fmt (weight 2)."
    )


# --- the decision ---


def front_of(*members, **more):
    return Front(
        objectives=TWO,
        members=tuple(Member(m, 0.5) for m in members),
        basis="dev",
        certainty="dev",
        reference=None,
        **more,
    )


def single(number, speed, loss, kind="single"):
    made = replace(merge(number, speed, loss), kind=kind, name=f"{kind}:{number}")
    model = Recipe.of_model("production", f"f{number}", {})
    return replace(made, recipe=model) if kind == "reference" else made


ONE = np.ones(2)


def test_the_merge_with_the_best_expected_average_is_taken():
    made = front_of(merge(5, 9.0, 2.0), merge(6, 8.0, 0.5))
    choice = choose(made, [single(0, 7.0, 1.0)], {}, ONE)
    assert (choice.pick.number, choice.kept) == (6, False)
    luck = {5: np.array([9.0, -2.0]), 6: np.array([6.0, -1.5])}  # the surrogate does not believe 6
    assert choose(made, [single(0, 7.0, 1.0)], luck, ONE).pick.number == 5
    assert choose(made, [single(0, 7.0, 1.0)], {}, np.array([1.0, 0.1])).pick.number == 6


@pytest.mark.parametrize("kind", ["single", "reference"])
def test_a_model_that_no_merge_beats_is_kept(kind):
    made = front_of(merge(5, 9.0, 2.0))
    choice = choose(made, [single(0, 8.5, 1.0, kind), single(1, 1.0, 1.0)], {}, ONE)
    assert (choice.pick.number, choice.kept, choice.merge.number) == (0, True, 5)
    own = replace(merge(7, 8.9, 1.0), kind="reference")  # a recipe of one's own is a merge
    assert not choose(front_of(merge(5, 9.0, 2.0), own), [own], {}, ONE).kept
    tied = choose(made, [single(0, 8.0, 1.0, kind)], {}, ONE)
    assert tied.kept  # equal: the model that exists needs no merge


def test_models_below_a_floor_are_not_kept_unless_all_are_below():
    better = single(0, 12.0, 4.0)  # its loss is beyond the floor
    made = front_of(merge(5, 9.0, 2.0), floors=np.array([-np.inf, -3.0]))
    assert choose(made, [better], {}, ONE).pick.number == 5
    none = front_of(merge(5, 9.0, 3.5), floors=np.array([-np.inf, -3.0]))
    assert choose(none, [better], {}, ONE).pick.number == 0  # 12 - 4 > 9 - 3.5
    assert choose(front_of(), [better], {}, ONE) is None


def test_on_a_pool_whose_best_single_beats_every_merge_the_single_is_kept(tmp_path):
    centre = np.array([0.0, 1.0, 0.0, 0.0])  # the second checkpoint; all else is worse

    def scores(weights):
        far = float(((weights - centre) ** 2).sum())
        return [1.0 - far, 2.0 - 3 * far]

    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    recycler.search(scores, n=4, directions=["max"] * 2, evaluations=12, store=ledger, study="s")
    decision = Results.read(SqlStore(ledger), "s").decision
    assert decision.pick.name == "single:w1"
    assert decision.title == "Keep trial 1 (single:w1): no merge was expected to be better"
    assert decision.choice.merge is None  # it dominates all merges
    assert "is your best single checkpoint itself" in decision.verdict.sentence


@pytest.mark.parametrize(
    ("lead", "said"),
    [
        (0.5, "Take trial 5 (search 5)"),
        (0.0, "Take trial 5 (search 5); dev items can't tell it from single:0"),
        (-0.5, "Take trial 5 (search 5); on dev items single:0 is better"),
    ],
)
def test_the_title_says_what_the_items_say_against_the_choice(lead, said):
    rng = np.random.default_rng(0)
    pick = scored(5, "search 5", dev={"up": items_around(lead, rng.normal(size=100))})
    rival = scored(0, "single:0", "single", dev={"up": items_around(0.0, rng.normal(size=100))})
    one = Objectives((Objective("up", "value", "max"),))
    found = verdict(pick, "pick", [rival], one, np.ones(1), outcomes)
    choice = Choice(pick=pick, merge=pick, kept=False)
    made = Decision(choice=choice, verdict=found, scale="", feasible=True)
    assert made.title == said.replace("single:0", "0")
