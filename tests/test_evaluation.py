"""Means and standard errors of item outcomes, against closed forms."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from recycler.nouns.evaluation import Outcomes, Score

numbers = st.floats(-100, 100, allow_subnormal=False)


def outcomes(values, weights=(), clusters=()):
    return Outcomes(tuple(range(len(values))), tuple(values), tuple(weights), tuple(clusters))


def least(values, clusters=None):
    """The smallest standard error, from its definition: one item more, right or wrong."""
    low, high = min(values), max(values)
    touches = low >= 0 and high <= 1 and (low == 0 or high == 1)
    if low < high and not touches:
        return 0.0
    return (
        (1.0 if touches else max(abs(low), 1.0))
        / 2
        / (len(set(clusters or range(len(values)))) + 1)
    )


@pytest.mark.parametrize(("right", "items"), [(1, 2), (3, 10), (250, 1000)])
def test_error_of_an_accuracy_is_that_of_a_bernoulli_sample(right, items):
    p = right / items
    score = outcomes([1.0] * right + [0.0] * (items - right)).score()
    assert score.mean == pytest.approx(p, rel=1e-12)
    assert score.stderr == pytest.approx(np.sqrt(p * (1 - p) / (items - 1)), rel=1e-12)
    assert score.items == items


@settings(deadline=None)
@given(st.lists(numbers, min_size=2, max_size=30))
def test_without_weights_and_clusters_it_is_the_textbook_standard_error(values):
    score = outcomes(values).score()
    assert score.mean == pytest.approx(np.mean(values), abs=1e-9)
    expected = max(np.std(values, ddof=1) / np.sqrt(len(values)), least(values))
    assert score.stderr == pytest.approx(expected, abs=1e-9)


def test_weighted_mean_is_the_ratio_of_sums_with_the_linearized_error():
    # bits 8, 6 and 20 over 4, 4 and 8 bytes: 34/16; residuals bits - mean*bytes = -.5, -2.5, 3
    score = outcomes([2.0, 1.5, 2.5], [4.0, 4.0, 8.0]).score()
    assert score.mean == 34 / 16
    assert score.stderr == pytest.approx(np.sqrt(3 / 2 * (0.25 + 6.25 + 9.0)) / 16, rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(1, 9)), min_size=2, max_size=12), st.integers(2, 5))
def test_the_unit_of_the_weights_does_not_matter_and_equal_weights_are_none(pairs, unit):
    values, weights = zip(*pairs, strict=True)
    score = outcomes(values, weights).score()
    scaled = outcomes(values, [unit * weight for weight in weights]).score()
    assert (scaled.mean, scaled.stderr) == pytest.approx((score.mean, score.stderr), abs=1e-9)
    plain, equal = outcomes(values).score(), outcomes(values, [unit] * len(values)).score()
    assert (equal.mean, equal.stderr) == pytest.approx((plain.mean, plain.stderr), abs=1e-9)


@settings(deadline=None)
@given(st.lists(numbers, min_size=2, max_size=6), st.integers(1, 4))
def test_clusters_of_equal_size_count_as_their_block_means(means, size):
    # each block spreads around its mean by +-1, which a clustered error must not see
    spread = np.linspace(-1, 1, size) if size > 1 else np.zeros(1)
    values = np.concatenate([mean + spread for mean in means])
    labels = np.repeat(np.arange(len(means)) * 10 - 7, size)
    clustered = outcomes(values, clusters=labels).score()
    blocks = outcomes(means).score()
    assert clustered.mean == pytest.approx(blocks.mean, abs=1e-9)
    expected = max(np.std(means, ddof=1) / np.sqrt(len(means)), least(values, labels.tolist()))
    assert clustered.stderr == pytest.approx(expected, abs=1e-9)
    assert clustered.items == len(values)


def test_copies_of_an_item_in_its_cluster_do_not_shrink_the_error():
    once = outcomes([0.0, 1.0, 1.0]).score()
    copied = outcomes([0.0, 1.0, 1.0] * 50, clusters=[0, 1, 2] * 50).score()
    naive = outcomes([0.0, 1.0, 1.0] * 50).score()
    assert copied.stderr == pytest.approx(once.stderr, rel=1e-12)
    assert naive.stderr < once.stderr / 6


def test_clusters_of_one_item_each_are_no_clusters():
    values = [0.3, 0.1, 0.9, 0.4]
    assert outcomes(values, clusters=[9, -1, 4, 7]).score() == outcomes(values).score()


def test_order_of_items_does_not_matter():
    values, weights, clusters = [1.0, 2.0, 4.0, 8.0], [1.0, 3.0, 1.0, 2.0], [5, 1, 5, 2]
    order = [2, 0, 3, 1]
    moved = outcomes(*([part[i] for i in order] for part in (values, weights, clusters)))
    straight = outcomes(values, weights, clusters).score()
    assert (moved.score().mean, moved.score().stderr) == pytest.approx(
        (straight.mean, straight.stderr)
    )


def test_one_cluster_alone_has_the_spread_of_its_values():
    assert outcomes([0.0, 1.0], clusters=[3, 3]).score() == Score(0.5, 0.5, 2)
    assert outcomes([0.7, 0.9], clusters=[3, 3]).score().stderr == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "stderr"),
    [
        ([1.0] * 250, 1 / 502),  # 1.00 of 250
        ([0.0] * 250, 1 / 502),
        ([1.0], 1 / 4),
        ([100.0] * 10, 100 / 22),  # percent: the value itself is the span
        ([5.0], 5 / 4),
        ([0.7, 0.7], 1 / 6),
        ([1.0] * 40 + [1 - 1e-9], 1 / 84),  # nearly perfect F1 of each item
    ],
)
def test_perfect_scores_have_an_error_and_so_has_one_item(values, stderr):
    assert outcomes(values).score().stderr == pytest.approx(stderr, rel=1e-12)


@pytest.mark.parametrize("items", [1, 5, 250])
def test_the_error_of_a_perfect_share_is_wilsons_at_one_standard_error(items):
    low, high = wilson(items)
    assert outcomes([1.0] * items).score().stderr == pytest.approx((high - low) / 2, rel=1e-12)


def wilson(items, z=1.0):
    """The interval of scipy for `items` of `items`, at z standard errors."""
    found = binomtest(items, items).proportion_ci(2 * norm.cdf(z) - 1, method="wilson")
    return found.low, found.high


def test_clusters_that_are_all_right_count_once_each():
    assert outcomes([1.0] * 40, clusters=[i // 10 for i in range(40)]).score().stderr == 1 / 10


def test_a_linked_score_is_the_function_of_the_mean_with_the_delta_methods_error():
    """Against a bootstrap of exp(mean) by brute force."""
    rng = np.random.default_rng(0)
    nll = rng.gamma(4.0, 0.5, size=300)
    score = replace(outcomes(nll), link="exp").score()
    assert score.mean == pytest.approx(np.exp(nll.mean()), rel=1e-12)
    drawn = np.exp(rng.choice(nll, size=(4000, 300)).mean(axis=1))
    assert score.stderr == pytest.approx(drawn.std(), rel=0.05)


def test_parts_of_a_linked_score_are_joined_before_the_link():
    whole = Outcomes((0, 1, 2, 3), (1.0, 2.0, 3.0, 5.0), link="exp")
    first, rest = (
        Outcomes((0, 1), (1.0, 2.0), link="exp"),
        Outcomes((2, 3), (3.0, 5.0), link="exp"),
    )
    assert first.joined(rest) == whole


def test_the_error_covers_the_truth_as_often_as_a_normal_error_should():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):  # 40 clusters of 5 items that share an offset: mean 0, dependent
        values = np.repeat(rng.normal(size=40), 5) + rng.normal(size=200)
        score = outcomes(values, clusters=np.repeat(np.arange(40), 5)).score()
        hits += abs(score.mean) < 1.96 * score.stderr
    assert 0.91 <= hits / 400 <= 0.98


def test_labels_of_clusters_become_consecutive_indices():
    values, weights, clusters = outcomes([1.0, 2.0, 3.0], clusters=[40, -2, 40]).arrays()
    assert values.tolist() == [1.0, 2.0, 3.0]
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert clusters.tolist() == [1, 0, 1]


@pytest.mark.parametrize("part", ["values", "weights", "clusters"])
def test_each_part_has_one_entry_an_item(part):
    parts = {"values": (1.0, 2.0), "weights": (1.0, 1.0), "clusters": (0, 1)}
    with pytest.raises(AssertionError, match="one entry per item"):
        Outcomes(ids=(0, 1), **{**parts, part: (1.0,)})


def test_more_items_of_the_same_kind_shrink_the_error_by_the_root():
    errors = [outcomes([0.0, 1.0] * k).score().stderr for k in (10, 40, 160)]
    for larger, smaller in pairwise(errors):
        assert larger / smaller == pytest.approx(2.0, rel=0.05)
