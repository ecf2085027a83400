"""Pareto sets on plain arrays: dominance, hypervolume, knee, bootstrap.

Letters in shapes (the same in the whole package):
    n  checkpoints in the pool        k  points (trials) in a set
    m  objectives                     w  a point of the simplex, (n,)

Orientation: in every array called `gains`, larger is better. `Objectives.gains` makes them from raw
scores, which keep their own direction and unit.
Reference: Zitzler & Thiele 1998 (hypervolume); Das 1999 (knee); Miller 2024, arXiv 2411.00640
(clustered and paired errors of evaluations).
"""

import moocore
import numpy as np
from numpy.typing import NDArray

from recycler.nouns.objectives import Array

Mask = NDArray[np.bool_]


def nondominated(gains: Array) -> Mask:
    """Which rows no other row dominates; equal rows do not dominate each other.

    Args:
        gains: (k, m) larger is better; k may be 0. Rows with NaN or infinity are never members.

    Returns:
        (k,) True for members of the front.

    Invariants: row order does not matter; adding a dominated row changes no other entry.
    """
    finite = np.isfinite(gains).all(axis=1)
    front = np.zeros(len(gains), dtype=bool)
    if finite.any():
        kept = moocore.is_nondominated(gains[finite], maximise=True, keep_weakly=True)
        front[finite] = kept
    return front


def by_rank(gains: Array, most: int) -> list[int]:
    """Row numbers by non-dominated rank: the front, then the front of the others, and so on.

    Within a rank, rows with the larger mean of gains, each column in units of its range, come first;
    ties: first row.

    Args:
        gains: (k, m) larger is better. Rows with NaN or infinity have no rank.
        most: number of rows to return, if there are as many.
    """
    left, chosen = np.flatnonzero(np.isfinite(gains).all(axis=1)), list[int]()
    span = np.ptp(gains[left], axis=0) if len(left) else np.ones(gains.shape[1])
    average = (gains / np.where(span > 0, span, 1.0)).mean(axis=1)
    while len(left) and len(chosen) < most:
        front = nondominated(gains[left])
        rank = left[front]
        chosen += rank[np.argsort(-average[rank], kind="stable")].tolist()
        left = left[~front]
    return chosen[:most]


def hypervolume(gains: Array, reference: Array) -> float:
    """Volume dominated by a set of points above a reference point.

    Args:
        gains: (k, m) larger is better; k may be 0. Rows with NaN add nothing.
        reference: (m,) worst corner; rows not above it in every column add nothing.

    Returns:
        The volume, in the product of the objectives' units.

    Invariants: row order does not matter; a dominated or repeated row adds nothing; adding a row
    never shrinks it; moving all rows and the reference together changes nothing.
    """
    above = gains[(gains > reference).all(axis=1)]
    if not len(above):
        return 0.0
    return float(moocore.hypervolume(above, ref=reference, maximise=True))


def contributions(gains: Array, reference: Array) -> Array:
    """(k,) volume that the front of some rows would lose with each of them; 0 for all but members.

    Rows that the front dominates do not count, also where they would take a lost member's place.

    Args:
        gains: (k, m) larger is better.
        reference: (m,) worst corner.
    """
    added = np.zeros(len(gains))
    members = np.flatnonzero(nondominated(gains) & (gains > reference).all(axis=1))
    front = gains[members]
    for place, row in enumerate(front):
        # what the others cover of its box: few of them reach in, so this is fast for many rows
        covered = np.minimum(np.delete(front, place, axis=0), row)
        kept = covered[nondominated(covered)]
        added[members[place]] = np.prod(row - reference) - hypervolume(kept, reference)
    found: Array = np.maximum(added, 0.0)
    return found


def covering(gains: Array, reference: Array, size: int) -> list[int]:
    """Choose at most `size` rows greedily by the hypervolume they add; ties: first row.

    Args:
        gains: (k, m) larger is better.
        reference: (m,) the worst corner.
        size: number of rows to keep; all rows if k <= size.

    Returns:
        Row numbers, ascending.
    """
    if len(gains) <= size:
        return list(range(len(gains)))
    return sorted(by_volume(gains, reference, size))


def by_volume(gains: Array, reference: Array, size: int) -> list[int]:
    """Row numbers in greedy order: each adds most hypervolume to those before; ties: first row.

    Args:
        gains: (k, m) larger is better.
        reference: (m,) the worst corner.
        size: number of rows to return.
    """
    left, chosen = list(range(len(gains))), list[int]()
    while left and len(chosen) < size:
        volumes = [hypervolume(gains[[*chosen, row]], reference) for row in left]
        chosen.append(left.pop(int(np.argmax(volumes))))
    return chosen


def neighbours(gains: Array) -> list[tuple[int, int, float]]:
    """Pairs of rows with no third row between them, and their distance; largest gap first.

    A row lies between two others if it is nearer to each of them than they are to each other (the
    relative neighbourhood graph, Toussaint 1980). With two objectives, these are the adjacent rows of
    the front.

    Args:
        gains: (k, m) the front, larger is better, each column in steps of its own scale.

    Returns:
        (row, row, distance) with the smaller row first; equal gaps are ordered by row.
    """
    apart = np.linalg.norm(gains[:, None] - gains[None], axis=2)
    pairs = []
    for i, j in zip(*np.triu_indices(len(gains), 1), strict=True):
        nearest = np.delete(np.maximum(apart[i], apart[j]), [i, j]).min(initial=np.inf)
        if not nearest < apart[i, j]:
            pairs.append((int(i), int(j), float(apart[i, j])))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def expected_gain(before: float, now: float, evaluations: int, window: int, ahead: int) -> float:
    """Hypervolume that further evaluations are expected to add, extrapolated from the last ones.

    If the t-th evaluation of a search adds c/t, the next `ahead` evaluations add

        (now - before) · (H(K + ahead) - H(K)) / (H(K) - H(K - window))

    where K is the number of evaluations so far and H(t) the t-th harmonic number.

    Args:
        before: volume before the window.
        now: volume after the window.
        evaluations: K ≥ 1, evaluations of the search so far.
        window: number of last evaluations in the window, 1 to K.
        ahead: number of evaluations to extrapolate over.

    Returns:
        In the unit of the volumes.
    """
    steps = 1.0 / np.arange(1, evaluations + ahead + 1)
    past = steps[evaluations - window : evaluations].sum()
    return float((now - before) * steps[evaluations:].sum() / past)


def worst_corner(gains: Array, margin: float = 0.1) -> Array:
    """Reference point just below every row: column minimum less `margin` of the column's range.

    Args:
        gains: (k, m) larger is better, k >= 1.
        margin: share of each column's range, unitless.

    Returns:
        (m,) strictly below every row, even if a column is constant.
    """
    low, high = gains.min(axis=0), gains.max(axis=0)
    span = np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))
    corner: Array = low - margin * span
    return corner


def knee(gains: Array) -> int:
    """Row with the best balanced gains: the farthest above the plane through the front's corners.

    Each column is scaled to [0, 1] over the front; the distance to the plane through the corners
    (1,0,..), (0,1,..) is then the plain sum of the scaled gains (Das 1999). Ties: first row.

    Args:
        gains: (k, m) the front, larger is better, k >= 1.
    """
    low, high = gains.min(axis=0), gains.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return int(np.argmax(((gains - low) / span).sum(axis=1)))


def bootstrap_means(
    values: Array, weights: Array, clusters: NDArray[np.int64], counts: NDArray[np.int64]
) -> Array:
    """Bootstrap means of k candidates on the same resampled clusters of items (paired).

    Args:
        values: (k, items) outcome of each item for each candidate, in the metric's unit.
        weights: (k, items) weight of each item in the mean (bytes for bits per byte, else 1).
        clusters: (items,) cluster index 0..c-1 of each item.
        counts: (draws, c) number of times each cluster was drawn.

    Returns:
        (draws, k) weighted mean of each candidate in each draw, in the metric's unit.
    """
    drawn = counts[:, clusters].astype(np.float64)  # (draws, items)
    # items mostly weigh the same in all candidates: one column instead of k
    totals = weights[:1] if (weights == weights[:1]).all() else weights
    means: Array = drawn @ (values * weights).T
    means /= drawn @ totals.T
    return means


def draw_counts(clusters: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(draws, clusters) multinomial counts of a bootstrap over clusters."""
    return rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=draws)


def share_nondominated(draws: NDArray[np.float64]) -> Array:
    """Share of joint draws of all gains in which each candidate is non-dominated.

    Args:
        draws: (draws, k, m) larger is better.

    Returns:
        (k,) probability in [0, 1].
    """
    shares: Array = np.mean([nondominated(draw) for draw in draws], axis=0, dtype=np.float64)
    return shares
