"""The bill of a study before it runs: evaluations, items and hours from measured rates.

Counts are ranges: how many finalists are re-checked and how many merges are reported depends on
scores. Letters: n checkpoints, m objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recycler.front.baselines import merges_best
from recycler.front.stages import spent
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Kind, State, Trial

# Task -> split -> number of items.
Sizes = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Rates:
    """What one worker of this machine was measured to take.

    Attributes:
        start: to start a worker: tasks and model loaded, prompts made [s].
        single: to load a single checkpoint [s].
        merge: to merge all checkpoints [s].
        items: task -> to score one item [s].
        memory: largest memory of the worker [B].
        item_bytes: of the ledger for one item outcome [B].
    """

    start: float
    single: float
    merge: float
    items: Mapping[str, float]
    memory: int
    item_bytes: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a study; each pair is (least, most).

    Attributes:
        name: singles (with the references), search, re-check or report.
        merges: merges to evaluate, single checkpoints included.
        items: item evaluations; an item counts once for each task, not for each of its metrics.
        seconds: of one worker [s].
        free: merges whose scores the ledger has already.
    """

    name: str
    merges: tuple[int, int]
    items: tuple[int, int]
    seconds: tuple[float, float]
    free: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What is left to pay for a study."""

    study: str
    stages: tuple[Stage, ...]
    rates: Rates
    workers: int

    @property
    def merges(self) -> tuple[int, int]:
        return _both([stage.merges for stage in self.stages])

    @property
    def items(self) -> tuple[int, int]:
        return _both([stage.items for stage in self.stages])

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall-clock time with all workers, their start included [s]; 0 if nothing is left."""
        least = sum(stage.seconds[0] for stage in self.stages)
        most = sum(stage.seconds[1] for stage in self.stages)
        start = self.rates.start
        least, most = (s / self.workers + (start if s else 0.0) for s in (least, most))
        return least, most

    @property
    def ledger_bytes(self) -> int:
        """Largest growth of the ledger [B]."""
        return round(self.items[1] * self.rates.item_bytes)

    @property
    def memory(self) -> int:
        """Memory of all workers [B]."""
        return self.workers * self.rates.memory


@dataclass(frozen=True, slots=True)
class _Cost:
    """Item evaluations and seconds of scoring one merge on one split."""

    items: int
    seconds: float


def bill(
    plan: Plan,
    sizes: Sizes,
    rates: Rates,
    workers: int,
    trials: Sequence[Trial] = (),
    known: Mapping[tuple[str, str], frozenset[str]] | None = None,
    complete: bool = False,
) -> Bill:
    """Add up what a study has left to pay.

    Args:
        plan: the study.
        sizes: number of items of each task in each split.
        rates: measured on this machine.
        workers: merges evaluated at the same time.
        trials: the study's trials so far.
        known: (recipe id, split) -> objectives whose scores the ledger has, for the singles and
            uniform.
        complete: whether the study has ended with this budget, so that nothing is left.
    """
    stages = _Account(plan, sizes, rates, trials, known or {}).stages()
    if complete:
        stages = [Stage(s.name, (0, 0), (0, 0), (0.0, 0.0), s.free) for s in stages]
    return Bill(plan.name, tuple(stages), rates, workers)


class _Account:
    """The arithmetic of `bill`."""

    def __init__(
        self,
        plan: Plan,
        sizes: Sizes,
        rates: Rates,
        trials: Sequence[Trial],
        known: Mapping[tuple[str, str], frozenset[str]],
    ) -> None:
        self.plan, self.sizes, self.rates = plan, sizes, rates
        self.trials, self.known = trials, known

    def stages(self) -> list[Stage]:
        return [self._singles(), self._search(), self._recheck(), self._report()]

    def _singles(self) -> Stage:
        costs = self._baselines("dev", range(self.plan.n))
        paid, seconds = [c for c in costs if c.items], sum(c.seconds for c in costs)
        items = sum(c.items for c in costs)
        free = len(costs) - len(paid)
        return Stage("singles", (len(paid),) * 2, (items,) * 2, (seconds,) * 2, free)

    def _search(self) -> Stage:
        plan = self.plan
        if plan.n < 2:
            return Stage("search", (0, 0), (0, 0), (0.0, 0.0))
        uniform = self._cost("dev", plan.recipe((1 / plan.n,) * plan.n).id, self.rates.merge)
        whole = self._cost("dev", "", self.rates.merge)
        left = max(0, plan.evaluations - self._ended())
        best = int(merges_best(plan) and not self._has(Kind.MERGE_BEST))
        least, most = whole, whole
        if plan.racing:  # one block, or all of them with a merge for each
            blocks = plan.racing["blocks"]
            loads = (len(blocks) - 1) * self.rates.merge
            least = self._cost("dev", "", self.rates.merge, blocks[0])
            most = _Cost(whole.items, whole.seconds + loads)
        low = 0 if plan.stop_gain else left
        first = int(uniform.items > 0)
        return Stage(
            "search",
            (first + low, first + best + left),
            (
                uniform.items + low * least.items,
                uniform.items + best * whole.items + left * most.items,
            ),
            (
                uniform.seconds + low * least.seconds,
                uniform.seconds + best * whole.seconds + left * most.seconds,
            ),
            1 - first,
        )

    def _recheck(self) -> Stage:
        made, finalists = self.plan.evaluations, self.plan.finalists
        return self._after("re-check", "select", min(made, max(1, finalists // 2)), self._rivals())

    def _report(self) -> Stage:
        return self._after("report", "test", 0, self._rivals())

    def _rivals(self) -> int:
        """Most merges besides the baselines that are re-checked: finalists and the greedy soup."""
        made, plan = self.plan.evaluations, self.plan
        return min(made, plan.finalists + int(plan.greedy))

    def _after(self, name: str, split: str, least: int, most: int) -> Stage:
        """A stage after the search: the baselines, and between `least` and `most` other merges."""
        costs = self._baselines(split, range(self.plan.n + (self.plan.n > 1)))
        whole = self._cost(split, "", self.rates.merge)
        done = self._scored(split)
        best = int(merges_best(self.plan))
        if self.plan.n < 2:  # a study of one checkpoint has no merges
            least, most, best = 0, 0, 0
        low, high = max(0, least - done), max(0, most + best - done)
        paid, items = sum(c.items > 0 for c in costs), sum(c.items for c in costs)
        seconds = sum(c.seconds for c in costs)
        return Stage(
            name,
            (paid + low, paid + high),
            (items + low * whole.items, items + high * whole.items),
            (seconds + low * whole.seconds, seconds + high * whole.seconds),
            len(costs) - paid + min(done, most + best),
        )

    def _baselines(self, split: str, positions: range) -> list[_Cost]:
        """Cost of each single by position, then of the references; position n is uniform."""
        n, found = self.plan.n, []
        for i in positions:
            weights = [1 / n] * n if i == n else [float(j == i) for j in range(n)]
            load = self.rates.merge if i == n else self.rates.single
            found.append(self._cost(split, self.plan.recipe(weights).id, load))
        for entry in self.plan.references:  # a model is taken to be as fast as the checkpoints
            load = self.rates.single if entry.recipe.is_model else self.rates.merge
            found.append(self._cost(split, entry.recipe.id, load))
        return found

    def _cost(self, split: str, recipe: str, load: float, share: float = 1.0) -> _Cost:
        """Cost of scoring a merge on (the first share of) a split, without what is known of it."""
        objectives = self.plan.objectives
        asked = objectives.all if split == "test" else objectives.searched
        known = self.known.get((recipe, split), frozenset())
        tasks = {o.task for o in asked if not o.of_merge and o.name not in known}
        counts = {task: round(self.sizes[task][split] * share) for task in tasks}
        if not counts:
            return _Cost(0, 0.0)
        seconds = load + sum(count * self.rates.items[task] for task, count in counts.items())
        return _Cost(sum(counts.values()), seconds)

    def _ended(self) -> int:
        """Evaluations of the budget that are paid."""
        return spent([t for t in self.trials if t.state != State.RUNNING])

    def _has(self, kind: str) -> bool:
        return any(t.kind == kind and t.state != State.RUNNING for t in self.trials)

    def _scored(self, split: str) -> int:
        """Trials besides singles, uniform and references that are scored on a split."""
        plain = (Kind.SINGLE, Kind.UNIFORM, Kind.REFERENCE)
        return sum(t.kind not in plain and split in t.evaluations for t in self.trials)


def _both(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(least for least, _ in pairs), sum(most for _, most in pairs)


def to_json(found: Bill) -> dict[str, Any]:
    """Return the bill as `recycler run --plan --json` prints it."""
    return {
        "study": found.study,
        "workers": found.workers,
        "merges": list(found.merges),
        "item_evaluations": list(found.items),
        "seconds": list(found.seconds),
        "ledger_bytes": found.ledger_bytes,
        "memory_bytes": found.memory,
        "stages": [
            {
                "name": s.name,
                "merges": list(s.merges),
                "item_evaluations": list(s.items),
                "worker_seconds": list(s.seconds),
                "free": s.free,
            }
            for s in found.stages
        ],
        "measured": {
            "start_seconds": found.rates.start,
            "single_seconds": found.rates.single,
            "merge_seconds": found.rates.merge,
            "item_seconds": dict(found.rates.items),
        },
    }


def from_json(table: Mapping[str, Any]) -> Bill:
    """The bill that `to_json` wrote."""
    items, measured = table["item_evaluations"][1], table["measured"]
    return Bill(
        table["study"],
        tuple(
            Stage(
                s["name"],
                (s["merges"][0], s["merges"][1]),
                (s["item_evaluations"][0], s["item_evaluations"][1]),
                (s["worker_seconds"][0], s["worker_seconds"][1]),
                s["free"],
            )
            for s in table["stages"]
        ),
        Rates(
            start=measured["start_seconds"],
            single=measured["single_seconds"],
            merge=measured["merge_seconds"],
            items=measured["item_seconds"],
            memory=table["memory_bytes"] // table["workers"],
            item_bytes=table["ledger_bytes"] / items if items else 0.0,
        ),
        table["workers"],
    )
