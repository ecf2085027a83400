"""What tasks offer as objectives, without a model: metrics, number of items, longest prompt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.errors import InvalidConfig
from recycler.evaluate.items import content_of
from recycler.evaluate.tasks import (
    aggregation_of,
    declared_metrics,
    higher_is_better,
    load_tasks,
)
from recycler.evaluate.tokenizer import load_tokenizer
from recycler.nouns.objectives import KNOWN_METRICS

# Of several metrics of one task, the usual one: normalised for choices, per byte for texts.
PREFERRED = ("acc_norm", "exact_match", "pass@1", "acc", "bits_per_byte")
_MEASURED = 16  # prompts of a task that are counted in tokens, of its longest documents
_ANSWER = 256  # tokens of an answer, unless the task says how many


@dataclass(frozen=True, slots=True)
class OfferedMetric:
    """A metric that can be an objective.

    Attributes:
        name: as a study file has it, with the filter if the task has several.
        direction: max or min, as the task says, else as is known of the metric; empty: unknown.
    """

    name: str
    direction: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a task offers.

    Attributes:
        task: its name.
        metrics: the preferred one first.
        items: number of its items.
        longest: longest prompt with its answer [tokens], estimated from the longest documents.
    """

    task: str
    metrics: tuple[OfferedMetric, ...]
    items: int
    longest: int

    def metric(self, name: str) -> OfferedMetric:
        """The metric of that name; without a filter, the first of the task's filters.

        Raises:
            InvalidConfig: the task has no such metric.
        """
        for metric in self.metrics:
            if name in (metric.name, metric.name.partition(",")[0]):
                return metric
        raise InvalidConfig(
            f"task {self.task!r} has no metric {name!r}.",
            hint=f"it has: {'; '.join(metric.name for metric in self.metrics)}.",
        )


def offers(
    names: Iterable[str], folder: Path | None, root: Path, allow_unsafe: bool, tokenizer: Path
) -> dict[str, Offer]:
    """Task -> what it offers.

    Args:
        names: names of tasks.
        folder: folder of tasks, as for `lm_eval --include_path`; None: lm-eval's own.
        root: folder of the study file, for relative data paths.
        allow_unsafe: whether tasks may run code that a model writes.
        tokenizer: folder of the tokenizer that counts tokens.

    Raises:
        NotFound: no such task (with the nearest names), or its data is not on this machine.
        InvalidConfig: a group, a task that can't be loaded, or without a metric that can be used.
    """
    counts = load_tokenizer(str(tokenizer))
    loaded = load_tasks(names, folder, root, allow_unsafe)
    return {name: _offer(name, found.task, counts) for name, found in loaded.items()}


def _offer(name: str, task: Any, tokenizer: Any) -> Offer:
    documents = list(task.eval_docs)
    metrics = _metrics(task)
    if not metrics:
        raise InvalidConfig(
            f"task {name!r} has no metric that is one number "
            f"(it has: {', '.join(declared_metrics(task)) or 'none'}).",
            hint="take another task, or add a metric with an aggregation to it.",
        )
    return Offer(name, metrics, len(documents), _longest(task, documents, tokenizer))


def _metrics(task: Any) -> tuple[OfferedMetric, ...]:
    usable = [m for m in declared_metrics(task) if aggregation_of(task, m)[0] != "bypass"]
    usable.sort(key=lambda m: PREFERRED.index(m) if m in PREFERRED else len(PREFERRED))
    filters = [ensemble.name for ensemble in task._filters]
    made = []
    for metric in usable:
        higher = higher_is_better(task, metric)
        known = KNOWN_METRICS.get(metric, ("",))[0]
        direction = known if higher is None else ("max" if higher else "min")
        variants = [f"{metric},{one}" for one in filters] if len(filters) > 1 else [metric]
        made += [OfferedMetric(variant, direction) for variant in variants]
    return tuple(sorted(made, key=lambda metric: not metric.direction))  # unknown ones last


def _longest(task: Any, documents: Sequence[Any], tokenizer: Any) -> int:
    """Longest prompt and answer [tokens]; 0 if no prompt can be made without a model."""
    sizes = [len(content_of(document)) for document in documents]
    ids = sorted(range(len(documents)), key=lambda i: -sizes[i])[:_MEASURED]
    try:
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(1234)
        task.build_all_requests(samples=sorted(ids), rank=0, world_size=1)
        return max(_tokens(request, tokenizer) for request in task._instances)
    except Exception:  # a task's code may raise anything; the evaluator says what is wrong with it
        return 0


def _tokens(request: Any, tokenizer: Any) -> int:
    texts = [part for part in request.args if isinstance(part, str)]
    settings = next((part for part in request.args if isinstance(part, dict)), None)
    answer = int(settings.get("max_gen_toks", _ANSWER)) if settings is not None else 0
    return len(tokenizer("".join(texts)).input_ids) + answer
