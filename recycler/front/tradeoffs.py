"""Rank correlations, trade-offs, resolution and distances of checkpoints, on plain arrays.

Letters: n checkpoints, m tasks.

Reference: arXiv 2412.04144, § 5 and Fig. 4 (trade-offs are rank correlations below 0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Array

REAL = 0.9  # probability from which a trade-off or a dominance is called real
FEWEST = 3  # checkpoints that a rank correlation needs
ALIKE = 0.25  # distance of near-duplicates, as a share of the median distance of all pairs
KEPT, BURNED = 600, 100  # steps of Gibbs sampling
NEAR_BEST = 0.05  # distance to the best possible score below which a task is saturated


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Two or three tasks, and how far their rankings of the checkpoints disagree.

    Attributes:
        tasks: names of the tasks.
        correlation: rank correlation of a pair; of a triple the middle one of its three pairs: if it
            is below 0, each of the three tasks disagrees with at least one other.
        low: 2.5 % quantile of the correlation.
        high: 97.5 % quantile.
        probability: probability that the true correlation is below 0.
    """

    tasks: tuple[str, ...]
    correlation: float
    low: float
    high: float
    probability: float

    @property
    def real(self) -> bool:
        return self.probability >= REAL


@dataclass(frozen=True, slots=True)
class Resolution:
    """Whether a task's scores can tell the checkpoints apart.

    Attributes:
        spread: standard deviation of the checkpoints' scores, in the task's unit.
        error: the spread that equally good checkpoints would show, from paired errors.
        chance: probability of at least this spread among equally good checkpoints.
        factor: by how much the number of items must grow to show this spread, if it is real; infinite
            without any spread.
    """

    spread: float
    error: float
    chance: float
    factor: float

    @property
    def tells(self) -> bool:
        return self.chance < 0.05


def spearman(gains: Array) -> Array:
    """Spearman's rank correlation between columns; ties share the mean of their ranks.

    Args:
        gains: (..., n, m) one row for each checkpoint.

    Returns:
        (..., m, m); NaN where a column is constant.
    """
    ranks = ranked(gains)
    ranks = ranks - ranks.mean(axis=-2, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=-2, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(length > 0, ranks / length, np.nan)
    found: Array = np.clip(np.swapaxes(unit, -1, -2) @ unit, -1.0, 1.0)
    return found


def ranked(values: Array) -> Array:
    """Ranks from 1 along the last axis but one; equal values share the mean of their ranks."""
    values = np.moveaxis(values, -2, -1)
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    places = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    begins = np.ones(values.shape, dtype=bool)  # of a run of equal values
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ends = np.roll(begins, -1, axis=-1)
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=-1)
    last = np.where(ends, places, places.shape[-1])[..., ::-1]
    last = np.minimum.accumulate(last, axis=-1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    found: Array = np.moveaxis(ranks, -1, -2)
    return found


def plausible(gains: Array, draws: Array, seed: int = 0) -> Array:
    """Draws of what the true gains may be, given the scores and their errors.

    A bootstrap adds noise to scores that are noisy already, which pulls correlations towards 0: its
    95 % intervals held the true correlation in 63 to 99 % of simulated pools, these in 90 to 98 %.
    The model: the true gains of each checkpoint are one draw from a normal over the m tasks, whose
    covariance has an inverse Wishart prior under which every correlation is equally likely (Barnard,
    McCulloch & Meng 2000, Stat. Sinica 10). Errors are paired: what moves all checkpoints alike does
    not count. Gibbs sampling.

    Args:
        gains: (n, m) larger is better, n ≥ 2.
        draws: (draws, n, m) from `resampling.drawn_gains`.
        seed: random seed.

    Returns:
        (KEPT, n, m)
    """
    n, m = gains.shape
    rng, centre = np.random.default_rng(seed), gains.mean(axis=0)
    spread = gains.std(axis=0, ddof=1)
    unit = np.where(spread > 0, spread, 1.0)
    x = (gains - centre) / unit
    noise = (_errors(gains, draws) ** 2).mean(axis=0) * n / (n - 1)
    noise = np.maximum(noise / unit**2, 1e-9)  # (n, m)
    real = np.maximum(x.var(axis=0, ddof=1) - noise.mean(axis=0), 0.1 * noise.mean(axis=0))
    covariance, mean, kept = np.diag(real), np.zeros(m), []
    for step in range(-BURNED, KEPT):
        precision = np.linalg.inv(covariance) + np.eye(m) / noise[:, :, None]
        pull = np.linalg.solve(covariance, mean) + x / noise
        normal = rng.standard_normal((n, m, 1))
        root = np.swapaxes(np.linalg.cholesky(precision), 1, 2)
        true = np.linalg.solve(precision, pull[:, :, None]) + np.linalg.solve(root, normal)
        true = true[:, :, 0]
        mean = true.mean(axis=0)
        mean = mean + np.linalg.cholesky(covariance / n) @ rng.standard_normal(m)
        left = true - mean
        covariance = _inverse_wishart(n + m + 1, np.diag(real) + left.T @ left, rng)
        if step >= 0:
            kept.append(true)
    found: Array = centre + unit * np.array(kept)
    return found


def _inverse_wishart(freedom: int, scale: Array, rng: np.random.Generator) -> Array:
    """(m, m) draw from an inverse Wishart distribution, by Bartlett's decomposition."""
    m = len(scale)
    lower = np.tril(rng.standard_normal((m, m)), -1)
    lower[np.diag_indices(m)] = np.sqrt(rng.chisquare(freedom - np.arange(m)))
    root = np.linalg.cholesky(np.linalg.inv(scale)) @ lower
    drawn = np.linalg.inv(root @ root.T)
    symmetric: Array = (drawn + drawn.T) / 2
    return symmetric


def _errors(gains: Array, draws: Array) -> Array:
    """(draws, n, m) error of each draw, relative to the mean of all checkpoints."""
    off = draws - gains
    centred: Array = off - off.mean(axis=1, keepdims=True)
    return centred


def resolutions(gains: Array, draws: Array) -> list[Resolution]:
    """For each task, compare the spread of the checkpoints with that of errors alone.

    Args:
        gains: (n, m) larger is better, n ≥ 2.
        draws: (draws, n, m) from `resampling.drawn_gains`.
    """
    spread = gains.var(axis=0, ddof=1)
    errors = _errors(gains, draws).var(axis=1, ddof=1)  # (draws, m)
    needed = np.quantile(errors, 0.95, axis=0)
    return [
        Resolution(
            spread=float(np.sqrt(v)),
            error=float(np.sqrt(noise.mean())),
            chance=float((noise >= v).mean()),
            # errors shrink with 1 / items: the limit of chance must fall to the spread
            factor=float(limit / v) if v > 0 else np.inf,
        )
        for v, noise, limit in zip(spread, errors.T, needed, strict=True)
    ]


def tradeoffs(
    names: Sequence[str], correlations: Array, draws: Array, among: Sequence[int]
) -> list[Tradeoff]:
    """Return pairs and triples of tasks, strongest first: real ones, then by correlation.

    Args:
        names: names of the m tasks.
        correlations: (m, m) from `spearman`.
        draws: (draws, m, m) correlations of plausible gains.
        among: positions of the tasks that tell the checkpoints apart.
    """
    found = []
    for size in (2, 3):
        for group in combinations(among, size):
            pairs = list(combinations(group, 2))
            middle = float(np.median([correlations[pair] for pair in pairs]))
            drawn = np.median(np.stack([draws[:, i, j] for i, j in pairs]), axis=0)
            known = drawn[np.isfinite(drawn)]
            if not np.isfinite(middle) or not len(known):
                continue
            low, high = np.quantile(known, [0.025, 0.975])
            chance = float((drawn < 0).mean())  # false for NaN
            tasks = tuple(names[i] for i in group)
            found.append(Tradeoff(tasks, middle, float(low), float(high), chance))
    return sorted(found, key=lambda t: (not t.real, t.correlation, t.tasks))


def proposed(found: Sequence[Tradeoff]) -> Tradeoff | None:
    """Return the strongest real triple, else the strongest real pair; None if none is real."""
    real = [tradeoff for tradeoff in found if tradeoff.real]
    return next((t for t in real if len(t.tasks) == 3), next(iter(real), None))


def dominance(draws: Array) -> Array:
    """(n, n) probability that the column's checkpoint is at least as good as the row's at every task.

    Args:
        draws: (draws, n, m) plausible gains.
    """
    worse = draws[:, :, None] <= draws[:, None]  # (draws, row, column, m)
    better = draws[:, :, None] < draws[:, None]
    found: Array = (worse.all(axis=3) & better.any(axis=3)).mean(axis=0)
    return found


def beaten_by_all(gains: Array) -> list[int]:
    """Positions of checkpoints that every other checkpoint beats at every task; for n ≥ 3."""
    if len(gains) < 3:
        return []
    return [i for i in range(len(gains)) if (np.delete(gains, i, axis=0) > gains[i]).all()]


def distances(outcomes: Sequence[Mapping[str, Outcomes]], tasks: Sequence[str]) -> Array:
    """(n, n) how differently two checkpoints answer, in medians of all pairs.

    For each task: root mean square difference of the item outcomes over the median of that of all
    pairs; then the root mean square over tasks. Two checkpoints with equal outcomes on all items
    have distance 0. NaN if no task has items.
    """
    n, squares = len(outcomes), []
    upper = np.triu_indices(n, 1)
    for task in tasks:
        row = [known.get(task) for known in outcomes]
        if any(o is None or o.ids != row[0].ids for o in row):  # type: ignore[union-attr]
            continue
        values = np.array([o.values for o in row if o])
        apart = ((values[:, None] - values[None]) ** 2).mean(axis=2)
        typical = np.median(apart[upper])
        if typical > 0:
            squares.append(apart / typical)
        elif apart.any():  # most pairs are equal: the others differ as far as one can tell
            squares.append(np.where(apart > 0, 1.0, 0.0))
        else:
            squares.append(apart)
    if not squares:
        return np.full((n, n), np.nan)
    found: Array = np.sqrt(np.mean(squares, axis=0))
    return found


def near_duplicates(apart: Array) -> list[tuple[int, int]]:
    """Pairs of checkpoints whose answers are (almost) equal; closest first. See `distances`."""
    n = len(apart)
    limit = ALIKE if n > 2 else 0.0  # two checkpoints are their own typical pair
    pairs = [(i, j) for i, j in combinations(range(n), 2) if apart[i, j] <= limit]
    return sorted(pairs, key=lambda pair: (apart[pair], pair))


def best_possible(outcomes: Sequence[Outcomes | None], direction: str, unit: str) -> float | None:
    """Return the best possible score of a task: of shares 1, or 0 if less is better; else None."""
    values = [np.asarray(o.values) for o in outcomes if o is not None]
    if len(values) < len(outcomes) or not values:
        return None
    flat = np.concatenate(values)
    right_or_wrong = bool(np.isin(flat, (0.0, 1.0)).all())
    within = bool(((flat >= 0) & (flat <= 1)).all())
    known = right_or_wrong or (unit == "share" and within)
    return (1.0 if direction == "max" else 0.0) if known else None


def saturated(scores: Array, best: float | None) -> bool:
    """Whether at least half of the (n,) scores are within NEAR_BEST of the best possible one."""
    return best is not None and bool(np.median(np.abs(best - scores)) <= NEAR_BEST)


def at_chance(scores: Array, errors: Array, chance: float | None) -> bool:
    """Whether none of the (n,) scores is above chance by more than its error allows.

    The limit holds for all n scores together: with 2.5 % the best of n guessers exceeds it.
    """
    if chance is None:
        return False
    limit = NormalDist().inv_cdf(0.975 ** (1 / len(scores)))
    return bool((scores <= chance + limit * errors).all())
