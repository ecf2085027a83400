"""A reading: what one read transaction found about a study."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An immutable snapshot of a study, from one read transaction.

    Attributes:
        event: number of the study's last event.
        status: name, status, message, created, reference (gains), and number of trials per state.
        plan: the study's plan.
        trials: all trials by number, without item outcomes.
        looked_at: number of studies, this one included, that scored merges on these test items.
        outcomes: (trial number, split) -> objective -> item outcomes; unpacked on each call.
        answers: (trial number, split, objective) -> kept answers, or None. They are read when asked
            for: rows of answers never change.
    """

    event: int
    status: Mapping[str, Any]
    plan: Plan
    trials: tuple[Trial, ...]
    looked_at: int
    outcomes: Callable[[int, str], Mapping[str, Outcomes]]
    answers: Callable[[int, str, str], Answers | None]
