"""Times one merge and a block of items of each task, on one worker in this process."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from recycler.errors import InvalidConfig
from recycler.front.bill import Rates
from recycler.nouns.evaluation import Evaluation
from recycler.nouns.measure import TOGETHER, items_part
from recycler.nouns.plan import Plan
from recycler.nouns.trial import WHOLE, Job
from recycler.protocols import Scorer, ScorerFactory
from recycler.store.rows import numbers_of

BLOCK = 8  # items of the first block, which is not counted: it makes the prompts
LONG = 20.0  # a merge that takes this long is not made twice [s]
SPEND = 1.5  # seconds that the second block of a task should take [s]


def timed(
    factory: ScorerFactory,
    plan: Plan,
    tell: Callable[[int, int], object] = lambda done, all_: None,
) -> tuple[Rates, dict[str, dict[str, int]]]:
    """Measure what one worker takes for the merges and items of a study.

    Args:
        factory: makes the scorer.
        plan: the study.
        tell: called with the number of finished measurements and that of all.

    Returns:
        The rates, and task -> split -> number of items. Where an evaluator does not tell the sizes of
        its splits, all are taken to be that of dev.
    """
    groups = _groups(plan)
    begun = time.perf_counter()
    scorer = factory()
    start = time.perf_counter() - begun
    items: dict[str, float] = {}
    sizes: dict[str, dict[str, int]] = {}
    stored = counted = 0
    single = plan.recipe([1.0] + [0.0] * (plan.n - 1))
    for step, (tasks, names) in enumerate(groups):
        tell(step, len(groups) + 1)
        found, seconds, warm = _block(scorer, plan, single, names)
        start += warm
        counts = [found.scores[name].items for name in names]
        counted += sum(counts)
        stored += sum(len(numbers_of(found, name)["outcomes"] or b"") for name in names)
        scored = sum(counts) / len(names) * len(tasks)
        for task in tasks:
            items[task] = seconds / max(scored, 1)
            told = plan.measures.get(names[0], {}).get(items_part(task))
            dev = max(counts)
            sizes[task] = {s: int(told[s]) if told else dev for s in ("dev", "select", "test")}
    tell(len(groups), len(groups) + 1)
    loads = _merges(scorer, plan, groups[0][1][:1])
    tell(len(groups) + 1, len(groups) + 1)
    rates = Rates(start, *loads, items, _memory(), stored / max(counted, 1))
    return rates, sizes


def _groups(plan: Plan) -> list[tuple[list[str], list[str]]]:
    """Tasks that are scored in one call, and their objectives; each lm-eval task is alone."""
    measured = [o for o in plan.objectives if not o.of_merge]
    if not measured:
        raise InvalidConfig(
            f"study {plan.name!r} has no task to time: all objectives are properties of the merge.",
            hint="list a task under `objectives:` or `held_out:`.",
        )
    tasks = list(dict.fromkeys(o.task for o in measured))
    if plan.evaluator.get("kind", "lm-eval") != "lm-eval":  # one call scores everything
        return [(tasks, [o.name for o in measured])]
    return [([task], [o.name for o in measured if o.task == task]) for task in tasks]


def _block(
    scorer: Scorer, plan: Plan, recipe: Any, names: list[str]
) -> tuple[Evaluation, float, float]:
    """A block of items: its evaluation, its seconds, and those of the first try before it."""
    told: Mapping[str, Any] = plan.measures.get(names[0], {})
    sizes = told.get(items_part(plan.objectives[names[0]].task))
    apart = all(plan.measures[n].get("scored") != TOGETHER for n in names)

    def score(part: tuple[float, float]) -> tuple[Evaluation, float]:
        found = scorer(Job(0, recipe, "dev", tuple(names), part))
        return found, found.seconds["evaluate"]

    if not sizes or not apart:
        found, seconds = score(WHOLE)
        return found, seconds, 0.0
    dev = int(sizes["dev"])
    first = min(1.0, BLOCK / dev)
    found, warm = score((0.0, first))
    share = min(1.0, max(first, first * SPEND / max(warm, 1e-3)))
    if warm > 4 * SPEND:  # slow enough to be measured already
        return found, warm, 0.0
    found, seconds = score((0.0, share))
    return found, seconds, max(0.0, warm - seconds * first / share)


def _merges(scorer: Scorer, plan: Plan, names: list[str]) -> tuple[float, float]:
    """Seconds to load a single checkpoint, and to merge all of them."""
    n, found = plan.n, list[float]()
    last = [float(i == n - 1) for i in range(n)]
    halves = [(1 + (i == 0)) / (n + 1) for i in range(n)]
    for weights in (last, halves, [1 / n] * n):  # the first merge of a process compiles its loops
        if len(found) == 2 and found[1] > LONG:
            break
        sizes = plan.measures.get(names[0], {}).get(items_part(plan.objectives[names[0]].task))
        part = (0.0, min(1.0, 1 / int(sizes["dev"]))) if sizes else WHOLE
        if plan.measures.get(names[0], {}).get("scored") == TOGETHER:
            part = WHOLE
        found.append(
            scorer(Job(0, plan.recipe(weights), "dev", tuple(names), part)).seconds["merge"]
        )
    return found[0], found[-1]


def _memory() -> int:
    """Largest memory that this process has had [B]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
