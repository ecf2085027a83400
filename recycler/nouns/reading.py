"""A reading: all that the ledger knew of a study at one moment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recycler.nouns.evaluation import Outcomes
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one read transaction found; it never changes, whatever is written afterwards.

    Attributes:
        event: number of the study's last event at that moment.
        status: name, status, message, created, reference (gains) and trials in each state.
        plan: the study's plan.
        trials: all trials by number, without item outcomes.
        looked_at: how many studies, this one too, have scored merges on these test items.
        outcomes: (number of a trial, split) -> objective -> item outcomes, unpacked when asked for.
    """

    event: int
    status: Mapping[str, Any]
    plan: Plan
    trials: tuple[Trial, ...]
    looked_at: int
    outcomes: Callable[[int, str], Mapping[str, Outcomes]]
