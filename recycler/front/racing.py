"""Racing: early stopping of candidates that were scored on part of the dev items.

All candidates see the items in the same seeded order, so a candidate and the members of the front are
compared on the same items. Only its outcomes on the unseen items are uncertain.
Letters: k rivals, m objectives, s share of items seen.

Reference: Maron & Moore 1994 (races); Cochran 1977, § 2.6 (finite populations).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig
from recycler.front import pareto
from recycler.nouns.evaluation import Outcomes, Score
from recycler.nouns.measure import TOGETHER, Parts
from recycler.nouns.objectives import Array, Objective, Objectives

DRAWS = 256
DEFAULTS: Mapping[str, Any] = {"blocks": [0.125, 0.25, 0.5, 1.0], "chance": 0.05, "gain": 0.01}


@dataclass(frozen=True, slots=True)
class Improvement:
    """The expected improvement of the front by a candidate once it has all dev items.

    Attributes:
        chance: probability that it is non-dominated on all dev items.
        gain: expected hypervolume added, as a share of the front's.
    """

    chance: float
    gain: float

    def suffices(self, settings: Mapping[str, Any]) -> bool:
        """Whether to go on: both chance and gain reach the settings' limits."""
        return bool(self.chance >= settings["chance"] and self.gain >= settings["gain"])


def settings_of(wanted: bool | Mapping[str, Any]) -> dict[str, Any]:
    """Racing's settings from a study file: `false`, `true` (the defaults), or a mapping.

    Raises:
        InvalidConfig: unknown names, or blocks that do not rise to 1.
    """
    if wanted is False:
        return {}
    if not isinstance(wanted, bool | Mapping) or wanted == {}:
        raise _refused(wanted)
    given = dict(wanted) if isinstance(wanted, Mapping) else {}
    made = {**DEFAULTS, **given}
    if isinstance(made["blocks"], tuple):
        made["blocks"] = list(made["blocks"])
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise _refused(unknown[0])
    if not (_is_share(made["chance"]) and _is_share(made["gain"])):
        raise _refused({"chance": made["chance"], "gain": made["gain"]})
    if not _rising(made["blocks"]):
        raise _refused(made["blocks"])
    return made


def _refused(found: Any) -> InvalidConfig:
    return InvalidConfig(
        f"racing: found {found!r}.",
        hint="`racing: true`, or `{blocks: [0.125, 0.25, 0.5, 1], chance: 0.05, gain: 0.01}`; "
        "blocks rise to 1, chance and gain lie between 0 and 1.",
    )


def _is_share(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0.0 <= value <= 1.0  # false for NaN


def require_items(objectives: Objectives, measures: Mapping[str, Parts]) -> None:
    """Raise InvalidConfig if a searched objective can't be scored on part of the items."""
    for objective in objectives.searched:
        if measures.get(objective.name, {}).get("scored") == TOGETHER:
            raise InvalidConfig(
                f"search.racing: objective {objective.name!r} can't be raced: {objective.metric} is "
                "one number for all items.",
                hint="leave `racing` out, list it under `held_out:`, or use a mean instead.",
            )


def _rising(blocks: Any) -> bool:
    """Whether these are shares above 0 in rising order, the last one 1."""
    if not isinstance(blocks, list) or not blocks or not all(map(_is_share, blocks)):
        return False
    steps = [0.0, *blocks]
    return steps[-1] == 1 and all(a < b for a, b in pairwise(steps))


def expected_improvement(
    candidate: Mapping[str, Outcomes | Score],
    rivals: Sequence[Mapping[str, Outcomes | Score]],
    objectives: Objectives,
    reference: Array,
    seed: int = 0,
    floors: Array | None = None,
    prior: tuple[Array, Array] | None = None,
) -> Improvement:
    """Expected improvement of the current front by a candidate that has seen part of the items.

    The candidate's mean on all items is the rivals' average plus the paired difference on the items
    seen, bootstrapped by cluster. The spread is multiplied by √(1-s), the finite-population
    correction. A prior is combined with the draws as a product of two normals.

    Args:
        candidate: objective -> outcomes of the first items, or the score if it is known exactly.
        rivals: k ≥ 1 mappings, the members of the front with outcomes of all items.
        objectives: objectives of the study; only the searched ones count.
        reference: (m,) fixed worst corner, as gains.
        seed: random seed of the bootstrap.
        floors: (m,) smallest gains allowed; a draw below one of them is not on the front.
        prior: (m,) gains predicted from other merges, and (m,) their standard deviations.
    """
    rng = np.random.default_rng(seed)
    means = np.empty((len(rivals), objectives.m))
    draws = np.empty((DRAWS, objectives.m))
    counts: dict[tuple[str, int], Any] = {}
    for j, objective in enumerate(objectives.searched):
        seen = candidate[objective.name]
        others = [rival[objective.name] for rival in rivals]
        if isinstance(seen, Score):
            draws[:, j] = objective.sign * seen.mean
            means[:, j] = [objective.sign * o.mean for o in others if isinstance(o, Score)]
            continue
        means[:, j], draws[:, j] = _paired(objective, seen, others, counts, rng)
        if prior is not None:
            draws[:, j] = _with_prior(draws[:, j], prior[0][j], prior[1][j])
    return _improvement(draws, means, reference, floors)


def estimate(
    candidate: Mapping[str, Outcomes | Score],
    rivals: Sequence[Mapping[str, Outcomes | Score]],
    objectives: Objectives,
) -> dict[str, Score]:
    """Objective -> score of a candidate on all dev items, estimated from the first items.

    The estimate is the rivals' average on all items plus the paired difference on the items seen.
    The plain mean of the first items would be biased where they are easier or harder than the rest.

    Args:
        candidate: as in `expected_improvement`.
        rivals: as in `expected_improvement`.
        objectives: objectives of the study; only the searched ones are estimated.
    """
    made = {}
    for objective in objectives.searched:
        seen = candidate[objective.name]
        if isinstance(seen, Score):
            made[objective.name] = seen
            continue
        others = _comparable(objective, seen, [rival[objective.name] for rival in rivals])
        paired = _difference(seen, others).score()
        share = len(seen.ids) / len(others[0].ids)
        spread = share * seen.plain().score().stderr ** 2 + (1 - share) * paired.stderr**2
        mean = float(np.mean([other.plain().score().mean for other in others])) + paired.mean
        score = float(seen.linked(np.array(mean)))
        slope = score if seen.link == "exp" else 1.0
        made[objective.name] = Score(score, slope * float(np.sqrt(spread)), len(seen.ids))
    return made


def _paired(
    objective: Objective,
    seen: Outcomes,
    rivals: Sequence[Outcomes | Score],
    counts: dict[tuple[str, int], Any],
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """(k,) gains of the rivals on all items, and (draws,) drawn gains of the candidate there."""
    others = _comparable(objective, seen, rivals)
    means = np.array([other.plain().score().mean for other in others])
    values, weights, clusters = _difference(seen, others).arrays()
    key = (objective.task, int(clusters.max()) + 1)
    if key not in counts:  # metrics of one task share their items' draws
        counts[key] = pareto.draw_counts(key[1], DRAWS, rng)
    boot = pareto.bootstrap_means(values[None], weights[None], clusters, counts[key])[:, 0]
    mean = float((values * weights).sum() / weights.sum())
    rest = np.sqrt(1.0 - len(seen.ids) / len(others[0].ids))
    unseen = seen.least_error() * rng.choice([-1.0, 1.0], size=boot.shape)
    whole = means.mean() + mean + rest * (boot - mean + unseen)
    return objective.sign * seen.linked(means), objective.sign * seen.linked(whole)


def _with_prior(draws: Array, mean: float, deviation: float) -> Array:
    """Shift and scale normal draws so that they follow the product with a normal prior."""
    centre, spread = float(draws.mean()), float(draws.std())
    if spread == 0.0 or deviation == 0.0:  # one of them is exact
        return draws
    weight = spread**-2 / (spread**-2 + deviation**-2)
    both = weight * centre + (1 - weight) * mean
    moved: Array = both + np.sqrt(weight) * (draws - centre)
    return moved


def _comparable(
    objective: Objective, seen: Outcomes, rivals: Sequence[Outcomes | Score]
) -> list[Outcomes]:
    """Return the rivals' outcomes; their first items must be those the candidate has seen."""
    others = [other for other in rivals if isinstance(other, Outcomes)]
    size = len(seen.ids)
    if len(others) < len(rivals) or any(other.ids[:size] != seen.ids for other in others):
        raise InvalidConfig(
            f"objective {objective.name!r}: the candidates were scored on different items.",
            hint="an evaluator must keep the order of the items; fix that, or set `racing: false` in "
            "a study of another name.",
        )
    return others


def _difference(seen: Outcomes, rivals: Sequence[Outcomes]) -> Outcomes:
    """Candidate minus the rivals' average, per item that the candidate has seen."""
    size = len(seen.ids)
    control = np.mean([rival.arrays()[0][:size] for rival in rivals], axis=0)
    known = np.min([o.arrays()[1][:size] > 0 for o in (seen, *rivals)], axis=0)
    weights = seen.arrays()[1] * known  # drop items that one of them has no value for
    return replace(
        seen.plain(),
        values=tuple(np.asarray(seen.values) - control),
        weights=() if (weights == 1.0).all() else tuple(weights),
    )


def _improvement(
    draws: Array, front: Array, reference: Array, floors: Array | None
) -> Improvement:
    """Improvement from (draws, m) gains of the candidate and (k, m) gains of the front."""
    beaten = np.any(np.all(front[None] >= draws[:, None], axis=2), axis=1)
    if floors is not None:
        beaten |= (draws < floors).any(axis=1)
    before = pareto.hypervolume(front, reference)
    added = sum(
        pareto.hypervolume(np.vstack([front, drawn]), reference) - before
        for drawn in draws[~beaten]
    )
    gain = float(added) / len(draws) / before if before > 0 else np.inf
    return Improvement(float(1.0 - beaten.mean()), float(gain))
