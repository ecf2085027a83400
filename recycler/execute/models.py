"""Models that are no merges: loaded from their own folders, scored with their own tokenizers."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from recycler.checkpoints.folder import Checkpoint
from recycler.errors import BrokenCheckpoint, Incompatible
from recycler.evaluate.measure import model_digests
from recycler.merge.resident import load_model
from recycler.nouns.recipe import Recipe
from recycler.protocols import Evaluator


@dataclass(frozen=True, slots=True)
class Models:
    """The references of a study that are models; each is in memory only while it is scored.

    Attributes:
        folders: recipe id -> folder.
        make_evaluator: returns the study's evaluator with the tokenizer of a folder.
        device: torch device.
    """

    folders: Mapping[str, Checkpoint]
    make_evaluator: Callable[[str], Evaluator]
    device: str = "cpu"

    @contextmanager
    def loaded(self, recipe: Recipe) -> Iterator[tuple[Any, Evaluator]]:
        """A model, or its folder if the evaluator takes one, and the evaluator for it.

        The model of the merges stays in memory meanwhile, so there must be room for both.

        Raises:
            BrokenCheckpoint: a file of the folder is not the one that the study was made with.
            Incompatible: transformers can't load the folder.
        """
        model = self.folders[recipe.id]
        if model_digests(model.path) != recipe.settings:
            raise BrokenCheckpoint(
                f"{model.path}: config or tokenizer changed since the study was made.",
                hint="restore the folder, or run the study file again.",
            )
        with model.unchanged():
            evaluator = self.make_evaluator(str(model.path))
            try:
                if evaluator.takes == "folder":
                    yield model.path, evaluator
                else:
                    yield _loaded(model, self.device), evaluator
            finally:
                del evaluator  # it holds the model
                gc.collect()
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()


def _loaded(model: Checkpoint, device: str) -> Any:
    try:
        return load_model(model.path).to(device).eval().requires_grad_(False)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise Incompatible(
            f"reference {model.name!r} at {model.path} can't be loaded: {error}",
            hint="repair the folder, or take it out of `references:`; nothing else is lost.",
        ) from error
