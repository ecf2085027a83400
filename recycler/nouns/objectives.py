"""Objectives: what is measured, in which unit, and in which direction it is better.

Letters: m objectives of the search, k points.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recycler.errors import InvalidConfig, NotFound

Array = NDArray[np.float64]

# Metric -> direction and unit, used if the evaluator does not give them.
KNOWN_METRICS = {
    "acc": ("max", "share"),
    "acc_norm": ("max", "share"),
    "exact_match": ("max", "share"),
    "pass@1": ("max", "share"),
    "bits_per_byte": ("min", "bits/byte"),
    "byte_perplexity": ("min", "perplexity"),
    "word_perplexity": ("min", "perplexity"),
    # properties of the merge itself: exact, scored without the evaluator
    "merge.nonzero": ("min", "checkpoints"),
    "merge.distance": ("min", "share of the base's norm"),
}
# Baselines that a floor may be relative to, besides `single:NAME`.
FLOORS = ("best-single", "uniform", "merge-best")
_FLOOR = re.compile(r"(?P<baseline>\S+)(?:\s+(?P<sign>[-+*])\s*(?P<number>\S+))?")


@dataclass(frozen=True, slots=True)
class Floor:
    """Worst score allowed: `factor` times a baseline's score, plus `shift`.

    Attributes:
        baseline: one of FLOORS or `single:NAME`; empty: the floor is `shift`.
        factor: factor of the baseline's score, unitless.
        shift: added to it, in the unit of the score.
    """

    baseline: str = ""
    factor: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, wanted: float | str, where: str) -> "Floor":
        """Read `0.6`, `uniform`, `best-single - 0.5` or `single:NAME * 0.98`.

        Raises:
            InvalidConfig: `wanted` has none of these forms; `where` names the objective.
        """
        if isinstance(wanted, int | float) and not isinstance(wanted, bool):
            found: Floor | None = cls(shift=float(wanted))
        else:
            found = _relative(str(wanted))
        if found is None or not math.isfinite(found.shift) or not math.isfinite(found.factor):
            raise InvalidConfig(
                f"objective {where!r}: floor is {wanted!r}.",
                hint=f"write a number, or one of {', '.join(FLOORS)} and single:NAME, then "
                "perhaps ` - 0.5`, ` + 0.5` or ` * 0.98`; spaces around the sign.",
            )
        return found

    def score(self, baseline: float) -> float:
        """Return the worst score allowed, given the baseline's score."""
        return self.factor * baseline + self.shift if self.baseline else self.shift


def _relative(text: str) -> Floor | None:
    match = _FLOOR.fullmatch(text.strip())
    if not match:
        return None
    baseline, sign = match["baseline"], match["sign"]
    try:
        number = float(match["number"]) if sign else 0.0
        if not sign and baseline[0] in "0123456789.+-":
            return Floor(shift=float(baseline))  # a number in quotes
    except ValueError:
        return None
    if baseline not in FLOORS and not re.match(r"single:.", baseline):
        return None
    if sign == "*":
        return Floor(baseline, number)
    return Floor(baseline, 1.0, -number if sign == "-" else number)


@dataclass(frozen=True, slots=True)
class Objective:
    """One capability and how it is scored.

    Attributes:
        name: name of the objective, unique in a study.
        metric: the evaluator's metric, such as `acc` or `exact_match,strict-match`.
        direction: `max`, `min`, or `task`: to be read from the evaluator's task (see `directed`).
            Empty: the metric's known direction, else `task`.
        unit: unit of the score; empty: the metric's known unit.
        task: the evaluator's task; empty: `name`.
        held_out: whether it is only reported, never seen by the search.
        scale: difference that counts as one step in averages over objectives, in the unit of the
            score; None: from the single checkpoints (see `front.scale.steps`).
        cluster: field of the task's documents; items with equal values are dependent.
        floor: worst score allowed (see `Floor.parse`); a merge beyond it is infeasible.
        weight: weight in averages and in `Front.prefer`, unitless.
    """

    name: str
    metric: str = "acc"
    direction: str = ""
    unit: str = ""
    task: str = ""
    held_out: bool = False
    scale: float | None = None
    cluster: str = ""
    floor: float | str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        known = KNOWN_METRICS.get(self.metric.partition(",")[0])
        if not self.name or not self.name.replace("-", "_").replace(".", "_").isidentifier():
            raise InvalidConfig(
                f"objective name {self.name!r} is not a plain word.",
                hint="use letters, digits, '-', '_' and '.', beginning with a letter.",
            )
        if self.of_merge and not known:
            raise InvalidConfig(
                f"objective {self.name!r}: no property of a merge is called {self.metric!r}.",
                hint="there are "
                + ", ".join(metric for metric in KNOWN_METRICS if metric.startswith("merge."))
                + ".",
            )
        direction = self.direction or (known[0] if known else "task")
        if direction not in ("task", "max", "min"):
            raise InvalidConfig(
                f"objective {self.name!r}: direction is {self.direction!r}, expected 'max' or 'min'.",
                hint="leave it out where the evaluator's task says which way is better.",
            )
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise InvalidConfig(
                f"objective {self.name!r}: scale is {self.scale}, expected a positive number.",
                hint="leave it out to take it from the single checkpoints.",
            )
        if not 0 < self.weight < math.inf:
            raise InvalidConfig(
                f"objective {self.name!r}: weight is {self.weight}, expected a positive number.",
                hint="list an objective that should not count under `held_out:`.",
            )
        if self.floor is not None:
            Floor.parse(self.floor, self.name)
            if self.held_out:
                raise InvalidConfig(
                    f"objective {self.name!r} is held out and has a floor.",
                    hint="list it under `objectives:`; the search can't respect what it can't see.",
                )
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "unit", self.unit or (known[1] if known else ""))
        object.__setattr__(self, "task", self.task or self.name)

    @property
    def sign(self) -> float:
        """+1 if larger scores are better, -1 if smaller ones are."""
        if self.direction == "task":
            raise self._undirected()
        return 1.0 if self.direction == "max" else -1.0

    def directed(self, told: str = "") -> "Objective":
        """Return the objective with a direction: its own, else the task's, else the metric's.

        Raises:
            InvalidConfig: none of them gives a direction.
        """
        if self.direction != "task":
            return self
        found = replace(self, direction="" if told == "task" else told)
        if found.direction == "task":
            raise self._undirected()
        return found

    def _undirected(self) -> InvalidConfig:
        return InvalidConfig(
            f"objective {self.name!r}: metric {self.metric!r} has no known direction, and the "
            "evaluator does not say which way is better.",
            hint=f"write `direction: max` or `direction: min` under {self.name!r}.",
        )

    @property
    def of_merge(self) -> bool:
        """Whether it is a property of the merge itself, scored without an evaluator."""
        return self.metric.startswith("merge.")

    def knows_error(self, stderr: float) -> bool:
        """Whether a score is exact, or came with an error; a plain number of an evaluator did not."""
        return self.of_merge or stderr > 0

    @property
    def limit(self) -> Floor | None:
        """The floor, parsed."""
        return None if self.floor is None else Floor.parse(self.floor, self.name)


@dataclass(frozen=True, slots=True)
class Objectives:
    """The objectives of a study. (m,) arrays follow the order of the searched ones.

    Attributes:
        all: searched and held-out objectives.
        searched: the m objectives that the search sees.
    """

    all: tuple[Objective, ...]
    searched: tuple[Objective, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found = tuple(objective for objective in self.all if not objective.held_out)
        object.__setattr__(self, "searched", found)
        names = [objective.name for objective in self.all]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidConfig(
                f"objective {twice[0]!r} is listed twice.", hint="give each objective one name."
            )
        if not self.searched:
            raise InvalidConfig(
                "no objective to search: all are held out or the list is empty.",
                hint="list at least one objective under `objectives:`.",
            )

    @property
    def held_out(self) -> tuple[Objective, ...]:
        return tuple(objective for objective in self.all if objective.held_out)

    @property
    def m(self) -> int:
        return len(self.searched)

    def __iter__(self) -> Iterator[Objective]:
        return iter(self.all)

    def __getitem__(self, name: str) -> Objective:
        for objective in self.all:
            if objective.name == name:
                return objective
        known = ", ".join(objective.name for objective in self.all)
        raise NotFound(f"no objective {name!r} in this study.", hint=f"it has: {known}.")

    def directed(self, measures: Mapping[str, Mapping[str, Any]]) -> "Objectives":
        """Return the objectives, each with a direction: its own, else that of its measure.

        Args:
            measures: objective -> parts (see `protocols.Evaluator.measures`). The part `direction` is
                present if the task gives one.
        """
        return Objectives(
            tuple(o.directed(measures.get(o.name, {}).get("direction", "")) for o in self.all)
        )

    def gains(self, scores: Sequence[Mapping[str, float]]) -> Array:
        """Turn raw scores into gains. Directions are applied here and in `raw` only.

        Args:
            scores: k mappings from objective name to raw score, each in its unit.

        Returns:
            (k, m) larger is better; NaN if a score is missing.
        """
        names, signs = [o.name for o in self.searched], [o.sign for o in self.searched]
        columns = [[row.get(name, np.nan) for row in scores] for name in names]
        raw = np.array(columns, dtype=np.float64).reshape(self.m, len(scores))
        found: Array = np.ascontiguousarray(raw.T) * np.array(signs)
        return found

    def raw(self, gains: Array) -> Array:
        """Inverse of `gains`: (..., m) gains to raw scores."""
        scores: Array = gains * np.array([o.sign for o in self.searched])
        return scores

    @property
    def weights(self) -> Array:
        """(m,) weight of each objective in averages, unitless."""
        return np.array([objective.weight for objective in self.searched])
