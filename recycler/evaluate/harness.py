"""Objectives through lm-eval tasks: built once a worker, scored below `simple_evaluate`.

What keeps the numbers right (each has a test): few-shot examples are drawn once from a fixed seed
and the requests kept; document ids are passed sorted; no response cache, whose key would omit the
weights; own standard errors from item outcomes; each task is batched alone, so its scores do not
depend on which other tasks are asked for.

May import: errors, objectives, evaluation, trial, evaluate.items, lm_eval, transformers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from recycler.errors import InvalidConfig, NotFound
from recycler.evaluate.items import part_of, split_items
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import WHOLE
from recycler.yamlfile import read_yaml

FEWSHOT_SEED = 1234
# Metrics whose item outcome is (log-likelihood, size): value a size unit, weighted by size.
_BITS = {"bits_per_byte"}


class _QuietHFLM(HFLM):  # type: ignore[misc]
    """HFLM without the progress bars that it shows even when asked not to."""

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        return found


class LmEval:
    """Scores a Hugging Face causal model on lm-eval tasks (see `protocols.Evaluator`)."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        tokenizer: str,
        items: Mapping[str, int],
        *,
        tasks: str = "",
        batch_size: int = 64,
        max_length: int | None = None,
        num_fewshot: int | None = None,
        apply_chat_template: bool = False,
    ) -> None:
        """Load the tasks of all objectives; no model is needed yet.

        Args:
            objectives: what will be asked for.
            tokenizer: folder of the tokenizer.
            items: sizes of the splits and their seed (see `split_items`).
            tasks: folder of task YAML files; empty means lm-eval's own tasks.
            batch_size: sequences a forward pass.
            max_length: longest sequence [tokens]; None takes the model's.
            num_fewshot: overrides the tasks' own number of examples.
            apply_chat_template: wrap prompts in the tokenizer's chat template.
        """
        self._objectives = tuple(objectives)
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self._batch_size, self._max_length = batch_size, max_length
        self._chat = apply_chat_template
        self._lm: Any = None
        names = sorted({objective.task for objective in objectives})
        self._tasks = _load_tasks(names, tasks)
        self._splits = {}
        for name, task in self._tasks.items():
            if num_fewshot is not None:
                task.set_config(key="num_fewshot", value=num_fewshot)
            self._splits[name] = split_items(name, list(task.eval_docs), items)
        self._requests: dict[tuple[str, str], list[Instance]] = {}
        for objective in objectives:
            _require_metric(objective, self._tasks[objective.task])

    def evaluate(
        self,
        model: Any,
        objectives: Sequence[Objective],
        split: str,
        part: tuple[float, float] = WHOLE,
    ) -> dict[str, Outcomes]:
        """Item outcomes of each objective for the weights the model holds now.

        Args:
            model: a causal language model from transformers, in eval mode.
            objectives: some of those given at construction.
            split: dev, select or test.
            part: from which share of the split's items to which.
        """
        self._attach(model)
        results: dict[str, Outcomes] = {}
        for task in sorted({objective.task for objective in objectives}):
            wanted = [objective for objective in objectives if objective.task == task]
            results |= self._score(task, split, wanted, part)
        return results

    def _attach(self, model: Any) -> None:
        if self._lm is None:
            self._lm = _QuietHFLM(
                pretrained=model,
                tokenizer=self._tokenizer,
                backend="causal",
                batch_size=self._batch_size,
                max_length=self._max_length,
                device=str(model.device),
            )
        self._lm._model = model

    def _score(
        self, name: str, split: str, objectives: list[Objective], part: tuple[float, float]
    ) -> dict[str, Outcomes]:
        task, whole = self._tasks[name], self._splits[name][split]
        ids = part_of(whole, part)
        # requests were built from sorted ids, so doc_id is the position in the sorted split
        position = {doc: place for place, doc in enumerate(sorted(whole))}
        wanted = {position[i] for i in ids}
        requests = [r for r in self._frozen(name, split) if r.doc_id in wanted]
        for request in requests:
            request.resps, request.filtered_resps = [], {}
        repeated = [request for request in requests for _ in range(request.repeats or 1)]
        answers = getattr(self._lm, repeated[0].request_type)(repeated, disable_tqdm=True)
        for request, answer in zip(repeated, answers, strict=True):
            request.resps.append(answer)
        task._instances = requests
        task.apply_filters()
        by_document: dict[int, list[Instance]] = {}
        for request in sorted(requests, key=lambda request: request.idx):
            by_document.setdefault(request.doc_id, []).append(request)
        content = {request.doc_id: request.doc for request in self._frozen(name, split)}
        in_order = [content[position[i]] for i in whole]  # labels mean the same in every part
        return {
            objective.name: _outcomes(
                objective,
                task,
                [(i, by_document[position[i]]) for i in ids],
                _cluster_labels(in_order, objective.cluster),
            )
            for objective in objectives
        }

    def _frozen(self, name: str, split: str) -> list[Instance]:
        """The task's requests on a split, built on first use and kept: same prompts for all."""
        if (name, split) not in self._requests:
            task = self._tasks[name]
            task.set_fewshot_seed(FEWSHOT_SEED)
            task.build_all_requests(
                samples=sorted(self._splits[name][split]),
                rank=0,
                world_size=1,
                apply_chat_template=self._chat,
                chat_template=self._lm.apply_chat_template if self._chat else None,
                tokenizer_name=self._lm.tokenizer_name if self._chat else "",
            )
            self._requests[name, split] = list(task._instances)
        return self._requests[name, split]


def _load_tasks(names: Sequence[str], folder: str) -> dict[str, Any]:
    """Task objects by name, from a folder of YAML files or from lm-eval's own."""
    if not folder:
        manager = TaskManager()
        unknown = [name for name in names if name not in manager.all_subtasks]
        if unknown:
            raise NotFound(
                f"lm-eval has no task {unknown[0]!r}.",
                hint="`lm_eval ls tasks` lists them; a group's members are tasks of their own; "
                "set `evaluator.tasks` for a folder of your own.",
            )
        return dict(manager.load(list(names))["tasks"])
    configs = read_task_folder(Path(folder))
    for name in names:
        if name not in configs:
            raise NotFound(
                f"{folder} has no task {name!r}.", hint=f"it has: {', '.join(sorted(configs))}."
            )
    manager = TaskManager(include_defaults=False)
    return dict(manager.load([configs[name] for name in names])["tasks"])


def read_task_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """The task configs of a folder, with the paths of their data files made absolute.

    lm-eval takes `data_files` relative to the current folder; here they are relative to the YAML.
    """
    if not folder.is_dir():
        raise NotFound(f"task folder {folder} is not there.", hint="check `evaluator.tasks`.")
    configs = {}
    for file in sorted(folder.glob("*.yaml")):
        config = read_yaml(file, "task", "check `evaluator.tasks`.")
        if not isinstance(config, dict) or not isinstance(config.get("task"), str):
            raise InvalidConfig(
                f"{file} is not one lm-eval task: `task:` is not a name.",
                hint="one task a file; groups and !function tags are not read from folders.",
            )
        kwargs = dict(config.get("dataset_kwargs") or {})
        if "data_files" in kwargs:
            kwargs["data_files"] = _absolute(kwargs["data_files"], file.parent)
            config["dataset_kwargs"] = kwargs
        configs[config["task"]] = config
    return configs


def _absolute(files: Any, root: Path) -> Any:
    if isinstance(files, Mapping):
        return {key: _absolute(value, root) for key, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, root) for value in files]
    path = root / str(files)
    if not path.is_file():
        raise NotFound(f"data file {path} is not there.", hint="check `data_files` in the task.")
    return str(path.resolve())


def _require_metric(objective: Objective, task: Any) -> None:
    """Raise InvalidConfig unless the task has the objective's metric, filter and cluster field."""
    metric, _, wanted = objective.metric.partition(",")
    filters = [ensemble.name for ensemble in task._filters]
    fields = [str(key) for key in next(iter(task.eval_docs))]
    for what, name, known in (
        ("metric", metric, list(task.aggregation())),
        ("filter", wanted, filters),
        ("field", objective.cluster, fields),
    ):
        if name and name not in known:
            raise InvalidConfig(
                f"objective {objective.name!r}: task {objective.task!r} has no {what} {name!r}.",
                hint=f"it has: {', '.join(known)}.",
            )


def _outcomes(
    objective: Objective,
    task: Any,
    documents: Sequence[tuple[int, list[Instance]]],
    labels: Mapping[Any, int],
) -> Outcomes:
    metric, _, wanted = objective.metric.partition(",")
    filters = list(documents[0][1][0].filtered_resps)
    chosen = wanted or filters[0]
    ids, values, weights, clusters = [], [], [], []
    for number, requests in documents:
        document = requests[0].doc
        answers = [request.filtered_resps[chosen] for request in requests]
        value, weight = _value(metric, task.process_results(document, answers)[metric], objective)
        ids.append(number)
        values.append(value)
        weights.append(weight)
        if objective.cluster:
            clusters.append(labels[document[objective.cluster]])
    return Outcomes(
        tuple(ids),
        tuple(values),
        tuple(weights) if any(weight != 1.0 for weight in weights) else (),
        tuple(clusters),
    )


def _cluster_labels(documents: Sequence[Mapping[str, Any]], field: str) -> dict[Any, int]:
    """Value of the cluster field -> label, over a whole split; empty without a field."""
    values = dict.fromkeys(document[field] for document in documents) if field else {}
    return {value: label for label, value in enumerate(values)}


def _value(metric: str, outcome: Any, objective: Objective) -> tuple[float, float]:
    """One item's value and weight from what the task's `process_results` gave."""
    if metric in _BITS:
        loglikelihood, size = outcome
        return -float(loglikelihood) / (size * math.log(2)), float(size)
    if isinstance(outcome, bool | int | float) or getattr(outcome, "ndim", None) == 0:
        return float(outcome), 1.0
    raise InvalidConfig(
        f"objective {objective.name!r}: metric {metric!r} is not a mean over items.",
        hint="use a metric with one number an item (acc, exact_match, bits_per_byte …).",
    )
