"""The answers of a model to the items of an lm-eval task, as texts for people to read.

They are by-products: whatever goes wrong here, an item has an empty text and keeps its score.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recycler.nouns.answers import Answers

GAP = "[…]"  # where the options of an item stand in its prompt
OTHER = "(another text)"  # what the model would write instead of the target


def answers_of(task: Any, metric: str, documents: Sequence[Sequence[Any]]) -> Answers:
    """Return the answers that a metric was computed from.

    Args:
        task: an lm-eval task.
        metric: as an objective has it, `name` or `name,filter`; it decides which option is chosen.
        documents: for each item its answered and filtered requests, in their order.
    """
    read = _READERS.get(task.OUTPUT_TYPE, _unknown)
    name, _, chosen = metric.partition(",")
    rows = [_tried(read, task, name, chosen, requests) for requests in documents]
    raw = tuple(row[3] for row in rows)
    margins = tuple(row[4] for row in rows if row[4] is not None)
    texts = tuple(row[2] for row in rows)
    return Answers(
        prompts=tuple(row[0] for row in rows),
        targets=tuple(row[1] for row in rows),
        texts=texts,
        raw=raw if raw != texts else (),
        margins=margins if len(margins) == len(rows) else (),
    )


# prompt, target, scored answer, raw answer, margin [nats]
_Row = tuple[str, str, str, str, float | None]
_Reader = Callable[[Any, str, str, Sequence[Any]], _Row]


def _tried(read: _Reader, task: Any, metric: str, chosen: str, requests: Sequence[Any]) -> _Row:
    try:
        return read(task, metric, chosen, requests)
    except Exception:  # a task's own code may raise anything, after its item was scored
        return (*_asked(requests), "", "", None)


def _choice(task: Any, metric: str, chosen: str, requests: Sequence[Any]) -> _Row:
    """The option with the largest log-likelihood, as `metric` compares them."""
    doc = requests[0].doc
    options = [str(option) for option in task.doc_to_choice(doc)]
    n = len(options)
    values = np.array([_first(request, chosen)[0] for request in requests], dtype=np.float64)
    likelihoods = values[:n]
    if metric == "acc_mutual_info":
        compared = likelihoods - values[n : 2 * n]
    elif metric == "acc_norm":
        compared = likelihoods / [float(len(option)) for option in options]
    elif metric == "acc_bytes":
        compared = likelihoods / [float(len(option.encode())) for option in options]
    else:
        compared = likelihoods
    best = int(np.argmax(compared))
    margin = float(likelihoods[best] - np.delete(likelihoods, best).max()) if n > 1 else 0.0
    if getattr(task, "multiple_input", 0):  # the options are in the prompt
        contexts = [str(request.args[0]) for request in requests[:n]]
        start = _shared_start(contexts)
        prompt, gold = f"{start}{GAP}{requests[0].args[1]}", task.doc_to_text(doc)
    else:
        prompt, gold = str(requests[0].args[0]), task.doc_to_target(doc)
    return prompt, _option(gold, options), options[best], options[best], margin


def _shared_start(texts: Sequence[str]) -> str:
    length = 0
    for characters in zip(*texts, strict=False):
        if len(set(characters)) > 1:
            break
        length += 1
    return texts[0][:length]


def _option(gold: Any, options: Sequence[str]) -> str:
    if isinstance(gold, list | tuple):
        return " | ".join(_option(one, options) for one in gold)
    is_place = isinstance(gold, int) and 0 <= gold < len(options)
    return options[gold] if is_place else str(gold)


def _generated(task: Any, metric: str, chosen: str, requests: Sequence[Any]) -> _Row:
    """The generated text, after the filter and before it."""
    raw = "\n".join(_text(list(request.resps)) for request in requests)
    text = "\n".join(_text(_first(request, chosen)) for request in requests)
    return _asked(requests)[0], _target(task, requests), text, raw, None


def _target(task: Any, requests: Sequence[Any]) -> str:
    """The right text; empty where the task's own code needs none."""
    try:
        gold = task.doc_to_target(requests[0].doc)
        if getattr(task.config, "doc_to_choice", None) is not None:
            return _option(gold, [str(option) for option in task.doc_to_choice(requests[0].doc)])
    except Exception:  # see the module
        return ""
    return _text(gold)


def _continued(task: Any, metric: str, chosen: str, requests: Sequence[Any]) -> _Row:
    """Whether the target is what the model would write, and its log-likelihood."""
    target = str(requests[0].args[1])
    likelihood, is_greedy = _first(requests[0], chosen)
    text = target if is_greedy else OTHER
    return str(requests[0].args[0]), target, text, text, float(likelihood)


def _rolling(task: Any, metric: str, chosen: str, requests: Sequence[Any]) -> _Row:
    """The score of a text itself [bits per byte]; its prompt is the text."""
    found = _first(requests[0], chosen)
    likelihood = float(found[0] if isinstance(found, list | tuple) else found)
    document = str(requests[0].args[0])
    size = len(document.encode("utf-8", "surrogatepass"))
    text = f"{-likelihood / (size * math.log(2)):.4f} bits per byte" if size else ""
    return document, "", text, text, likelihood


def _unknown(task: Any, metric: str, chosen: str, requests: Sequence[Any]) -> _Row:
    """The answers of a task of another kind, as they are."""
    text = "\n".join(_text(_first(request, chosen)) for request in requests)
    return (*_asked(requests), text, text, None)


def _asked(requests: Sequence[Any]) -> tuple[str, str]:
    arguments = requests[0].args
    return str(arguments[0]) if arguments else "", ""


def _first(request: Any, chosen: str) -> Any:
    """The answer to a request after a filter; `chosen` empty: the first filter."""
    return request.filtered_resps[chosen or next(iter(request.filtered_resps))]


def _text(value: Any) -> str:
    """One text; several, such as samples of a program, are set apart."""
    if isinstance(value, Mapping):
        return str(dict(value))
    if isinstance(value, list | tuple):
        return "\n---\n".join(_text(entry) for entry in value)
    return str(value)


_READERS: Mapping[str, _Reader] = {
    "multiple_choice": _choice,
    "generate_until": _generated,
    "loglikelihood": _continued,
    "loglikelihood_rolling": _rolling,
}
