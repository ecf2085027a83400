"""Paired differences: closed forms, held-out objectives, and words that say no more than is known."""

import numpy as np
import pytest
from test_verdict import items_around, outcomes, scored

from recycler.front.paired import common_split, differences
from recycler.nouns.evaluation import Score
from recycler.nouns.objectives import Objective, Objectives

THREE = Objectives(
    (
        Objective("up", "value", "max"),
        Objective("kept", "value", "max", held_out=True),
        Objective("down", "value", "min"),
    )
)


def test_a_difference_follows_its_normal_law_and_positive_is_better_in_both_directions():
    rng = np.random.default_rng(3)
    easy, jitter = rng.normal(size=400), rng.normal(size=400)
    lead = {"up": items_around(0.3, easy + jitter), "down": items_around(0.2, easy + jitter)}
    lag = {"up": items_around(0.1, easy), "down": items_around(0.5, easy)}
    extra = {"kept": items_around(0.0, easy)}
    pick, rival = scored(5, "search 1", test=lead | extra), scored(0, "single:a", test=lag | extra)
    up, down, kept = differences(pick, [rival], THREE, "test", outcomes)
    error = jitter.std() / np.sqrt(400)
    for found, size in ((up, 0.2), (down, 0.3)):
        assert found.difference == pytest.approx(size)
        low, high = found.interval
        assert (low + high) / 2 == pytest.approx(size, abs=0.1 * error)
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08)
        assert found.word == "better"
    assert kept.objective.held_out
    assert kept.difference == 0.0


def test_words():
    same = scored(1, "search 1", test={"up": items_around(0.5, np.arange(50.0))})
    twin = scored(2, "search 2", test={"up": items_around(0.5, np.arange(50.0))})
    bare = scored(3, "search 3", test={"up": Score(0.9, 0.0, 0)})
    bare_too = scored(4, "search 4", test={"up": Score(0.1, 0.0, 0)})
    one = Objectives((Objective("up", "value", "max"),))
    assert differences(same, [twin], one, "test", outcomes)[0].word == "equal"
    unknown = differences(bare, [bare_too], one, "test", outcomes)[0]
    assert (unknown.word, unknown.interval, unknown.difference) == ("can't tell", None, 0.8)
    exact = Objectives((Objective("size", "merge.nonzero"),))
    few = scored(5, "search 5", test={"size": Score(2.0, 0.0, 0)})
    many = scored(6, "search 6", test={"size": Score(5.0, 0.0, 0)})
    assert differences(few, [many], exact, "test", outcomes)[0].word == "better"
    assert differences(many, [few], exact, "test", outcomes)[0].word == "worse"


def test_the_most_honest_common_split():
    score = {"up": Score(0.5, 0.1, 10)}
    full = scored(1, "a", dev=score, select=score, test=score)
    part = scored(2, "b", dev=score, select=score)
    assert common_split([full]) == "test"
    assert common_split([full, part]) == "select"
    assert common_split([full, scored(3, "c")]) == ""
