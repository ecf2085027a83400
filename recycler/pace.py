"""The pace of a run: how far it is, how fast it goes, and how long the rest will take.

A run tells this to other processes through its lease; it decides nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from recycler.front.baselines import most
from recycler.nouns.evaluation import Evaluation, Failure, Split
from recycler.nouns.plan import Plan
from recycler.nouns.trial import WHOLE, Job

WINDOW = 20  # results that the pace is averaged over


class Pace:
    """What a run tells of itself.

    Args:
        plan: the study.
        tell: takes the progress as JSON data: `{"phase", "done", "total": trials of this phase,
            "busy": jobs in flight, "waiting": fault of the environment that jobs wait for, "rate":
            items per second or None, "pace": seconds per trial on dev items or None, "began" [s
            since 1970]}`.
        clock: seconds; never goes back.
    """

    def __init__(
        self,
        plan: Plan,
        tell: Callable[[Mapping[str, Any]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._tell, self._clock = plan, tell, clock
        self._landed: deque[tuple[float, float, int]] = deque(maxlen=WINDOW + 1)
        self._began = time.time()
        self._last: dict[str, Any] = {}

    def submitted(self, busy: int) -> None:
        """Jobs were submitted; so many are in flight. Time before the first one does not count."""
        if not self._landed:
            self._landed.append((self._clock(), 0.0, 0))
        if self._last and self._last["busy"] != busy:
            self._last["busy"] = busy
            self._tell(self._last)

    def landed(self, job: Job, result: Evaluation | Failure) -> None:
        """A job has come back from the executor."""
        whole = job.part == WHOLE
        share = size(self._plan, job.split) * (1.0 if whole else job.part[1] - job.part[0])
        scores = result.scores.values() if isinstance(result, Evaluation) else ()
        self._landed.append((self._clock(), share, sum(score.items for score in scores)))

    def told(self, phase: str, done: int, total: int, busy: int, waiting: str = "") -> None:
        """Tell the progress after an event."""
        rows = list(self._landed)
        seconds = rows[-1][0] - rows[0][0] if len(rows) > 1 else 0.0
        work, items = sum(row[1] for row in rows[1:]), sum(row[2] for row in rows[1:])
        self._last = {
            "phase": phase,
            "done": done,
            "total": total,
            "busy": busy,
            "waiting": waiting,
            "rate": items / seconds if seconds > 0 and items else None,
            "pace": seconds / work if seconds > 0 and work else None,
            "began": self._began,
        }
        self._tell(self._last)


def size(plan: Plan, split: str) -> float:
    """Size of a split relative to the dev items; 1 where the sizes are unknown."""
    dev, asked = plan.items.get(Split.DEV), plan.items.get(split)
    known = isinstance(dev, int | float) and isinstance(asked, int | float) and dev > 0
    return asked / dev if known and asked else 1.0  # type: ignore[operator]


def seconds_left(plan: Plan, told: Mapping[str, Any], done: int | None = None) -> float | None:
    """Expected seconds until the study is complete, from what its run told; None if unknown.

    The re-check counts the finalists and baselines, and the report the baselines and half of the
    finalists, because who is elected is known only later.

    Args:
        plan: the study.
        told: what `Pace` told.
        done: trials of the present phase that are done, if newer than what was told.
    """
    if not told or told.get("pace") is None:
        return None
    left = max(0, told["total"] - (told["done"] if done is None else done))
    finalists = min(plan.finalists, plan.evaluations) if plan.n > 1 else 0
    later = {
        Split.SELECT: finalists + most(plan),
        Split.TEST: finalists // 2 + most(plan),
    }
    order = ("search", Split.SELECT, Split.TEST)
    work = left * (1.0 if told["phase"] == "search" else size(plan, told["phase"]))
    for phase in order[order.index(told["phase"]) + 1 :]:
        work += later[Split(phase)] * size(plan, phase)
    return float(work * told["pace"])
