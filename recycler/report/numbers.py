"""How scores, differences, objectives and trials are written for people, the same everywhere."""

import math

from recycler.nouns.evaluation import Score
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import Trial

_LEAST, _MOST = 3, 6  # digits after the point of a score


def scored(score: Score | None) -> str:
    """`0.641 ± 0.004`, with as many digits as its error has; empty without a score.

    An exact score, or one that came without an error, stands alone.
    """
    if score is None:
        return ""
    if not score.stderr:
        return f"{score.mean:.{_LEAST}f}"
    places = _places(score.stderr, 1)
    return f"{score.mean:.{places}f} ± {score.stderr:.{places}f}"


def mean(score: Score) -> str:
    """The score without its error, in the digits of `scored`."""
    return scored(score).partition(" ")[0]


def signed(difference: float, interval: tuple[float, float] | None) -> str:
    """`+0.116 [+0.050, +0.170]`, with two digits of the interval's half-width."""
    if interval is None:
        return f"{difference:+.4g}, error unknown"
    low, high = interval
    half = (high - low) / 2
    places = min(_MOST, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4
    return f"{difference:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}]"


def probability(p: float | None) -> str:
    """`0.87`; `unknown` for None."""
    return "unknown" if p is None else f"{p:.2f}"


def headed(objective: Objective) -> str:
    """`code ↑`, with a star if it is held out."""
    arrow = "↑" if objective.direction == "max" else "↓"
    return f"{objective.name}{'*' if objective.held_out else ''} {arrow}"


def titled(objective: Objective) -> str:
    """`prose ↓ [bits/byte]`: the head and the unit, if it is not a share."""
    unit = f" [{objective.unit}]" if objective.unit not in ("", "share") else ""
    return f"{headed(objective)}{unit}"


def called(trial: Trial) -> str:
    """`trial 17 (search 17)`."""
    return f"trial {trial.number} ({trial.name})"


def _places(error: float, digits: int) -> int:
    """Digits after the point that show so many digits of an error."""
    if not 0 < error < math.inf:
        return _LEAST
    return min(_MOST, max(_LEAST, digits - 1 - math.floor(math.log10(error))))
