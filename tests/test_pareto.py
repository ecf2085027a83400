"""Pareto arithmetic against closed forms and brute force."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recycler.front import pareto

# A coarse grid, so that ties and repeated rows are common; sums and products of it are exact.
GRID = st.integers(0, 5).map(float)
SHAPES = st.tuples(st.integers(0, 12), st.integers(1, 6))
property_test = settings(max_examples=120, deadline=None)


@st.composite
def point_sets(draw, elements=GRID, shapes=SHAPES):
    """(k, m) gains, frozen: whoever writes to them fails the test."""
    gains = draw(arrays(np.float64, draw(shapes), elements=elements))
    gains.setflags(write=False)
    return gains


def dominates(a, b):
    return bool((a >= b).all() and (a > b).any())


def front_by_definition(gains):
    return [
        bool(np.isfinite(row).all()) and not any(dominates(other, row) for other in gains)
        for row in gains
    ]


def volume_by_inclusion_exclusion(gains, reference):
    """The union of the boxes [reference, row], by the volumes of all intersections."""
    boxes = [row for row in gains if (row > reference).all()]
    return sum(
        (-1.0) ** (size + 1) * float(np.prod(np.min(some, axis=0) - reference))
        for size in range(1, len(boxes) + 1)
        for some in combinations(boxes, size)
    )


# --- nondominated ---


@property_test
@given(point_sets())
def test_front_is_what_the_definition_says(gains):
    assert pareto.nondominated(gains).tolist() == front_by_definition(gains)


@property_test
@given(point_sets(elements=st.one_of(GRID, st.just(np.nan))))
def test_a_row_with_nan_is_never_in_the_front_and_dominates_nothing(gains):
    whole = [row for row in gains if not np.isnan(row).any()]
    expected = [
        not np.isnan(row).any() and not any(dominates(other, row) for other in whole)
        for row in gains
    ]
    assert pareto.nondominated(gains).tolist() == expected


@property_test
@given(point_sets(), st.randoms(use_true_random=False))
def test_front_follows_its_rows_through_any_order(gains, random):
    order = list(range(len(gains)))
    random.shuffle(order)
    assert pareto.nondominated(gains[order]).tolist() == pareto.nondominated(gains)[order].tolist()


@property_test
@given(point_sets(shapes=st.tuples(st.integers(1, 10), st.integers(2, 4))))
def test_a_dominated_row_more_changes_no_other_entry(gains):
    worse = np.vstack([gains, gains[0] - 1.0])
    assert pareto.nondominated(worse).tolist() == [*pareto.nondominated(gains).tolist(), False]


def test_equal_rows_do_not_dominate_each_other():
    assert pareto.nondominated(np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 2.0]])).tolist() == [
        True,
        True,
        False,
    ]


def test_with_one_objective_the_front_is_every_row_at_the_maximum():
    assert pareto.nondominated(np.array([[1.0], [3.0], [2.0], [3.0]])).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_the_front_of_nothing_is_empty():
    assert pareto.nondominated(np.empty((0, 3))).shape == (0,)


# --- hypervolume ---


def test_volume_of_one_box_is_the_product_of_its_sides():
    assert pareto.hypervolume(np.array([[3.0, 5.0, 2.0]]), np.array([1.0, 1.0, 1.0])) == 2 * 4 * 1


def test_volume_of_two_boxes_counts_their_overlap_once():
    gains = np.array([[3.0, 1.0], [1.0, 2.0]])
    assert pareto.hypervolume(gains, np.zeros(2)) == 3 + 2 - 1


def test_volume_of_three_boxes_in_three_dimensions():
    # 2*2*1 thrice, less three pairwise overlaps of 2*1*1, plus the common unit cube
    gains = np.array([[2.0, 2.0, 1.0], [2.0, 1.0, 2.0], [1.0, 2.0, 2.0]])
    assert pareto.hypervolume(gains, np.zeros(3)) == 3 * 4 - 3 * 2 + 1


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_volume_of_a_staircase_is_the_square_less_its_upper_triangle(n):
    steps = np.arange(1.0, n + 1)
    stairs = np.column_stack([steps, n + 1 - steps])
    assert pareto.hypervolume(stairs, np.zeros(2)) == n**2 - n * (n - 1) / 2


@pytest.mark.parametrize("m", range(1, 7))
def test_volume_of_a_cube_and_a_rod_in_every_dimension(m):
    # the rod of length 2 and cross-section 1/2 leaves the unit cube on a length of 1
    rod = np.full(m, 0.5)
    rod[0] = 2.0
    volume = pareto.hypervolume(np.stack([np.ones(m), rod]), np.zeros(m))
    assert volume == pytest.approx(1.0 + 0.5 ** (m - 1), rel=1e-12)


@property_test
@given(point_sets(shapes=st.tuples(st.integers(0, 7), st.integers(1, 6))))
def test_volume_equals_inclusion_and_exclusion_of_the_boxes(gains):
    reference = np.full(gains.shape[1], 0.5)
    expected = volume_by_inclusion_exclusion(gains, reference)
    assert pareto.hypervolume(gains, reference) == pytest.approx(expected, abs=1e-9)


@property_test
@given(point_sets(shapes=st.tuples(st.integers(1, 12), st.integers(1, 5))))
def test_volume_never_falls_while_rows_come_in_above_a_fixed_reference(gains):
    reference = np.full(gains.shape[1], 1.0)
    volumes = [pareto.hypervolume(gains[:k], reference) for k in range(len(gains) + 1)]
    assert volumes[0] == 0.0
    assert all(before <= after + 1e-9 for before, after in pairwise(volumes))


@property_test
@given(point_sets(shapes=st.tuples(st.integers(1, 8), st.integers(1, 5))), st.integers(-9, 9))
def test_dominated_rows_row_order_and_a_common_shift_do_not_change_the_volume(gains, shift):
    reference = np.full(gains.shape[1], 0.5)
    volume = pareto.hypervolume(gains, reference)
    assert pareto.hypervolume(gains[pareto.nondominated(gains)], reference) == volume
    assert pareto.hypervolume(gains[::-1], reference) == pytest.approx(volume)
    assert pareto.hypervolume(gains + shift, reference + shift) == pytest.approx(volume)


def test_rows_on_or_below_the_reference_and_rows_with_nan_add_nothing():
    gains = np.array([[2.0, 3.0], [9.0, 1.0], [0.0, 9.0], [np.nan, 9.0]])
    assert pareto.hypervolume(gains, np.ones(2)) == 2.0


# --- covering ---


@property_test
@given(point_sets(shapes=st.tuples(st.integers(1, 8), st.integers(1, 3))), st.integers(1, 4))
def test_covering_keeps_near_the_largest_volume_that_so_many_rows_can_have(gains, size):
    reference = np.full(gains.shape[1], -1.0)
    rows = pareto.covering(gains, reference, size)
    best = max(
        pareto.hypervolume(gains[list(some)], reference)
        for some in combinations(range(len(gains)), min(size, len(gains)))
    )
    kept = pareto.hypervolume(gains[rows], reference)
    assert rows == sorted(set(rows))
    assert len(rows) == min(size, len(gains))
    assert (1 - 1 / np.e) * best - 1e-9 <= kept <= best + 1e-9  # Nemhauser et al. 1978
    if size == 1 or size >= len(gains):
        assert kept == pytest.approx(best)


def test_covering_takes_the_largest_box_then_what_adds_most_and_the_first_of_equals():
    gains = np.array([[1.0, 5.0], [4.0, 4.0], [4.0, 4.0], [5.0, 1.0], [5.0, 3.0]])
    assert pareto.covering(gains, np.zeros(2), 1) == [1]
    assert pareto.covering(gains, np.zeros(2), 2) == [1, 4]  # adds 3, the others 1, 1 and 0
    assert pareto.covering(gains, np.zeros(2), 3) == [0, 1, 4]
    assert pareto.covering(gains, np.zeros(2), 9) == [0, 1, 2, 3, 4]
    assert pareto.covering(np.empty((0, 2)), np.zeros(2), 3) == []


# --- worst corner and knee ---


@property_test
@given(point_sets(shapes=st.tuples(st.integers(1, 8), st.integers(1, 5))))
def test_worst_corner_lies_strictly_below_every_entry(gains):
    corner = pareto.worst_corner(gains)
    assert (corner < gains).all()
    assert pareto.hypervolume(gains, corner) > 0.0


def test_worst_corner_is_a_tenth_of_the_range_below_the_worst():
    gains = np.array([[0.0, 7.0, -30.0], [10.0, 7.0, -10.0]])
    assert pareto.worst_corner(gains) == pytest.approx([-1.0, 7.0 - 0.7, -32.0])
    assert pareto.worst_corner(np.array([[0.25]])) == pytest.approx([0.15])


def test_knee_is_the_bend_and_not_an_end_whatever_the_units():
    bent = np.array([[0.0, 1.0], [0.6, 0.9], [0.9, 0.2], [1.0, 0.0]])
    assert pareto.knee(bent) == 1
    assert pareto.knee(bent * [1000.0, 0.01] + [5.0, -3.0]) == 1
    assert pareto.knee(bent[::-1]) == 2


@property_test
@given(point_sets(shapes=st.tuples(st.integers(1, 8), st.integers(1, 4))))
def test_knee_is_farthest_from_the_plane_through_the_corners(gains):
    # distance of the scaled row y from the plane sum(y) = 1 with normal (1, .., 1)/sqrt(m)
    low, high = gains.min(axis=0), gains.max(axis=0)
    scaled = (gains - low) / np.where(high > low, high - low, 1.0)
    normal = np.ones(gains.shape[1]) / np.sqrt(gains.shape[1])
    corner = np.eye(gains.shape[1])[0]
    distances = [(row - corner) @ normal for row in scaled]
    assert distances[pareto.knee(gains)] == pytest.approx(max(distances))


def test_knee_of_equal_rows_is_the_first():
    assert pareto.knee(np.ones((3, 2))) == 0
    assert pareto.knee(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0


# --- bootstrap ---


def test_bootstrap_means_are_those_of_items_repeated_by_hand():
    rng = np.random.default_rng(3)
    clusters = np.array([0, 0, 1, 2, 2, 2, 3])
    values, weights = rng.random((2, 7)), rng.integers(1, 9, (2, 7)).astype(float)
    counts = pareto.draw_counts(4, 50, rng)
    means = pareto.bootstrap_means(values, weights, clusters, counts)
    for draw, drawn in enumerate(counts):
        items = np.concatenate(
            [np.flatnonzero(clusters == c) for c in np.repeat(np.arange(4), drawn)]
        )
        for k in range(2):
            by_hand = np.average(values[k, items], weights=weights[k, items])
            assert means[draw, k] == pytest.approx(by_hand, rel=1e-12)


def test_bootstrap_over_single_items_is_numpy_resampling():
    values = np.random.default_rng(0).random(30)
    picks = np.random.default_rng(1).integers(0, 30, (20, 30))
    counts = np.stack([np.bincount(row, minlength=30) for row in picks])
    means = pareto.bootstrap_means(values[None], np.ones((1, 30)), np.arange(30), counts)
    assert means[:, 0] == pytest.approx(values[picks].mean(axis=1), rel=1e-12)


def test_bootstrap_pairs_candidates_so_that_a_constant_lead_is_never_lost():
    rng = np.random.default_rng(2)
    easy = rng.random(40)
    values = np.stack([easy, easy + 1e-6])
    counts = pareto.draw_counts(40, 200, rng)
    means = pareto.bootstrap_means(values, np.ones((2, 40)), np.arange(40), counts)
    assert (means[:, 1] > means[:, 0]).all()


def test_draws_resample_as_many_clusters_as_there_are_each_as_likely():
    counts = pareto.draw_counts(8, 4000, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 8).all()
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=0.08)  # five standard errors
    assert counts.var(axis=0) == pytest.approx(1 - 1 / 8, abs=0.15)


# --- share of draws on the front ---


def test_share_nondominated_counts_the_draws_in_which_nobody_is_better():
    draws = np.array(
        [
            [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]],  # a and b
            [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]],  # a
            [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],  # all: equals do not dominate
            [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]],  # b and c
        ]
    )
    assert pareto.share_nondominated(draws).tolist() == [0.75, 0.75, 0.5]


def test_share_nondominated_of_all_orders_of_three_scores_is_a_third_each():
    draws = np.array([np.array(order, float)[:, None] for order in product([0, 1, 2], repeat=3)])
    distinct = draws[[len(set(draw.ravel())) == 3 for draw in draws]]
    assert pareto.share_nondominated(distinct) == pytest.approx([1 / 3] * 3)


# --- neighbours and what is still to come ---


@property_test
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=7))
def test_neighbours_on_a_front_of_two_objectives_follow_one_another(steps):
    x = np.cumsum([step + 1 for step, _ in steps])
    y = -np.cumsum([step for _, step in steps])
    front = np.stack([x, y], axis=1).astype(float)
    order = np.random.default_rng(len(steps)).permutation(len(front))
    pairs = pareto.neighbours(front[order])
    expected = {frozenset((k, k + 1)) for k in range(len(front) - 1)}
    assert {frozenset((int(order[i]), int(order[j]))) for i, j, _ in pairs} == expected
    gaps = [gap for *_, gap in pairs]
    assert gaps == sorted(gaps, reverse=True)


def test_neighbours_of_three_objectives_by_hand():
    # three corners of a triangle with sides 5, 4, 3: the longest has the third row nearer to both
    corners = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [4.0, 3.0, 0.0]])
    assert pareto.neighbours(corners) == [(0, 1, 4.0), (1, 2, 3.0)]
    even = np.eye(3)  # equal sides: all are neighbours
    assert [(i, j) for i, j, _ in pareto.neighbours(even)] == [(0, 1), (0, 2), (1, 2)]
    assert pareto.neighbours(np.zeros((1, 3))) == []


@pytest.mark.parametrize(("evaluations", "window"), [(10, 10), (50, 15), (400, 120)])
def test_gains_that_fall_as_one_over_t_are_foretold_exactly(evaluations, window):
    volume = lambda t: 2.0 + 0.3 * sum(1.0 / i for i in range(1, t + 1))  # noqa: E731
    told = pareto.expected_gain(
        volume(evaluations - window), volume(evaluations), evaluations, window, 10
    )
    assert told == pytest.approx(volume(evaluations + 10) - volume(evaluations), rel=1e-9)


def test_a_steady_gain_is_foretold_with_less_than_its_mean_and_none_with_none():
    told = pareto.expected_gain(1.0, 2.5, 50, 15, 10)  # 0.1 a step
    assert 0.7 * 10 * 0.1 < told < 10 * 0.1
    assert pareto.expected_gain(2.0, 2.0, 50, 15, 10) == 0.0


def test_by_volume_puts_first_what_adds_most():
    gains = np.array([[1.0, 5.0], [4.0, 4.0], [4.0, 4.0], [5.0, 1.0], [5.0, 3.0]])
    assert pareto.by_volume(gains, np.zeros(2), 3) == [1, 4, 0]
    assert sorted(pareto.by_volume(gains, np.zeros(2), 9)) == [0, 1, 2, 3, 4]
