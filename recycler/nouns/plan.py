"""The plan of a study: all its settings, fixed at submission and compared on resume.

Letters: n checkpoints, m objectives, d coordinates of a point (see `space`).
"""

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from recycler.errors import Conflict, InvalidConfig
from recycler.nouns.measure import Parts, differences, measure_id
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.recipe import Ingredient, Recipe, canonical
from recycler.nouns.space import Space
from recycler.nouns.trial import Kind, Trial

# Fields of a plan that are numbers -> their bounds, inclusive.
_BOUNDS = {
    "evaluations": (0, math.inf),
    "seed": (0, 2**32 - 1),
    "finalists": (1, math.inf),
    "failed_share": (0, 1),
    "fill": (0, 1),
    "stop_gain": (0, 1),
}

# Recent recipes: those of the baselines are needed at every proposal.
_RECIPES: dict[Hashable, Recipe] = {}


@dataclass(frozen=True, slots=True)
class Reference:
    """A further baseline that the merges have to beat.

    Attributes:
        name: unique among references and checkpoints.
        recipe: a merge of the pool, or a model of its own (`Recipe.of_model`).
    """

    name: str
    recipe: Recipe

    @property
    def title(self) -> str:
        """Name of its trial, such as `reference:production`."""
        return f"reference:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the proposals and the scores of a study.

    Attributes:
        name: name of the study.
        ingredients: (name, fingerprint) of the n checkpoints, in the order of weight vectors.
        objectives: searched and held-out objectives.
        sampler: name of the sampler.
        settings: settings of the sampler.
        evaluations: budget: number of merges besides singles, uniform and merge-best.
        greedy: whether the search starts with the greedy-soup path (part of the budget).
        leave_one_out: whether to try the greedy soup without each of its members, after the path.
        seed: random seed of the proposals.
        method: merge method.
        merge_settings: parameters of the merge method.
        dtype: output dtype; empty: each tensor keeps the dtype of its inputs.
        base: (name, fingerprint) of the base checkpoint, if any.
        items: number of items per split and objective, and the `seed` that assigns them.
        evaluator: kind and settings of the evaluator.
        finalists: largest number of merges re-checked on select items.
        racing: `blocks` (shares of dev items after which a candidate may be stopped), `chance` and
            `gain` (see `racing.Improvement`); empty: every candidate is scored on all dev items.
        failed_share: the study fails when more than this share of its trials failed.
        fill: share of the evaluations, at the end, spent on the largest gaps of the front.
        space: what is searched besides one weight per checkpoint, from `space.settings_of`.
        stop_gain: the search ends when `stages.remaining_gain` falls below this share; 0: never.
        stop_after: the stop rule is not applied before this many sampler evaluations; raised when
            the budget of a stopped study is extended.
        warm_start: names of earlier studies in the same ledger.
        measures: objective -> parts of its measure (see `measure`). Scores of an objective without a
            measure are not reused by other studies.
        warm: the first proposals, taken from the studies of `warm_start` at submission (see
            `search.warm.recipes`).
        references: models and recipes of the user's, scored like baselines. They decide no proposal,
            so they may be added to a study and taken from it.
    """

    name: str
    ingredients: tuple[tuple[str, str], ...]
    objectives: Objectives
    sampler: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int = 50
    greedy: bool = True
    leave_one_out: bool = False
    seed: int = 0
    method: str = "linear"
    merge_settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = ""
    base: tuple[str, str] | None = None
    items: Mapping[str, int] = field(default_factory=dict)
    evaluator: Mapping[str, Any] = field(default_factory=dict)
    finalists: int = 24
    racing: Mapping[str, Any] = field(default_factory=dict)
    failed_share: float = 0.5
    fill: float = 0.0
    space: Mapping[str, Any] = field(default_factory=dict)
    stop_gain: float = 0.0
    stop_after: int = 0
    warm_start: tuple[str, ...] = ()
    warm: tuple[Mapping[str, Any], ...] = ()
    measures: Mapping[str, Parts] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        if self.name in self.warm_start:
            raise InvalidConfig(
                f"study {self.name!r} lists itself in `search.warm_start`.",
                hint="list other studies of the ledger.",
            )
        for objective in self.objectives:
            self._require_known(objective)
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            whole = name not in ("failed_share", "fill", "stop_gain")
            known = isinstance(value, int if whole else int | float) and not isinstance(
                value, bool
            )
            if not known or not low <= value <= high:
                raise InvalidConfig(
                    f"{name} is {value!r}, expected a {'whole ' if whole else ''}number from {low:g} "
                    f"{'up' if high == math.inf else f'to {high:g}'}.",
                    hint=f"set `search.{name}`.",
                )

    def _require_known(self, objective: Objective) -> None:
        """Raise InvalidConfig if an objective needs a checkpoint that the study lacks."""
        baseline = objective.limit.baseline if objective.limit else ""
        name = baseline.removeprefix("single:")
        if name != baseline and name not in self.names:
            raise InvalidConfig(
                f"objective {objective.name!r}: the floor {objective.floor!r} names no checkpoint.",
                hint=f"the pool has {', '.join(self.names)}.",
            )
        if objective.metric == "merge.distance" and self.base is None:
            raise InvalidConfig(
                f"objective {objective.name!r}: merge.distance is the distance to the base, and the "
                "study has none.",
                hint="set `base:` to the common ancestor.",
            )

    @property
    def n(self) -> int:
        return len(self.ingredients)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.ingredients)

    def recipe(self, weights: Sequence[float]) -> Recipe:
        """Return the recipe of a weight vector.

        A one-hot vector gives the checkpoint itself, by method `linear`: singles are baselines, and
        the study's merge method must not change them.

        Args:
            weights: (n,) in the order of `ingredients`, unitless.
        """
        one_hot = max(weights) == 1.0 and sum(weight != 0 for weight in weights) == 1
        alone = one_hot and self.method != "linear"
        settings = {} if alone else self.merge_settings
        vector = tuple(map(float, weights))
        key = (
            self.method,
            alone,
            self.ingredients,
            vector,
            self.dtype,
            self.base,
            canonical(settings),
        )
        if key not in _RECIPES:
            if len(_RECIPES) > 4096:
                _RECIPES.clear()
            _RECIPES[key] = Recipe(
                method="linear" if alone else self.method,
                ingredients=tuple(
                    Ingredient(fingerprint, name, weight)
                    for (name, fingerprint), weight in zip(self.ingredients, vector, strict=True)
                ),
                dtype=self.dtype,
                base=Ingredient(self.base[1], self.base[0], 1.0) if self.base else None,
                settings=settings,
            )
        return _RECIPES[key]

    @property
    def points(self) -> Space:
        """The space of points that a sampler may propose."""
        return Space.of(self.names, self.space)

    def merge_at(self, point: Array) -> Recipe:
        """Return the recipe at a (d,) point of the space."""
        points = self.points
        weights, values = points.weights(point), points.settings(point)
        plain = self.recipe(tuple(weights.mean(axis=0)))
        if not points.groups and not values:
            return plain
        own: dict[str, dict[str, Any]] = {name: {**values.get(name, {})} for name in self.names}
        for column, name in enumerate(self.names if points.groups else ()):
            mean = weights[:, column].mean()
            if mean != 0:  # a weight of 0 is left out
                own[name]["weight"] = [
                    {"layers": [start, stop], "value": float(weight / mean)}
                    for (start, stop), weight in zip(
                        points.groups, weights[:, column], strict=True
                    )
                ]
        return replace(
            plain,
            method=self.method,
            ingredients=tuple(replace(i, settings=own[i.name]) for i in plain.ingredients),
            settings={**self.merge_settings, **values.get("", {})},
        )

    def sees(self, trial: Trial) -> bool:
        """Whether the search may learn from a trial: it is a point of the space.

        Merges that users asked for may be none: other settings, another method, other models.
        """
        if trial.kind not in (Kind.REFERENCE, Kind.TRY):
            return True
        return not trial.recipe.is_model and self.reaches(trial.recipe)

    def reaches(self, recipe: Recipe) -> bool:
        """Whether a recipe is the merge at a point of the space, up to rounding.

        A merge of the pool by another method, or with weights outside the space, has no point.
        """
        points = self.points
        try:
            point = points.project(points.point_of(recipe))
        except (TypeError, ValueError):  # a setting that varies where the space has one number
            return False
        weights = tuple(map(float, points.weights(point).mean(axis=0)))
        found = recipe.to_json()
        return any(
            _alike(found, made.to_json()) for made in (self.merge_at(point), self.recipe(weights))
        )

    def on_space(self, trials: Iterable[Trial]) -> list[Trial]:
        """The trials that the search may learn from (see `sees`)."""
        return [trial for trial in trials if self.sees(trial)]

    @property
    def measure_ids(self) -> dict[str, str]:
        """Objective -> id of its measure, for objectives that have one."""
        return {name: measure_id(parts) for name, parts in self.measures.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON data, the inverse of `from_json`."""
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        data["objectives"] = [asdict(objective) for objective in self.objectives]
        data["references"] = [
            {"name": entry.name, "recipe": entry.recipe.to_json()} for entry in self.references
        ]
        plain: dict[str, Any] = json.loads(canonical(data))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Return the plan written by `to_json`.

        Raises:
            Conflict: a newer recycler wrote it, with settings that are unknown here.
        """
        objectives = [dict(entry) for entry in data["objectives"]]
        known = {*Objective.__dataclass_fields__}
        strange = sorted({*data} - {*cls.__dataclass_fields__})
        strange += sorted({key for entry in objectives for key in entry} - known)
        if strange:
            raise Conflict(
                f"the plan of study {data.get('name')!r} has {strange[0]!r}, which this recycler "
                "does not know.",
                hint="a newer recycler wrote it; upgrade recycler.",
            )
        values = dict(data)
        values["ingredients"] = tuple((name, fp) for name, fp in data["ingredients"])
        values["objectives"] = Objectives(tuple(Objective(**entry) for entry in objectives))
        values["base"] = tuple(data["base"]) if data["base"] else None
        values["warm_start"] = tuple(data.get("warm_start", ()))
        values["warm"] = tuple(data.get("warm", ()))
        values["references"] = tuple(
            Reference(entry["name"], Recipe.from_json(entry["recipe"]))
            for entry in data.get("references", ())
        )
        return cls(**values)

    def changes(self, other: "Plan") -> dict[str, tuple[Any, Any]]:
        """Field -> (value here, value there) of the fields that differ in another plan.

        Each differing part of a measure is a field of its own. If every objective has a measure,
        `evaluator` is not compared, because its paths may change.
        """
        here, there = self.to_json(), other.to_json()
        parts = differences(here.pop("measures"), there.pop("measures"))
        if all(o.name in self.measures and o.name in other.measures for o in self.objectives):
            del here["evaluator"]
        found = {key: (here[key], there[key]) for key in here if here[key] != there[key]}
        return {**found, **dict.fromkeys(parts, ("as it was", "changed"))}


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON data are equal up to rounding of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {*one} == {*other} and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    return bool(one == other)
