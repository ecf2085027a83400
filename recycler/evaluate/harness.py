"""The evaluator `lm-eval`: scores on lm-eval tasks, item by item, without `simple_evaluate`.

To keep scores comparable (each point has a test): few-shot examples are drawn once from a fixed seed
and requests are reused; document ids are passed sorted; there is no response cache, whose key would
omit the weights; aggregation is the task's own, with standard errors added; each task is batched
alone, so that its scores do not depend on the other tasks; sampled answers are seeded per item.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig

from recycler.beneath import pinned
from recycler.checkpoints.header import read_json
from recycler.errors import InvalidConfig
from recycler.evaluate import measure
from recycler.evaluate.aggregates import MISSING, Rule
from recycler.evaluate.answers import answers_of
from recycler.evaluate.items import content_of, dependent, part_of, split_items
from recycler.evaluate.settings import LmEvalSettings
from recycler.evaluate.tasks import (
    LoadedTask,
    aggregation_of,
    config_of,
    declared_metrics,
    helper_files,
    higher_is_better,
    load_tasks,
)
from recycler.evaluate.tokenizer import load_tokenizer
from recycler.nouns.evaluation import SPLITS, Outcomes
from recycler.nouns.measure import TOGETHER, items_part
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import WHOLE
from recycler.protocols import Context

FEWSHOT_SEED = 1234  # as in lm_eval.simple_evaluate
GUESSED = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes")  # shares of right choices
PROBED = 16  # items whose metrics are checked with made-up answers
# Made-up answers by request type, to check a task's metrics before there is a model.
_PROBES: Mapping[str, Any] = {
    "loglikelihood": (-1.0, False),
    "loglikelihood_rolling": -1.0,
    "generate_until": "1",
}


class _QuietHFLM(HFLM):  # type: ignore[misc]
    """HFLM without the progress bars that ignore `disable_tqdm`."""

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        return found


class LmEval:
    """Scores a Hugging Face language model on lm-eval tasks (see `protocols.Evaluator`)."""

    Settings = LmEvalSettings
    takes: ClassVar[Literal["model", "folder"]] = "model"

    def __init__(self, context: Context, settings: LmEvalSettings) -> None:
        """Load the tasks of all objectives and check them as far as possible without a model.

        Raises:
            NotFound: a task, a folder or a data file is missing.
            InvalidConfig: a metric, filter, field, direction or setting is invalid.
        """
        self._context, self._settings = context, settings
        self._tokenizer = load_tokenizer(context.tokenizer)
        _require_chat_template(self._tokenizer, settings)
        self._backend = _backend(context.tokenizer)
        self._lm: Any = None
        root = Path(context.root)
        folder = (root / Path(settings.tasks).expanduser()) if settings.tasks else None
        names = [objective.task for objective in context.objectives]
        loaded = load_tasks(names, folder, root, settings.allow_unsafe_code)
        self._loaded: dict[str, LoadedTask] = loaded
        self._tasks = {name: found.task for name, found in loaded.items()}
        self._documents = {name: list(task.eval_docs) for name, task in self._tasks.items()}
        for objective in context.objectives:
            _require_known(objective, self._tasks[objective.task])
        self._splits = {}
        for name, task in self._tasks.items():
            _set_fewshot(task, settings.num_fewshot)
            fields = sorted({o.cluster for o in context.objectives if o.task == name} - {""})
            documents = self._documents[name]
            self._splits[name] = split_items(name, documents, context.items, fields)
        self._requests: dict[tuple[str, str], list[Instance]] = {}
        self._labels: dict[tuple[str, str], list[int]] = {}
        for name, task in self._tasks.items():
            asked = [o for o in context.objectives if o.task == name]
            self._probe(name, task, asked)

    # --- scores ---

    def evaluate(
        self,
        model: Any,
        objectives: Sequence[Objective],
        split: str,
        part: tuple[float, float] = WHOLE,
    ) -> dict[str, Outcomes]:
        """Return item outcomes of each objective for the model's current weights.

        Args:
            model: a transformers language model in eval mode.
            objectives: a subset of those given at construction.
            split: dev, select or test.
            part: (start, stop) as shares of the split's items.

        Raises:
            InvalidConfig: `part` is not the whole and a metric can't be scored on part of the items.
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
                backend="seq2seq" if model.config.is_encoder_decoder else "causal",
                batch_size=self._settings.batch_size,
                max_length=self._settings.max_length,
                device=str(model.device),
            )
        self._lm._model = model

    def _score(
        self, name: str, split: str, objectives: list[Objective], part: tuple[float, float]
    ) -> dict[str, Outcomes]:
        task, whole = self._tasks[name], self._splits[name][split]
        if part != WHOLE:
            _require_parts(task, objectives)
        ids = part_of(whole, part)
        # requests were built from sorted ids, so doc_id is the position in the sorted split
        position = {doc: place for place, doc in enumerate(sorted(whole))}
        wanted = {position[i] for i in ids}
        requests = [r for r in self._frozen(name, split) if r.doc_id in wanted]
        for request in requests:
            request.resps, request.filtered_resps = [], {}
        for kind in dict.fromkeys(request.request_type for request in requests):
            self._answer(kind, split, [r for r in requests if r.request_type == kind])
        by_document = _filtered(task, requests)
        documents = [by_document[position[i]] for i in ids]
        found = _processed(task, documents, objectives)
        return {
            o.name: replace(
                _rule(o, task).outcomes(ids, found[o.name], self._clusters(o, ids)),
                answers=answers_of(task, o.metric, documents),
            )
            for o in objectives
        }

    def _answer(self, kind: str, split: str, requests: Sequence[Instance]) -> None:
        """Add the model's answers to each request, one per repeat."""
        repeated = [request for request in requests for _ in range(request.repeats or 1)]
        if kind == "generate_until" and any(_sampled(request) for request in requests):
            answers = self._sampled_answers(split, requests)
        else:
            answers = getattr(self._lm, kind)(repeated, disable_tqdm=True)
        for request, answer in zip(repeated, answers, strict=True):
            request.resps.append(answer)

    def _sampled_answers(self, split: str, requests: Sequence[Instance]) -> list[str]:
        """Sample answers one at a time, each seeded by (task, split, item, prompt, repeat).

        An answer then depends neither on the batch nor on earlier draws.
        """
        device = self._lm.device
        answers = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for request in requests:
                about = (
                    f"{request.task_name}\0{split}\0{content_of(request.doc)}\0{request.args[0]}"
                )
                for repeat in range(request.repeats or 1):
                    sha = hashlib.sha256(f"{about}\0{request.idx}\0{repeat}".encode())
                    torch.manual_seed(int.from_bytes(sha.digest()[:8], "little") >> 1)
                    answers += self._lm.generate_until([request], disable_tqdm=True)
        return answers

    def _frozen(self, name: str, split: str) -> list[Instance]:
        """Return the task's requests on a split; built once, so all merges see the same prompts."""
        if (name, split) not in self._requests:
            chat = self._settings.apply_chat_template
            self._requests[name, split] = _built(
                self._tasks[name],
                sorted(self._splits[name][split]),
                apply_chat_template=chat,
                fewshot_as_multiturn=self._settings.fewshot_as_multiturn,
                chat_template=self._lm.apply_chat_template if chat else None,
                tokenizer_name=self._lm.tokenizer_name if chat else "",
            )
        return self._requests[name, split]

    def _clusters(self, objective: Objective, ids: Sequence[int]) -> list[int]:
        """Labels of dependent items, consistent across parts; empty if all are independent."""
        key = (objective.task, objective.cluster)
        if key not in self._labels:
            fields = [objective.cluster] if objective.cluster else []
            self._labels[key] = dependent(self._documents[objective.task], fields)
        labels = self._labels[key]
        alone = not objective.cluster and labels == list(range(len(labels)))
        return [] if alone else [labels[i] for i in ids]

    def _probe(self, name: str, task: Any, objectives: Sequence[Objective]) -> None:
        """Run the task's code on made-up answers to a few items, before there is a model.

        This refuses unknown metrics and metrics that do not aggregate to a number. Tasks with
        `unsafe_code`, or whose code fails on made-up answers, are checked at their first evaluation;
        so is a declared metric that none of these items has.
        """
        ids = sorted(self._splits[name]["test"])[:PROBED]
        try:
            requests = _built(task, ids, apply_chat_template=False)
        except Exception as error:  # a task's code may raise anything
            shots = task.config.num_fewshot
            raise InvalidConfig(
                f"task {name!r}: no prompt can be made of its items: {type(error).__name__}: "
                f"{error}.",
                hint=f"it needs {shots} few-shot examples; try `num_fewshot: 0`."
                if shots
                else "check the task's `doc_to_text` and `doc_to_target`.",
            ) from error
        if getattr(task, "UNSAFE_CODE", False):
            return
        try:
            for request in requests:
                request.resps = [_PROBES[request.request_type]] * (request.repeats or 1)
            documents = list(_filtered(task, requests).values())
            found = [_results(task, document, "") for document in documents]
        except Exception:  # failing on a made-up answer proves nothing
            return
        for objective in objectives:
            metric = objective.metric.partition(",")[0]
            raw = [row.get(metric, MISSING) for row in found]
            if any(value is not MISSING for value in raw):
                _rule(objective, task).outcomes(ids, raw)
            elif metric not in declared_metrics(task):
                known = sorted({key for row in found for key in row})
                raise _unknown(objective, "metric", metric, known)

    # --- measures ---

    def measures(self) -> dict[str, dict[str, Any]]:
        """Return the parts of each objective's measure (see `protocols.Evaluator`)."""
        shared = {name: self._task_parts(name) for name in self._tasks}
        packages = measure.versions("lm-eval", "transformers", "tokenizers", "torch", "datasets")
        settings, chat = self._settings, None
        if settings.apply_chat_template:
            template = measure.digest(json.dumps(self._tokenizer.chat_template, sort_keys=True))
            chat = {"template": template, "several turns": settings.fewshot_as_multiturn}
        return {
            o.name: measure.plain(
                {
                    "evaluator": "lm-eval",
                    "metric": o.metric,
                    "direction": self._direction(o),
                    "cluster": o.cluster,
                    "scored": self._scored(o),
                    "chat template": chat,
                    "tokenizer": measure.tokenizer_digest(self._context.tokenizer),
                    "model class": self._backend,
                    "batch size": settings.batch_size,
                    "longest sequence": settings.max_length,
                    **shared[o.task],
                    **packages,
                }
            )
            for o in self._context.objectives
        }

    def chances(self) -> dict[str, float]:
        """Objective -> share of right answers by guessing, for multiple-choice tasks (dev items)."""
        found = {}
        for o in self._context.objectives:
            task, documents = self._tasks[o.task], self._documents[o.task]
            guessed = o.metric.partition(",")[0] in GUESSED
            if guessed and getattr(task, "OUTPUT_TYPE", "") == "multiple_choice":
                ids = self._splits[o.task]["dev"]
                shares = [1 / len(task.doc_to_choice(documents[i])) for i in ids]
                found[o.name] = sum(shares) / len(shares)
        return found

    def _task_parts(self, name: str) -> dict[str, Any]:
        loaded, documents = self._loaded[name], self._documents[name]
        task, splits = loaded.task, self._splits[name]
        shots = task.config.num_fewshot or 0
        used = [(i, documents[i]) for split in SPLITS for i in splits[split]]
        sizes: dict[str, int] = {split: len(splits[split]) for split in SPLITS}
        examples = getattr(getattr(task, "sampler", None), "df", None) or []
        return {
            "task": name,
            f"config of task {name!r}": measure.digest(content_of(config_of(task))),
            f"data of task {name!r}": measure.documents_digest(used),
            items_part(name): {
                **sizes,
                "of": len(documents),
                "seed": int(self._context.items.get("seed", 0)),
            },
            f"few-shot examples of task {name!r}": {
                "number": shots,
                "data": measure.documents_digest((None, d) for d in examples) if shots else "",
            },
            **measure.sources(helper_files(task), [loaded.home]),
        }

    def _scored(self, objective: Objective) -> str:
        rule = _rule(objective, self._tasks[objective.task])
        return "item by item" if rule.of_single_items else TOGETHER

    def _direction(self, objective: Objective) -> str:
        metric = objective.metric.partition(",")[0]
        higher = higher_is_better(self._tasks[objective.task], metric)
        return "" if higher is None else ("max" if higher else "min")


def _require_chat_template(tokenizer: Any, settings: LmEvalSettings) -> None:
    if settings.apply_chat_template and not tokenizer.chat_template:
        raise InvalidConfig(
            "evaluator.apply_chat_template is true, and the tokenizer has no chat template.",
            hint="set it to false, or put the model's chat_template.jinja beside its tokenizer in "
            "the pool's first checkpoint.",
        )


def _backend(folder: str) -> str:
    """`seq2seq` if the checkpoint's config says encoder-decoder, else `causal`."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        return "causal"
    try:
        with pinned(folder) as place:
            config: Any = AutoConfig.from_pretrained(place).is_encoder_decoder
    except (ValueError, KeyError, OSError):  # remote code or unknown model type
        config = read_json(file).get("is_encoder_decoder", False)
    return "seq2seq" if config else "causal"


def _set_fewshot(task: Any, wanted: int | None) -> None:
    """Set the number of few-shot examples as `simple_evaluate` does: a task's own 0 stays 0."""
    own = task.get_config("num_fewshot")
    if wanted is not None and own != 0:
        task.set_config(key="num_fewshot", value=wanted)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _require_known(objective: Objective, task: Any) -> None:
    """Raise InvalidConfig unless the task has the objective's filter, field and direction."""
    metric, _, wanted = objective.metric.partition(",")
    fields = [str(key) for key in next(iter(task.eval_docs))]
    declared = declared_metrics(task)
    several = getattr(task, "UNSAFE_CODE", False)  # its metrics are known only after a run
    for what, name, known in (
        ("filter", wanted, [ensemble.name for ensemble in task._filters]),
        ("field", objective.cluster, fields),
        ("metric", metric, [metric] if several else declared),
    ):
        if (
            name
            and name not in known
            and (what != "metric" or task.config.process_results is None)
        ):
            raise _unknown(objective, what, name, known)
    higher = higher_is_better(task, metric)
    asked = objective.direction
    if asked != "task" and higher is not None and higher != (asked == "max"):
        raise InvalidConfig(
            f"objective {objective.name!r}: direction is {asked!r}, and task "
            f"{objective.task!r} says that a {'higher' if higher else 'lower'} {metric} is better.",
            hint="leave `direction` out, or set `higher_is_better` in a task of your own that "
            "includes this one.",
        )


def _unknown(objective: Objective, what: str, name: str, known: Sequence[str]) -> InvalidConfig:
    return InvalidConfig(
        f"objective {objective.name!r}: task {objective.task!r} has no {what} {name!r}.",
        hint=f"it has: {', '.join(known)}.",
    )


def _require_parts(task: Any, objectives: Sequence[Objective]) -> None:
    for objective in objectives:
        rule = _rule(objective, task)
        if not rule.of_single_items:
            raise InvalidConfig(
                f"objective {objective.name!r}: {objective.metric} is one number for all items, so "
                "candidates can't be stopped after some of them.",
                hint="set `racing: false` in a study of another name, or use a mean instead.",
            )


def _rule(objective: Objective, task: Any) -> Rule:
    metric = objective.metric.partition(",")[0]
    return Rule(objective.name, *aggregation_of(task, metric))


def _built(task: Any, ids: Sequence[int], **chat: Any) -> list[Instance]:
    """Build the requests of some documents; few-shot examples come from the fixed seed."""
    task.set_fewshot_seed(FEWSHOT_SEED)
    task.build_all_requests(samples=list(ids), rank=0, world_size=1, **chat)
    return list(task._instances)


def _filtered(task: Any, requests: Sequence[Instance]) -> dict[int, list[Instance]]:
    """Position of a document -> its answered requests, after the task's filters."""
    task._instances = list(requests)
    task.apply_filters()
    found: dict[int, list[Instance]] = {}
    for request in sorted(requests, key=lambda request: request.idx):
        found.setdefault(request.doc_id, []).append(request)
    return found


def _processed(
    task: Any, documents: Sequence[list[Instance]], objectives: Sequence[Objective]
) -> dict[str, list[Any]]:
    """Objective -> raw outcome per document; the answers of each filter are processed once."""
    filters = dict.fromkeys(o.metric.partition(",")[2] for o in objectives)
    rows = {chosen: [_results(task, d, chosen) for d in documents] for chosen in filters}
    found = {}
    for o in objectives:
        metric, _, chosen = o.metric.partition(",")
        found[o.name] = [row.get(metric, MISSING) for row in rows[chosen]]
        if all(value is MISSING for value in found[o.name]):
            raise _unknown(
                o, "metric", metric, sorted({key for row in rows[chosen] for key in row})
            )
    return found


def _results(task: Any, requests: Sequence[Instance], wanted: str) -> Mapping[str, Any]:
    """Metrics of one document from its filtered answers; `wanted` empty: the first filter."""
    chosen = wanted or next(iter(requests[0].filtered_resps))
    answers = [request.filtered_resps[chosen] for request in requests]
    found: Mapping[str, Any] = task.process_results(requests[0].doc, answers)
    return found


def _sampled(request: Instance) -> bool:
    """Whether the answer to a request is sampled."""
    settings = request.args[1]
    sampled = settings.get("do_sample")
    return bool(settings.get("temperature", 0.0) > 0 if sampled is None else sampled)
