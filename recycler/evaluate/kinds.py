"""The evaluators by name: check the settings of one, and make it."""

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
    """Check the settings of an evaluator against the model that it declares.

    Args:
        kind: name of the evaluator.
        given: settings as a study file has them.
        where: name of the settings in messages.

    Raises:
        InvalidConfig: no such evaluator, or a wrong setting, which the message names.
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
    """Make the evaluator of a study.

    Args:
        described: `kind`, `root` (for relative paths) and the evaluator's own settings (see
            `StudyFile.evaluator_settings`).
        objectives: objectives of the study; properties of the merge are left out.
        items: sizes of the splits, and `seed`.
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
