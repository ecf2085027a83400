"""Bootstrap draws of the gains of merges, and the probability that each is truly non-dominated.

Letters: k candidates, m objectives.
Reference: Miller 2024, arXiv 2411.00640 (paired, clustered differences).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recycler.front import pareto
from recycler.nouns.evaluation import Outcomes, Score
from recycler.nouns.objectives import Array, Objectives
from recycler.nouns.trial import Trial

DRAWS = 2000  # bootstrap draws per probability
CROWD = 500  # most merges among which a probability is computed with all draws
_CHUNK = 250  # draws that are moved at a time
FEWEST = 200  # least draws among more of them


def probabilities(
    outcomes: Sequence[Mapping[str, Outcomes]],
    scores: Sequence[Mapping[str, Score]],
    objectives: Objectives,
    seed: int = 0,
) -> Array:
    """(k,) probability in [0, 1] that each of k candidates is non-dominated among them.

    See `drawn_gains` for the arguments and the bootstrap. Among more than CROWD candidates there are
    fewer draws, at least FEWEST, so that memory stays bounded.
    """
    k = len(outcomes)
    draws = DRAWS if k <= CROWD else max(FEWEST, DRAWS * CROWD // k)
    return pareto.share_nondominated(drawn_gains(outcomes, scores, objectives, seed, draws))


def contenders(
    trials: Sequence[Trial], members: Sequence[Trial], objectives: Objectives, split: str
) -> list[Trial]:
    """The trials among which the probabilities of a front's members are computed.

    All, if they are at most CROWD. Of more, the members and, by their scores, the next non-dominated
    ranks, CROWD in all. So a probability may be too high, by what the others would take from it: in
    bench/LOG.md by 0.0001 on average, which is less than the error of the draws.

    Args:
        trials: the merges scored on the split.
        members: those whose probability is asked for.
        objectives: objectives of the study.
        split: dev, select or test.
    """
    if len(trials) <= CROWD:
        return list(trials)
    chosen = {trial.number for trial in members}
    gains = objectives.gains([trial.means(split) for trial in trials])
    for row in pareto.by_rank(gains, CROWD):
        if len(chosen) >= CROWD:
            break
        chosen.add(trials[row].number)
    return [trial for trial in trials if trial.number in chosen]


def drawn_gains(
    outcomes: Sequence[Mapping[str, Outcomes]],
    scores: Sequence[Mapping[str, Score]],
    objectives: Objectives,
    seed: int = 0,
    count: int = DRAWS,
) -> Array:
    """Draw gains of k candidates on other items of the same tasks, by paired cluster bootstrap.

    Each draw resamples the clusters of a task once, for all candidates together. A candidate
    without outcomes on all items is drawn from a normal with its standard error. If racing pruned
    it, that normal is centred on its score plus the mean deviation of the others in that draw.

    A mean is also moved by its `Outcomes.least_error`, up or down with equal probability and
    independently per candidate, as one unseen item would move it. Candidates with equal outcomes on
    all items of all objectives move together.

    Args:
        outcomes: k mappings from objective to item outcomes on one split.
        scores: k mappings from objective to score on the same split.
        objectives: objectives of the study; only the searched ones are drawn.
        seed: random seed of the bootstrap.
        count: number of draws.

    Returns:
        (count, k, m) larger is better.
    """
    rng, extra = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    rows = [tuple(row.get(o.name) for o in objectives.searched) for row in outcomes]
    first: dict[tuple[Outcomes | None, ...], int] = {}
    twins = np.array([first.setdefault(row, k) if any(row) else k for k, row in enumerate(rows)])
    gains = np.empty((count, len(rows), objectives.m))
    drawn: dict[tuple[str, int], Any] = {}  # metrics of one task share their items' draws
    for j, objective in enumerate(objectives.searched):
        items = [row[j] for row in rows]
        known = [row[objective.name] for row in scores]
        ids = max((item.ids for item in items if item), key=len, default=())
        whole = np.array([item is not None and item.ids == ids for item in items])
        begun = [bool(item and item.ids == ids[: len(item.ids)]) for item in items]
        if whole.any():
            arrays = [item.arrays() for item in items if item and item.ids == ids]
            clusters = arrays[0][2]
            key = (objective.task, int(clusters.max()) + 1)
            if key not in drawn:
                drawn[key] = pareto.draw_counts(key[1], count, rng)
            paired = pareto.bootstrap_means(
                np.stack([a[0] for a in arrays]),
                np.stack([a[1] for a in arrays]),
                clusters,
                drawn[key],
            )
            one = next(item for item in items if item and item.ids == ids)
            unseen = np.array([i.least_error() for i in items if i and i.ids == ids])
            for start in range(0, count, _CHUNK):  # the arrays of all draws would be large
                part = paired[start : start + _CHUNK]
                moves = extra.choice([-1.0, 1.0], size=(len(part), len(rows)))
                part += unseen * moves[:, twins[whole]]
            paired = one.linked(paired)
            if whole.all():
                gains[:, :, j] = objective.sign * paired
                continue
        means = np.tile([score.mean for score in known], (count, 1))
        if whole.any():
            means += (paired - means[:, whole]).mean(axis=1, keepdims=True) * begun
            means[:, whole] = paired
        errors = np.array([score.stderr for score in known])
        means += np.where(whole, 0.0, errors) * rng.standard_normal(means.shape)
        gains[:, :, j] = objective.sign * means
    return gains
