"""The evaluator `python`: scores from a user's function `module:function(model, tokenizer, split)`.

The function returns a mapping from objective to a list of item values (best: these give errors and
pairing), a tuple (mean, stderr) or a mean.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import getsourcefile, signature, unwrap
from pathlib import Path
from typing import Any, ClassVar, Literal

from recycler.errors import InvalidConfig
from recycler.evaluate import measure
from recycler.evaluate.results import read_values
from recycler.evaluate.settings import PythonSettings
from recycler.evaluate.tokenizer import load_tokenizer
from recycler.nouns.evaluation import Outcomes, Score
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import WHOLE
from recycler.protocols import Context


class PythonEvaluator:
    """Scores a model by calling a user's function (see `protocols.Evaluator`)."""

    Settings = PythonSettings
    takes: ClassVar[Literal["model", "folder"]] = "model"

    def __init__(self, context: Context, settings: PythonSettings) -> None:
        """Import the function; its module may be in the context's root."""
        self._context, self._settings = context, settings
        self._function = load_function(settings.function, context.root)
        self._tokenizer = load_tokenizer(context.tokenizer)

    def measures(self) -> dict[str, dict[str, Any]]:
        """Digests of the function's module, its local imports and the tokenizer; versions."""
        file = getsourcefile(unwrap(self._function))
        root = Path(self._context.root or ".")
        parts = {
            "evaluator": "python",
            "function": self._settings.function,
            "tokenizer": measure.tokenizer_digest(self._context.tokenizer),
            **(measure.sources([Path(file)], [root]) if file else {}),
            **measure.versions("transformers", "tokenizers", "torch"),
        }
        return {
            o.name: measure.plain(
                {
                    **parts,
                    "objective": o.name,
                    "metric": o.metric,
                    "task": o.task,
                    "cluster": o.cluster,
                }
            )
            for o in self._context.objectives
        }

    def evaluate(
        self,
        model: Any,
        objectives: Sequence[Objective],
        split: str,
        part: tuple[float, float] = WHOLE,
    ) -> dict[str, Outcomes | Score]:
        """Call the function and read the values of each objective.

        Raises:
            InvalidConfig: the function returned something else, or lacks the argument `part`, which
                racing needs.
        """
        if part != WHOLE and "part" not in signature(self._function).parameters:
            raise InvalidConfig(
                "the evaluator's function takes no `part`, which racing needs.",
                hint="write `def score(model, tokenizer, split, part=(0, 1))` and return the items "
                "from the first share to the second, or set `racing: false` in a study of another "
                "name.",
            )
        parted = {} if part == WHOLE else {"part": part}
        returned = self._function(model, self._tokenizer, split, **parted)
        if not isinstance(returned, Mapping):
            raise InvalidConfig(
                f"the evaluator returned {type(returned).__name__}, expected a mapping from "
                "objective to values.",
                hint="return {'name': [item values], ...}.",
            )
        missing = [o.name for o in objectives if o.name not in returned]
        if missing:
            raise InvalidConfig(
                f"the evaluator returned no value for {missing[0]!r}.",
                hint=f"it returned {', '.join(map(str, returned)) or 'nothing'}.",
            )
        return {o.name: read_values(returned[o.name]) for o in objectives}


def load_function(path: str, root: str = "") -> Callable[..., Any]:
    """Import the function named `module:name`."""
    module, _, name = path.partition(":")
    if root and str(Path(root).resolve()) not in sys.path:
        sys.path.insert(0, str(Path(root).resolve()))
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidConfig(
            f"evaluator function {path!r} can't be imported: {error}.",
            hint="write it as `module:function`, with the module beside the study file.",
        ) from error
    return found
