"""Axis ranges that one broken checkpoint does not stretch, and error ellipses.

Letters: k trials.
Reference: Tukey 1977, Exploratory Data Analysis (points "far out": 3 interquartile ranges).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recycler.front import pareto
from recycler.front.results import Results
from recycler.nouns.evaluation import error_correlation
from recycler.nouns.objectives import Array, Objective
from recycler.nouns.trial import Kind, Trial
from recycler.report.groups import errors, floors, groups, means, score

REACH = 0.5  # how far beyond the core an axis may go to show more points, in ranges of the core
FAR_OUT = 3.0  # interquartile ranges
_PAD = 0.06  # free space at each end, as a share of the range
_BORDER = 0.02  # distance of points outside from the border, as a share of the axis
_CORNERS = 48  # points of an ellipse


@dataclass(frozen=True, slots=True)
class Axis:
    """The range of one objective's axis, in its unit.

    Attributes:
        objective: what is drawn along it.
        low: smallest score shown.
        high: largest score shown.
    """

    objective: Objective
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """(worse, better): the axis runs from one to the other, so better is up or right."""
        upward = self.objective.direction == "max"
        return (self.low, self.high) if upward else (self.high, self.low)

    def inside(self, scores: Sequence[float]) -> list[float]:
        """(k,) scores, those outside moved to the border."""
        values, edge = np.asarray(scores, dtype=np.float64), _BORDER * (self.high - self.low)
        values = np.where(values < self.low, self.low + edge, values)
        found: list[float] = np.where(values > self.high, self.high - edge, values).tolist()
        return found

    def shows(self, score: float) -> bool:
        """Whether a score lies inside the range."""
        return self.low <= score <= self.high

    def share(self, scores: Sequence[float]) -> list[float]:
        """(k,) positions along the axis, 0 at its worse end and 1 at its better one."""
        worse, better = self.ends
        found: list[float] = ((np.array(self.inside(scores)) - worse) / (better - worse)).tolist()
        return found


def axes(results: Results, split: str) -> dict[str, Axis]:
    """Objective -> axis, for all objectives with scores on the split."""
    shown = [trial for trials in groups(results, split).values() for trial in trials]
    core = _core(results, split, shown)
    found = {}
    for objective in results.plan.objectives:
        drawn = np.array(means(shown, objective, split))
        if not np.isfinite(drawn).any():
            continue
        low, high = _reach(_ends(core, objective, split, drawn), drawn)
        for trial in results.front.trials:  # with the whole bars of the members inside
            known = score(trial, objective, split)
            if known and low <= known.mean <= high:
                low, high = (
                    min(low, known.mean - known.stderr),
                    max(high, known.mean + known.stderr),
                )
        lines = [f for f in floors(results, split, objective) if low <= f <= high]
        found[objective.name] = Axis(
            objective, float(min([low, *lines])), float(max([high, *lines]))
        )
    return found


def outside(axis: Mapping[str, Axis], trials: Sequence[Trial], split: str) -> list[Trial]:
    """Trials with a score outside one of the axes."""
    return [
        trial
        for trial in trials
        if any(
            np.isfinite(mean) and not a.shows(mean)
            for a in axis.values()
            for mean in means([trial], a.objective, split)
        )
    ]


def _core(results: Results, split: str, shown: Sequence[Trial]) -> list[Trial]:
    """The front, and of singles and references those that no other of their kind dominates.

    Empty if they are fewer than three.
    """
    kept = {trial.number for trial in results.front.trials}
    for kind in (Kind.SINGLE, Kind.REFERENCE):
        rivals = [t for t in shown if t.kind == kind and split in t.evaluations]
        best = pareto.nondominated(results.plan.objectives.gains([t.means(split) for t in rivals]))
        kept |= {t.number for t, keep in zip(rivals, best, strict=True) if keep}
    core = [trial for trial in shown if trial.number in kept]
    return core if len(core) > 2 else []


def axis_of(objective: Objective, scores: Sequence[float]) -> Axis:
    """The axis that shows all scores but those far out."""
    drawn = np.array(scores)[np.isfinite(scores)]
    low, high = _padded(*_fenced(drawn, drawn))
    return Axis(objective, low, high)


def _ends(
    core: Sequence[Trial], objective: Objective, split: str, drawn: Array
) -> tuple[float, float]:
    """Ends of the core with its standard errors; without one, the better half of what is drawn."""
    middle = np.array(means(core, objective, split))
    spread = np.nan_to_num(np.array(errors(core, objective, split)))
    known = np.isfinite(middle)
    if known.sum() < 3:
        gains = objective.sign * drawn[np.isfinite(drawn)]
        best = objective.sign * gains[gains >= np.median(gains)]
        return float(best.min()), float(best.max())
    return _fenced(middle[known] - spread[known], middle[known] + spread[known])


def _fenced(lows: Array, highs: Array) -> tuple[float, float]:
    """Smallest and largest end of the bars that are not far out."""
    middle = (lows + highs) / 2
    first, third = np.quantile(middle, [0.25, 0.75])
    fence = FAR_OUT * (third - first)
    near = (middle >= first - fence) & (middle <= third + fence)
    return float(lows[near].min()), float(highs[near].max())


def _reach(ends: tuple[float, float], drawn: Array) -> tuple[float, float]:
    """Ends of the axis: those of the core, widened to the points within `REACH`, and padded."""
    low, high = ends
    span = high - low
    near = drawn[(drawn >= low - REACH * span) & (drawn <= high + REACH * span)]
    return _padded(min(low, near.min(initial=low)), max(high, near.max(initial=high)))


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = _PAD * (high - low) or 0.01 * max(abs(high), 1.0)
    return low - pad, high + pad


def ellipses(
    results: Results, trials: Sequence[Trial], across: Objective, up: Objective, split: str
) -> list[Array]:
    """For each trial, a (points, 2) ellipse of one standard error around its two scores.

    Its extent along each axis is one standard error; both scores together lie in it with
    probability 0.39. It is tilted if both objectives are scored on the same items, whose outcomes
    say how the two errors are correlated; else its axes are those of the plot.
    """
    turn = np.linspace(0.0, 2.0 * np.pi, _CORNERS)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    found = []
    for trial in trials:
        centre = np.array([means([trial], o, split)[0] for o in (across, up)])
        spread = np.array([errors([trial], o, split)[0] for o in (across, up)])
        known = results.outcomes(trial, split) if across.task == up.task else {}
        rho = error_correlation(known.get(across.name), known.get(up.name))
        tilted = np.array([[1.0, 0.0], [rho, np.sqrt(1.0 - rho**2)]]) @ circle
        found.append((centre[:, None] + spread[:, None] * tilted).T)
    return found
