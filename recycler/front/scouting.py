"""Scouting: what the single checkpoints' scores say about tasks and checkpoints before a search.

Letters: n checkpoints, m tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recycler.errors import StudyFailed
from recycler.front import baselines
from recycler.front.resampling import drawn_gains
from recycler.front.results import Results
from recycler.front.tradeoffs import (
    FEWEST,
    REAL,
    Resolution,
    Tradeoff,
    at_chance,
    beaten_by_all,
    best_possible,
    distances,
    dominance,
    near_duplicates,
    plausible,
    proposed,
    resolutions,
    saturated,
    spearman,
    tradeoffs,
)
from recycler.nouns.evaluation import Outcomes, Score
from recycler.nouns.measure import Parts, items_part
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.trial import State


@dataclass(frozen=True, slots=True)
class Task:
    """One task as the single checkpoints see it.

    Attributes:
        objective: the objective.
        role: its place in the study file: `searched`, `held out` or `candidate`.
        resolution: whether its scores tell the checkpoints apart.
        items: number of dev items; 0 if the scores came without items.
        available: number of items of the whole task; None if unknown.
        chance: score of guessing; None if unknown.
        saturated: whether most checkpoints are near the best possible score.
        at_chance: whether no checkpoint is better than guessing.
        errorless: whether scores came without errors, so that nothing is certain about them.
    """

    objective: Objective
    role: str
    resolution: Resolution
    items: int
    available: int | None
    chance: float | None
    saturated: bool
    at_chance: bool
    errorless: bool

    @property
    def name(self) -> str:
        return self.objective.name

    @property
    def needed(self) -> int | None:
        """Dev items that would show this spread if it is real; None if it shows or none would."""
        factor = self.resolution.factor
        if self.resolution.tells or not self.items or not np.isfinite(factor):
            return None
        return round_up(self.items * factor)

    @property
    def useful(self) -> bool:
        """Whether the task can guide a search over this pool."""
        return self.tells and not self.saturated and not self.at_chance

    @property
    def tells(self) -> bool:
        """Whether the scores tell the checkpoints apart."""
        return self.resolution.tells and not self.errorless


@dataclass(frozen=True, slots=True, kw_only=True)
class Scouting:
    """What the single checkpoints' scores say before a search.

    Attributes:
        study: name of the study.
        names: names of the n scored checkpoints.
        failed: checkpoint -> why it has no scores.
        tasks: the m tasks, in the order of the study file.
        scores: (n, m) raw scores on dev items, each in its unit.
        errors: (n, m) their standard errors.
        gains: (n, m) larger is better.
        compared: positions of the checkpoints that correlations are computed over: all but those
            that every other checkpoint beats at every task.
        correlations: (m, m) Spearman's rank correlations; NaN if there are too few checkpoints.
        low: (m, m) 2.5 % quantiles of the correlations; NaN for tasks without errors.
        high: (m, m) 97.5 % quantiles.
        tradeoffs: pairs and triples of useful tasks, strongest first.
        dominance: (n, n) probability that the column's checkpoint dominates the row's; 0 if
            scores of a task came without errors.
        apart: (n, n) how differently two checkpoints answer (see `distances`).
        twins: groups of checkpoints with equal bytes.
    """

    study: str
    names: tuple[str, ...]
    failed: Mapping[str, str]
    tasks: tuple[Task, ...]
    scores: Array
    errors: Array
    gains: Array
    compared: tuple[int, ...]
    correlations: Array
    low: Array
    high: Array
    tradeoffs: tuple[Tradeoff, ...]
    dominance: Array
    apart: Array
    twins: tuple[tuple[str, ...], ...]

    @property
    def proposal(self) -> Tradeoff | None:
        return proposed(self.tradeoffs)

    @property
    def best(self) -> list[int]:
        """(m,) position of the best checkpoint of each task."""
        return [int(i) for i in self.gains.argmax(axis=0)]

    @property
    def left_out(self) -> list[str]:
        """Checkpoints that every other one beats at every task."""
        return [name for i, name in enumerate(self.names) if i not in self.compared]

    @property
    def duplicates(self) -> list[tuple[str, str, float]]:
        """Pairs of checkpoints that answer (almost) alike, and their distance."""
        pairs = near_duplicates(self.apart)
        return [(self.names[i], self.names[j], float(self.apart[i, j])) for i, j in pairs]

    @property
    def dominated(self) -> dict[str, list[str]]:
        """Checkpoint -> those that dominate it with a probability of at least REAL."""
        sure = self.dominance >= REAL
        return {
            self.names[i]: [self.names[j] for j in np.flatnonzero(row)]
            for i, row in enumerate(sure)
            if row.any()
        }


def round_up(number: float) -> int:
    """Round up to two digits, as one says a number that is only roughly known."""
    if number <= 10:
        return int(np.ceil(number))
    step = 10 ** (int(np.floor(np.log10(number))) - 1)
    return int(np.ceil(number / step - 1e-9) * step)


def scouting(results: Results, roles: Mapping[str, str], chances: Mapping[str, float]) -> Scouting:
    """Analyse the single checkpoints of a study on dev items.

    Args:
        results: a study whose singles are scored on all its objectives, which are all searched.
        roles: objective -> `searched`, `held out` or `candidate`.
        chances: objective -> score of guessing, where it is known.

    Raises:
        StudyFailed: fewer than two checkpoints could be scored.
    """
    plan = results.plan
    found = baselines.singles(plan, results.trials)
    scored = {plan.names[i]: t for i, t in found.items() if t.state == State.COMPLETE}
    failed = {
        plan.names[i]: t.failure.message if t.failure else "not scored yet"
        for i, t in found.items()
        if plan.names[i] not in scored
    }
    if len(scored) < 2:
        raise StudyFailed(
            f"{len(scored)} of {plan.n} checkpoints could be scored; "
            + "; ".join(f"{name}: {why}" for name, why in failed.items()),
            hint="comparing needs two; fix the first of these and run scout again.",
        )
    measured = Objectives(tuple(o for o in plan.objectives if not o.of_merge))
    scores = [trial.evaluations["dev"].scores for trial in scored.values()]
    outcomes = [results.outcomes(trial, "dev") for trial in scored.values()]
    prints: dict[str, list[str]] = {}
    for name, fingerprint in plan.ingredients:
        prints.setdefault(fingerprint, []).append(name)
    made = analysed(
        plan.name,
        tuple(scored),
        measured,
        scores,
        outcomes,
        roles,
        chances,
        plan.measures,
        plan.seed,
    )
    twins = tuple(tuple(names) for names in prints.values() if len(names) > 1)
    return replace(made, failed=failed, twins=twins)


def analysed(
    study: str,
    names: tuple[str, ...],
    objectives: Objectives,
    scores: Sequence[Mapping[str, Score]],
    outcomes: Sequence[Mapping[str, Outcomes]],
    roles: Mapping[str, str],
    chances: Mapping[str, float],
    measures: Mapping[str, Parts],
    seed: int = 0,
) -> Scouting:
    """Analyse scores and item outcomes of n checkpoints on m searched objectives.

    Args:
        study: name of the study.
        names: names of the n checkpoints.
        objectives: the m objectives, all searched.
        scores: for each checkpoint, objective -> score.
        outcomes: for each checkpoint, objective -> item outcomes, where there are any.
        roles: objective -> `searched`, `held out` or `candidate`.
        chances: objective -> score of guessing, where it is known.
        measures: objective -> parts of its measure.
        seed: random seed of the draws.
    """
    asked = [o.name for o in objectives]
    gains = objectives.gains([{name: row[name].mean for name in asked} for row in scores])
    draws = drawn_gains(outcomes, scores, objectives, seed)
    n, m = gains.shape
    tasks = tuple(
        _task(o, found, scores, outcomes, roles, chances, measures)
        for o, found in zip(objectives, resolutions(gains, draws), strict=True)
    )
    true = plausible(gains, draws, seed)
    unsure = np.array([task.errorless for task in tasks])
    worst = beaten_by_all(gains)
    compared = [i for i in range(n) if i not in worst]
    correlations = low = high = np.full((m, m), np.nan)
    conflicts: list[Tradeoff] = []
    if len(compared) >= FEWEST:
        correlations, drawn = spearman(gains[compared]), spearman(true[:, compared])
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        known = np.isfinite(correlations) & ~unsure & ~unsure[:, None]
        low, high = (np.where(known, edge, np.nan) for edge in (low, high))
        useful = [j for j, task in enumerate(tasks) if task.useful]
        conflicts = tradeoffs(asked, correlations, drawn, useful)
    return Scouting(
        study=study,
        names=names,
        failed={},
        tasks=tasks,
        scores=objectives.raw(gains),
        errors=np.array([[row[name].stderr for name in asked] for row in scores]),
        gains=gains,
        compared=tuple(compared),
        correlations=correlations,
        low=low,
        high=high,
        tradeoffs=tuple(conflicts),
        dominance=dominance(true) * (not unsure.any()),
        apart=distances(outcomes, asked),
        twins=(),
    )


def _task(
    objective: Objective,
    resolution: Resolution,
    scores: Sequence[Mapping[str, Score]],
    outcomes: Sequence[Mapping[str, Outcomes]],
    roles: Mapping[str, str],
    chances: Mapping[str, float],
    measures: Mapping[str, Parts],
) -> Task:
    name = objective.name
    means = np.array([row[name].mean for row in scores])
    errors = np.array([row[name].stderr for row in scores])
    best = best_possible([row.get(name) for row in outcomes], objective.direction, objective.unit)
    sizes = measures.get(name, {}).get(items_part(objective.task), {})
    chance = chances.get(name)
    return Task(
        objective=objective,
        role=roles.get(name, "searched"),
        resolution=resolution,
        items=max(row[name].items for row in scores),
        available=sizes.get("of"),
        chance=chance,
        saturated=saturated(means, best),
        at_chance=at_chance(means, errors, chance),
        errorless=not all(objective.knows_error(error) for error in errors.tolist()),
    )
