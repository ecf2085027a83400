"""The Pareto front of a study: its members, the probability of each, and rules to pick one.

Letters: k members or trials, m objectives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from recycler.errors import InvalidConfig, NotFound
from recycler.front import pareto
from recycler.markup import html_table
from recycler.nouns.objectives import Array, Floor, Objective, Objectives
from recycler.nouns.trial import State, Trial

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Member:
    """A trial on the front, and the probability that it is truly non-dominated.

    The probability is None if the scores of an objective came without errors.
    """

    trial: Trial
    p_nondominated: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Members of the front, ordered by their gains in the first objective, best first.

    Attributes:
        objectives: the study's objectives.
        members: the front by the mean scores on `basis` items.
        basis: split that decided membership: `dev` until the re-check (optimistic: the search saw
            these items), then `select`. With racing, dev membership uses expected gains (see
            `front_rows`).
        certainty: split that `p_nondominated` was computed on.
        reference: (m,) fixed worst corner, as gains; None before the singles are scored.
        floors: (m,) smallest gains allowed on `basis` items; -inf where there is no floor.
        expected: (k, m) expected gains of the members (see `front.expectation`), used to pick
            one; None: the scores are used.
        steps: (m,) one step of each objective in averages (see `front.scale`); None: the range of
            the front.
    """

    objectives: Objectives
    members: tuple[Member, ...]
    basis: str
    certainty: str
    reference: Array | None
    floors: Array | None = None
    expected: Array | None = None
    steps: Array | None = None

    @property
    def trials(self) -> tuple[Trial, ...]:
        return tuple(member.trial for member in self.members)

    def gains(self, split: str) -> Array:
        """(k, m) gains of the members on a split; NaN where not evaluated."""
        return self.objectives.gains([trial.means(split) for trial in self.trials])

    @property
    def judged(self) -> Array:
        """(k, m) gains by which a member is picked: expected ones if known, else the scores."""
        return self.gains(self.basis) if self.expected is None else self.expected

    @property
    def feasible(self) -> bool:
        """Whether the members meet all floors. If no merge does, the front is that of all merges."""
        return bool(meeting(self.trials, self.objectives, self.basis, self.floors).all())

    def hypervolume(self, split: str) -> float | None:
        """Hypervolume above the reference on a split; None before that is known."""
        return volume(self.trials, self.objectives, self.reference, split)

    def knee(self) -> Trial:
        """Return the best balanced member by the front's own shape (see `pareto.knee`)."""
        self._require_members()
        return self.trials[pareto.knee(self.judged)]

    def prefer(self, weights: Mapping[str, float] | None = None) -> Trial:
        """Return the member with the largest weighted sum of gains, in steps of the scale.

        The default weights are those of the objectives.
        """
        self._require_members()
        if weights is None:
            weights = {o.name: o.weight for o in self.objectives.searched}
        self._require_known(weights)
        require_preference(weights)
        return self.trials[int(np.argmax(self._sums(weights)))]

    def _sums(self, weights: Mapping[str, float]) -> Array:
        """(k,) weighted sum of each member's gains, in steps of the scale."""
        span = np.ptp(self.judged, axis=0)
        steps = np.where(span > 0, span, 1.0) if self.steps is None else self.steps
        wanted = np.array([weights.get(o.name, 0.0) for o in self.objectives.searched])
        found: Array = (self.judged / steps) @ wanted
        return found

    def above(
        self, floors: Mapping[str, float], weights: Mapping[str, float] | None = None
    ) -> Trial:
        """Return the member with the best weighted average among those whose scores meet floors.

        Args:
            floors: objective -> worst score allowed, in its unit.
            weights: as for `prefer`.
        """
        self._require_members()
        self._require_known(floors)
        if weights is None:
            weights = {o.name: o.weight for o in self.objectives.searched}
        self._require_known(weights)
        require_preference(weights)
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
        sums = self._sums(weights)
        return self.trials[int(passing[np.argmax(sums[passing])])]

    def records(self) -> list[dict[str, Any]]:
        """One flat row for each member: the columns of `dataframe`."""
        names = sorted({name for trial in self.trials for name in trial.recipe.weights})
        rows = []
        for number, member in enumerate(self.members):
            trial = member.trial
            row: dict[str, Any] = {"trial": trial.number, "name": trial.name, "kind": trial.kind}
            row["p_nondominated"] = member.p_nondominated
            for objective in self.objectives:
                for split, evaluation in trial.evaluations.items():
                    score = evaluation.scores.get(objective.name)
                    row[f"{objective.name}.{split}"] = score.mean if score else None
                    row[f"{objective.name}.{split}.stderr"] = score.stderr if score else None
            if self.expected is not None:
                foreseen = self.objectives.raw(self.expected[number]).tolist()
                for objective, value in zip(self.objectives.searched, foreseen, strict=True):
                    row[f"{objective.name}.expected"] = value
            weights = zip(names, trial.recipe.vector(names), strict=True)
            rows.append({**row, **{f"weight.{name}": weight for name, weight in weights}})
        return rows

    def dataframe(self) -> "pandas.DataFrame":
        """The members as a table, best in the first objective first.

        Returns:
            One row for each member: trial, name, kind, p_nondominated in [0, 1],
            `<objective>.<split>` and `<objective>.<split>.stderr` in the unit of the objective,
            `<objective>.expected` (what the picks use, if known), and `weight.<checkpoint>` for each
            checkpoint that some member uses.
        """
        frame: pandas.DataFrame = import_module("pandas").DataFrame(self.records())
        return frame

    def _repr_html_(self) -> str:
        """The front in a notebook: number, name, scores with standard errors, probability."""
        split, shown = self.certainty, [*self.objectives]
        rows = []
        for member in self.members:
            scores = member.trial.evaluations[split].scores
            cells = [
                f"{scores[o.name].mean:.4g}"
                + (f" ± {scores[o.name].stderr:.2g}" if scores[o.name].stderr else "")
                if o.name in scores
                else None
                for o in shown
            ]
            rows.append((member.trial.number, member.trial.name, *cells, member.p_nondominated))
        head = [
            f"{o.name}{'*' if o.held_out else ''} {'↑' if o.direction == 'max' else '↓'}"
            for o in shown
        ]
        title = f"Front of {len(self.members)} merges on {split} items"
        return html_table(title, ("trial", "merge", *head, "p(front)"), rows)

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


def require_preference(weights: Mapping[str, float]) -> None:
    """Raise InvalidConfig unless all weights are finite, none is negative and one is above 0."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise InvalidConfig(
                f"the preference for {name!r} is {weight:g}, expected 0 or more.",
                hint="0 leaves an objective out.",
            )
    if not sum(weights.values()) > 0:
        raise InvalidConfig(
            "a preference needs at least one weight above 0.",
            hint="for example --prefer " + ",".join(f"{name}=1" for name in weights) + ".",
        )


def volume(
    trials: Sequence[Trial], objectives: Objectives, reference: Array | None, split: str
) -> float | None:
    """Hypervolume of the trials' gains on a split; None if one of them is not scored there."""
    gains = objectives.gains([trial.means(split) for trial in trials])
    if reference is None or not len(gains) or np.isnan(gains).any():
        return None
    return pareto.hypervolume(gains, reference)


def floor_gains(trials: Sequence[Trial], objectives: Objectives, split: str) -> Array:
    """(m,) smallest gain that each objective's floor allows on a split's items.

    -inf: no floor. +inf: the floor's baseline is not scored yet. NaN: that baseline failed.

    Args:
        trials: the ledger, with the baselines that floors are relative to.
        objectives: objectives of the study.
        split: dev, select or test.
    """
    return np.array([_floor_gain(trials, objectives, o, split) for o in objectives.searched])


def _floor_gain(
    trials: Sequence[Trial], objectives: Objectives, objective: Objective, split: str
) -> float:
    floor = objective.limit
    if floor is None:
        return -np.inf
    if not floor.baseline:
        return objective.sign * floor.score(0.0)
    named = _baselines(trials, objectives, floor)
    known = [trial.means(split).get(objective.name) for trial in named]
    scores = [score for score in known if score is not None]
    # a trial that failed on dev items gets no scores on other splits: do not wait for it
    awaited = [
        t
        for t in named
        if t.state == State.RUNNING or (t.state == State.COMPLETE and not t.means(split))
    ]
    if not named or awaited:
        return np.inf
    if not scores:
        return np.nan
    best = max(scores, key=lambda score: objective.sign * score)
    return objective.sign * floor.score(best)


def _baselines(trials: Sequence[Trial], objectives: Objectives, floor: Floor) -> list[Trial]:
    """Return the trials that a floor is relative to; none if they are not in the ledger yet."""
    singles = [trial for trial in trials if trial.kind == "single"]
    if floor.baseline == "best-single":
        return singles
    named = [trial for trial in trials if trial.name == floor.baseline and trial.is_baseline]
    if named or floor.baseline not in ("uniform", "merge-best"):
        return named
    # baselines that are the same merge are in the ledger only once, as the first of them
    if len(singles) == 1:
        return singles
    if floor.baseline == "merge-best" and singles:
        scored = [trial for trial in singles if trial.state == State.COMPLETE]
        gains = objectives.gains([trial.means("dev") for trial in scored])
        best = set(np.argmax(gains, axis=0).tolist()) if scored else set()
        if len(best) == 1:
            return [scored[best.pop()]]
        if len(best) == len(singles):
            return [trial for trial in trials if trial.kind == "uniform"]
    return []


def meeting(
    trials: Sequence[Trial], objectives: Objectives, split: str, floors: Array | None
) -> pareto.Mask:
    """(k,) which trials meet all floors on a split's items.

    Args:
        trials: k trials scored on the split.
        objectives: objectives of the study.
        split: dev, select or test.
        floors: (m,) from `floor_gains`, or None; a floor not known yet excludes no trial.
    """
    return _above(objectives.gains([trial.means(split) for trial in trials]), floors)


def _above(gains: Array, floors: Array | None) -> pareto.Mask:
    """(k,) which rows of (k, m) gains meet all floors; see `meeting`."""
    limits = np.full(gains.shape[1], -np.inf) if floors is None else floors
    limits = np.where(np.isfinite(limits), limits, -np.inf)
    met: pareto.Mask = np.all(gains >= limits, axis=1)
    return met


def feasible(
    trials: Sequence[Trial], objectives: Objectives, split: str, floors: Array | None
) -> list[Trial]:
    """Return the trials that meet all floors on a split; all of them if none does."""
    met = meeting(trials, objectives, split, floors)
    kept = [trial for trial, kept in zip(trials, met, strict=True) if kept]
    return kept or list(trials)


def front_rows(
    trials: Sequence[Trial],
    objectives: Objectives,
    split: str,
    floors: Array | None = None,
    expected: Mapping[int, Array] | None = None,
) -> list[Trial]:
    """Return the non-dominated trials on a split, among those that meet the floors.

    If none meets them, among all. Means decide. If racing pruned some trials, expected gains decide
    on dev items instead, where given: estimates from part of the items are mostly luck. Models that
    are no merges are left out.
    """
    merges = [trial for trial in trials if trial.is_merge]
    gains = objectives.gains([trial.means(split) for trial in merges])
    met = _above(gains, floors)
    allowed = np.flatnonzero(met if met.any() else np.ones(len(merges), dtype=bool))
    if expected and split == "dev" and any(trial.state == State.PRUNED for trial in trials):
        judged = np.array([expected[merges[row].number] for row in allowed])
    else:
        judged = gains[allowed]
    return [merges[row] for row in allowed[pareto.nondominated(judged)]]


def regrets(
    trials: Sequence[Trial], rivals: Sequence[Trial], objective: Objective, split: str
) -> Array:
    """(k,) distance of each trial to the best score of one objective, in its unit; 0 is best.

    Args:
        trials: k trials; NaN for one without a score.
        rivals: further trials that may hold the best score.
        objective: any objective of the study.
        split: dev, select or test.
    """

    def gains(of: Sequence[Trial]) -> Array:
        scores = [trial.means(split).get(objective.name, np.nan) for trial in of]
        return objective.sign * np.array(scores, dtype=np.float64)

    known = gains([*trials, *rivals])
    best = np.max(known, initial=-np.inf, where=np.isfinite(known))
    found: Array = best - gains(trials)
    return found
