"""Kinds of evaluators: the class behind a name, its settings checked, one of them made."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from recycler.errors import InvalidConfig
from recycler.evaluate.settings import LmEvalSettings, PythonSettings
from recycler.nouns.objectives import Objectives
from recycler.protocols import Context, Evaluator
from recycler.registry import resolve
from recycler.settings import checked

EVALUATORS = {
    "lm-eval": "recycler.evaluate.harness:LmEval",
    "python": "recycler.evaluate.python:PythonEvaluator",
}
_OWN: Mapping[str, type[BaseModel]] = {"lm-eval": LmEvalSettings, "python": PythonSettings}


def checked_settings(kind: str, given: Mapping[str, Any], where: str = "evaluator") -> BaseModel:
    """The settings of an evaluator, as its own model of them.

    Args:
        kind: name of the evaluator.
        given: settings as a study file has them.
        where: what the settings are called in messages.

    Raises:
        InvalidConfig: no such kind, or a setting is wrong; the field is named.
    """
    model: type[BaseModel] | None = _OWN.get(kind) or getattr(
        resolve("evaluator", kind, EVALUATORS), "Settings", None
    )
    if model is None:
        raise InvalidConfig(
            f"evaluator {kind!r} declares no settings.",
            hint="give its class an attribute `Settings`, a pydantic model; see "
            "recycler.protocols.Evaluator.",
        )
    return checked(model, given, where)


def make_evaluator(
    described: Mapping[str, Any],
    objectives: Objectives,
    items: Mapping[str, Any],
    tokenizer: str,
    device: str = "cpu",
) -> Evaluator:
    """The evaluator of a study, made anew.

    Args:
        described: `kind`, `root` (of relative paths) and the evaluator's own settings, as
            `StudyFile.evaluator_settings` gives them.
        objectives: of the study; properties of a merge are asked of no evaluator.
        items: sizes of the splits and their seed.
        tokenizer: folder of the tokenizer.
        device: torch device of the resident model.
    """
    settings = dict(described)
    kind, root = settings.pop("kind", "lm-eval"), settings.pop("root", "")
    own = checked_settings(kind, settings)
    context = Context(
        objectives=tuple(o for o in objectives if not o.of_merge),
        items=items,
        tokenizer=tokenizer,
        root=root,
        device=device,
    )
    made: Evaluator = resolve("evaluator", kind, EVALUATORS)(context, own)
    return made
