"""Objectives through any Python callable `module:function(model, tokenizer, split)`.

It returns a mapping from objective to a list of item values (best: errors and pairing come from
them), a pair (mean, stderr) or a plain mean. May import: errors, objectives, evaluation,
transformers.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from recycler.errors import InvalidConfig
from recycler.evaluate.results import read_values
from recycler.nouns.evaluation import Outcomes, Score
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import WHOLE


class PythonEvaluator:
    """Scores a model by calling a user's function (see `protocols.Evaluator`)."""

    def __init__(self, function: str, tokenizer: str, root: str = "") -> None:
        """Import the function.

        Args:
            function: `module:name`; the module may lie in `root`.
            tokenizer: folder of the tokenizer.
            root: folder put on the import path, usually that of the study file.
        """
        self._function = load_function(function, root)
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)

    def evaluate(
        self,
        model: Any,
        objectives: Sequence[Objective],
        split: str,
        part: tuple[float, float] = WHOLE,
    ) -> dict[str, Outcomes | Score]:
        """Call the function and read what it returned, objective by objective.

        A function that takes `part` is asked for the items from one share of the split to another;
        with one that does not, candidates can't be raced.
        """
        if part != WHOLE and "part" not in signature(self._function).parameters:
            raise InvalidConfig(
                "the evaluator's function takes no `part`, which racing needs.",
                hint="write `def score(model, tokenizer, split, part=(0, 1))` and return the items "
                "from the first share to the second, or take `racing: false` in a study of another "
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
    """The function behind `module:name`."""
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
