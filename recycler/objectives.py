"""Objectives: what is measured, in which unit, and which way is better.

Letters: m objectives of the search, k points. May import: errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recycler.errors import InvalidConfig, NotFound

Array = NDArray[np.float64]

# Metrics whose unit and direction are known; any other metric must state its direction.
KNOWN_METRICS = {
    "acc": ("max", "share"),
    "acc_norm": ("max", "share"),
    "exact_match": ("max", "share"),
    "pass@1": ("max", "share"),
    "bits_per_byte": ("min", "bits/byte"),
    "byte_perplexity": ("min", "perplexity"),
    "word_perplexity": ("min", "perplexity"),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """One capability and how it is scored.

    Attributes:
        name: how the objective is called in every table; unique in a study.
        metric: the evaluator's metric, such as `acc` or `exact_match,strict-match`.
        direction: `max` or `min`; empty takes the known direction of the metric.
        unit: unit of the score; empty takes the known unit of the metric.
        task: the evaluator's task; empty means `name`.
        held_out: reported, never seen by the search.
        scale: how large a difference counts as one step when objectives are averaged, in the
            score's own unit; None takes the range of the single checkpoints.
        cluster: field of the task's documents whose equal values mark dependent items.
    """

    name: str
    metric: str = "acc"
    direction: str = ""
    unit: str = ""
    task: str = ""
    held_out: bool = False
    scale: float | None = None
    cluster: str = ""

    def __post_init__(self) -> None:
        known = KNOWN_METRICS.get(self.metric.partition(",")[0])
        if not self.name or not self.name.replace("-", "_").replace(".", "_").isidentifier():
            raise InvalidConfig(
                f"objective name {self.name!r} is not a plain word.",
                hint="use letters, digits, '-', '_' and '.', beginning with a letter.",
            )
        direction = self.direction or (known[0] if known else "")
        if direction not in ("max", "min"):
            raise InvalidConfig(
                f"objective {self.name!r}: direction is {self.direction!r}, expected 'max' or "
                f"'min' (metric {self.metric!r} has no known direction).",
                hint=f"write `direction: max` or `direction: min` under {self.name!r}.",
            )
        if self.scale is not None and not self.scale > 0:
            raise InvalidConfig(
                f"objective {self.name!r}: scale is {self.scale}, expected a positive number.",
                hint="leave it out to use the range of the single checkpoints.",
            )
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "unit", self.unit or (known[1] if known else ""))
        object.__setattr__(self, "task", self.task or self.name)

    @property
    def sign(self) -> float:
        """+1 where larger scores are better, -1 where smaller ones are."""
        return 1.0 if self.direction == "max" else -1.0


@dataclass(frozen=True, slots=True)
class Objectives:
    """The objectives of a study, in the order of every (m,) array; held-out ones apart."""

    all: tuple[Objective, ...]

    def __post_init__(self) -> None:
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
    def searched(self) -> tuple[Objective, ...]:
        """The m objectives that the search sees."""
        return tuple(objective for objective in self.all if not objective.held_out)

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

    def gains(self, scores: Sequence[Mapping[str, float]]) -> Array:
        """Turn raw scores into gains; the only place where direction is applied.

        Args:
            scores: k mappings from objective name to raw score, in the score's unit.

        Returns:
            (k, m) larger is better; NaN where a score is missing.
        """
        rows = [[o.sign * row.get(o.name, np.nan) for o in self.searched] for row in scores]
        return np.asarray(rows, dtype=np.float64).reshape(len(scores), self.m)

    def raw(self, gains: Array) -> Array:
        """Inverse of `gains`: (..., m) gains back to raw scores in their own direction."""
        scores: Array = gains * np.array([o.sign for o in self.searched])
        return scores

    def scales(self, singles: Array) -> Array:
        """(m,) what counts as one step in each objective, from the singles' (k, m) gains."""
        span = np.ptp(singles, axis=0) if len(singles) else np.ones(self.m)
        given = [o.scale for o in self.searched]
        return np.array(
            [
                g if g is not None else (s if s > 0 else 1.0)
                for g, s in zip(given, span, strict=True)
            ]
        )
