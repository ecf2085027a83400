"""Merges into a resident model's parameters in place: no file is written, no model is rebuilt."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
)
from transformers.utils.logging import disable_progress_bar

from recycler.beneath import pinned
from recycler.checkpoints.header import TensorSpec
from recycler.checkpoints.naming import is_buffer, is_head
from recycler.checkpoints.pool import Pool
from recycler.errors import Incompatible
from recycler.merge.layout import Layout, layout_of, model_dtype
from recycler.merge.plain import read
from recycler.merge.sources import Sources
from recycler.merge.stream import Digest, merged
from recycler.nouns.recipe import Recipe

_CLASSES = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForImageTextToText)


class Resident:
    """One model that lives as long as its worker and holds one merge after another.

    If every tensor of the checkpoints is a parameter or buffer of the model under the same name,
    the merge is copied in place. Otherwise (a base model without a head's prefix, fused experts)
    each merge goes through `from_pretrained(state_dict=...)`, as the exported folder does. Either
    way the model computes what `from_pretrained` of the exported folder computes: it has the dtype
    that the export's config names, and what transformers keeps in float32 stays in float32.
    """

    def __init__(
        self, pool: Pool, dtype: str = "", device: str = "cpu", distance: bool = False
    ) -> None:
        """Build the model from the pool's first checkpoint.

        Args:
            pool: the checkpoints, all of one architecture.
            dtype: torch name of the merges' dtype; if empty, each tensor keeps
                its own.
            device: torch device.
            distance: measure how far each merge is from the pool's base.

        Raises:
            Incompatible: the model has parameters that the checkpoint does not hold.
        """
        self.sources = Sources(pool)
        self.distance = 0.0  # ‖merge - base‖₂ / ‖base‖₂ of the current merge, if measured
        self._measures = distance
        self.device = device
        self._shell = pool.checkpoints[0]
        self._config = _config_in(self._shell.path)
        self.model: Any = None
        self._dtype = ""
        self._slots: dict[str, Tensor] | None = None
        self._build(dtype or "auto")
        self._loaded = ("", "")

    def _build(self, dtype: str) -> None:
        """Build the model in a dtype, in place of the current one."""
        self.model = None  # free its memory first
        self.model = self._prepared(load_model(self._shell.path, dtype))
        self._dtype = dtype
        self._slots = _slots(self.model, self._shell.tensors)

    def load(self, recipe: Recipe) -> tuple[str, float]:
        """Load a merge into the model.

        Returns:
            The digest of the merged bytes and the time it took [s] (about 0 if it is already
            loaded).
        """
        start = time.perf_counter()
        if self._loaded[0] != recipe.id:
            self._loaded = ("", "")  # half-copied weights must never count as loaded
            self._loaded = (recipe.id, self._copy(recipe))
        return self._loaded[1], time.perf_counter() - start

    @torch.no_grad()
    def _copy(self, recipe: Recipe) -> str:
        layout = layout_of(recipe, self.sources)
        dtype = model_dtype(recipe, layout, self._shell)
        if getattr(torch, dtype) != self.model.dtype:
            self._build(dtype)
        digest, whole, filled = Digest(), {}, set()
        moved = norm = 0.0
        for spec, tensor in merged(recipe, self.sources, self.device):
            digest.add(spec, tensor)
            if self._measures and tensor.is_floating_point():
                squares = self._squares(spec.name, tensor)
                moved, norm = moved + squares[0], norm + squares[1]
            if self._slots is None:
                whole[spec.name] = tensor.clone()
            elif not (is_buffer(spec) and self._slot(spec.name, layout) is None):
                filled.add(self._put(spec.name, tensor, layout))
        if self._slots is None:
            config = deepcopy(self._config)
            self.model = self._prepared(load_model(None, dtype, config, whole, type(self.model)))
        else:
            self._require_filled(filled)
        self.distance = (moved / norm) ** 0.5 if norm else 0.0
        return digest.value

    def _put(self, name: str, tensor: Tensor, layout: Layout) -> int:
        """Copy one merged tensor into the model; returns the address of the memory it filled."""
        slot = self._slot(name, layout)
        if slot is None or slot.shape != tensor.shape:
            raise Incompatible(
                f"the merge gives {name!r} of shape {list(tensor.shape)}, the resident model has "
                f"{list(slot.shape) if slot is not None else 'no such tensor'}.",
                hint="put a checkpoint with that tensor (an untied head, the smallest vocabulary) "
                "first in the pool.",
            )
        slot.copy_(tensor)
        return slot.data_ptr()

    def _require_filled(self, filled: set[int]) -> None:
        """Raise Incompatible if a parameter of an earlier merge is still in the model."""
        assert self._slots is not None, "a model that is filled in place has slots"
        stale = [
            name
            for name, slot in self._slots.items()
            if slot.data_ptr() not in filled and slot.is_floating_point() and slot.numel()
        ]
        if stale:
            raise Incompatible(
                f"the merge has no tensor {stale[0]!r}, which the resident model has"
                + (f" ({len(stale) - 1} more)." if len(stale) > 1 else "."),
                hint="put a checkpoint without that tensor (such as one with a tied head) first in "
                "the pool.",
            )

    def _slot(self, name: str, layout: Layout) -> Tensor | None:
        """Where a tensor lives in the model; its name may lack the base model's prefix.

        An untied head has no place in a model that ties it.
        """
        assert self._slots is not None, "a model that is filled in place has slots"
        own = self.sources.own(self._shell, name)
        slot = self._slots.get(own.name if own else name)
        if slot is not None and is_head(name) and name not in layout.twins:
            places = [other.data_ptr() for other in self._slots.values()]
            return slot if places.count(slot.data_ptr()) == 1 else None
        return slot

    def _squares(self, name: str, tensor: Tensor) -> tuple[float, float]:
        """‖tensor - base‖² and ‖base‖² of one merged tensor; zeros if the base lacks it."""
        base = self.sources.pool.base
        spec = self.sources.spec(base, name) if base else None
        if base is None or spec is None:
            return 0.0, 0.0
        anchor = read((base, spec), tensor.shape).to(tensor.device, torch.float64)
        return float((tensor.double() - anchor).square().sum()), float(anchor.square().sum())

    def _prepared(self, model: Any) -> Any:
        return model.to(self.device).eval().requires_grad_(False)


def load_model(
    folder: Path | None,
    dtype: str = "auto",
    config: Any = None,
    tensors: Mapping[str, Tensor] | None = None,
    kind: Any = None,
) -> Any:
    """A text-generating model all of whose parameters the folder (or the tensors) has.

    Args:
        folder: a Hugging Face folder; None with `config`, `tensors` and `kind`.
        dtype: torch name, or `auto` for that of the config.
        config: the model's config.
        tensors: its weights.
        kind: its class.

    Raises:
        Incompatible: no text-generating class fits the config, or transformers would initialise
            parameters at random; scores of such a model mean nothing.
    """
    if kind is None:
        assert folder is not None, "a class is told for tensors"
        kind = _class_of(_config_in(folder), folder)
    given = {} if tensors is None else {"config": config, "state_dict": tensors}
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    how = {"dtype": wanted, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with nullcontext() if folder is None else pinned(folder) as place:
        model, report = kind.from_pretrained(place, **how, **given)
    mismatched = [name for name, *_ in report["mismatched_keys"]]
    drawn = sorted({*report["missing_keys"], *mismatched})
    if drawn:
        more = f" ({len(drawn) - 1} more)" if len(drawn) > 1 else ""
        raise Incompatible(
            f"{type(model).__name__} has the parameter {drawn[0]!r}{more}, which no checkpoint holds"
            f"{' in that shape' if drawn[0] in mismatched else ''}: {folder or 'the merge'}.",
            hint="transformers would initialise it at random and the scores would mean nothing. "
            "Classifiers, reward models and encoders have no such head; else save the model with the "
            "class that config.json names.",
        )
    return model


def require_class(folder: Path) -> None:
    """Raise Incompatible unless transformers has a text-generating class for a folder's config."""
    try:
        config = _config_in(folder)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Incompatible(
            f"{folder}: transformers can't read its config: {str(error).strip().splitlines()[0]}",
            hint="a config.json of a model type that this transformers knows is needed; code that "
            "comes with a model is not run.",
        ) from error
    _class_of(config, folder)


def _config_in(folder: Path) -> Any:
    with pinned(folder) as place:
        return AutoConfig.from_pretrained(place)


def _class_of(config: Any, folder: Path) -> Any:
    """The transformers class that generates text with such a config."""
    classes = _CLASSES[1:] if getattr(config, "is_encoder_decoder", False) else _CLASSES
    for kind in classes:
        if type(config) in kind._model_mapping:
            return kind
    raise Incompatible(
        f"{folder}: no class of transformers generates text with {config.model_type!r}.",
        hint="merge it without scores (`recycler merge`); a study needs a model that generates.",
    )


def _slots(model: Any, tensors: Mapping[str, TensorSpec]) -> dict[str, Tensor] | None:
    """The place of each tensor in the model; None unless the checkpoint has all of them by name."""
    state = model.state_dict(keep_vars=True)
    found = set()
    for name, spec in tensors.items():
        slot = state.get(name)
        if slot is None and is_buffer(spec):
            continue  # computed by the model itself
        if slot is None or tuple(slot.shape) != spec.shape:
            return None
        found.add(slot.data_ptr())
    if any(slot.data_ptr() not in found for slot in state.values()):
        return None
    return {n: slot.data if slot.is_floating_point() else slot for n, slot in state.items()}


def quiet_transformers() -> None:
    """Silence the progress bars and advice of the libraries."""
    for name in ("transformers", "lm_eval", "lm-eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bar()  # type: ignore[no-untyped-call]
