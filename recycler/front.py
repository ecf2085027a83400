"""The Pareto front of a study: its members, how sure they are, and how to pick one.

Letters: k members, m objectives. May import: errors, pareto, objectives, evaluation, trial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycler import pareto
from recycler.errors import InvalidConfig, NotFound
from recycler.evaluation import Outcomes, Score
from recycler.objectives import Array, Objectives
from recycler.trial import Trial

DRAWS = 2000  # bootstrap draws behind each probability


@dataclass(frozen=True, slots=True)
class Member:
    """A trial on the front and the probability that it truly is non-dominated."""

    trial: Trial
    p_nondominated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Members of the front, ordered by their gains in the first objective, best first.

    Attributes:
        objectives: what was searched.
        members: the front by the point estimates on `basis` items.
        basis: split whose items decided the membership: `dev` while the search runs (optimistic:
            the search saw them), `select` after the re-check.
        certainty: split whose items gave `p_nondominated`.
        reference: (m,) fixed worst corner, as gains; None before the singles are known.
    """

    objectives: Objectives
    members: tuple[Member, ...]
    basis: str
    certainty: str
    reference: Array | None

    @property
    def trials(self) -> tuple[Trial, ...]:
        return tuple(member.trial for member in self.members)

    def gains(self, split: str) -> Array:
        """(k, m) gains of the members on a split; NaN where not evaluated."""
        return self.objectives.gains([trial.means(split) for trial in self.trials])

    def hypervolume(self, split: str) -> float | None:
        """Volume above the fixed reference on a split; None before it is known."""
        return volume(self.trials, self.objectives, self.reference, split)

    def knee(self) -> Trial:
        """The best balanced member (see `pareto.knee`)."""
        self._require_members()
        return self.trials[pareto.knee(self.gains(self.basis))]

    def prefer(self, weights: Mapping[str, float]) -> Trial:
        """The member with the largest weighted sum of gains, each scaled to the front's range."""
        self._require_members()
        gains = self.gains(self.basis)
        span = np.ptp(gains, axis=0)
        wanted = np.array([weights.get(o.name, 0.0) for o in self.objectives.searched])
        self._require_known(weights)
        return self.trials[int(np.argmax((gains / np.where(span > 0, span, 1.0)) @ wanted))]

    def floor(self, floors: Mapping[str, float]) -> Trial:
        """The knee among the members whose raw scores are at least as good as all floors."""
        self._require_members()
        self._require_known(floors)
        gains = self.gains(self.basis)
        limits = np.array(
            [
                objective.sign * floors[objective.name] if objective.name in floors else -np.inf
                for objective in self.objectives.searched
            ]
        )
        passing = np.flatnonzero((gains >= limits).all(axis=1))
        if not len(passing):
            best = {
                o.name: o.sign * g
                for o, g in zip(self.objectives.searched, gains.max(0), strict=True)
            }
            raise NotFound(
                f"no member of the front meets {dict(floors)} on {self.basis} items.",
                hint="the best of each objective is "
                + ", ".join(f"{name} {value:.4g}" for name, value in best.items())
                + "; loosen a floor.",
            )
        return self.trials[int(passing[pareto.knee(gains[passing])])]

    def _require_members(self) -> None:
        if not self.members:
            raise NotFound(
                "the front is empty: nothing was evaluated yet.", hint="run the study first."
            )

    def _require_known(self, names: Mapping[str, float]) -> None:
        known = [objective.name for objective in self.objectives.searched]
        for name in names:
            if name not in known:
                raise InvalidConfig(
                    f"{name!r} is not an objective of the search.", hint=f"use {', '.join(known)}."
                )


def volume(
    trials: Sequence[Trial], objectives: Objectives, reference: Array | None, split: str
) -> float | None:
    """Hypervolume of some trials' gains on a split; None where one of them has none."""
    gains = objectives.gains([trial.means(split) for trial in trials])
    if reference is None or not len(gains) or np.isnan(gains).any():
        return None
    return pareto.hypervolume(gains, reference)


def front_rows(trials: Sequence[Trial], objectives: Objectives, split: str) -> list[Trial]:
    """The trials that are non-dominated by their means on a split."""
    gains = objectives.gains([trial.means(split) for trial in trials])
    keep = pareto.nondominated(gains)
    return [trial for trial, kept in zip(trials, keep, strict=True) if kept]


def probabilities(
    outcomes: Sequence[Mapping[str, Outcomes]],
    scores: Sequence[Mapping[str, Score]],
    objectives: Objectives,
    seed: int = 0,
) -> Array:
    """Probability of each of k candidates to be non-dominated among all of them.

    Items are resampled once a task and draw for all candidates together (paired), by cluster.
    Where a candidate has no item outcomes, its means are drawn from normals with its stderr.

    Args:
        outcomes: k mappings from objective to item outcomes on one split.
        scores: k mappings from objective to score on the same split.
        objectives: only the searched ones count.
        seed: seed of the bootstrap.

    Returns:
        (k,) in [0, 1].
    """
    rng = np.random.default_rng(seed)
    columns = []
    drawn: dict[tuple[str, int], Any] = {}  # metrics of one task share their items' draws
    for objective in objectives.searched:
        items = [row.get(objective.name) for row in outcomes]
        ids = {item.ids if item else () for item in items}
        if len(ids) == 1 and ids != {()}:
            arrays = [item.arrays() for item in items if item]
            clusters = arrays[0][2]
            key = (objective.task, int(clusters.max()) + 1)
            if key not in drawn:
                drawn[key] = pareto.draw_counts(key[1], DRAWS, rng)
            means = pareto.bootstrap_means(
                np.stack([a[0] for a in arrays]),
                np.stack([a[1] for a in arrays]),
                clusters,
                drawn[key],
            )
        else:
            known = [row[objective.name] for row in scores]
            means = rng.normal(
                [s.mean for s in known], [s.stderr for s in known], (DRAWS, len(known))
            )
        columns.append(objective.sign * means)
    return pareto.share_nondominated(np.stack(columns, axis=2))
