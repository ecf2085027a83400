"""Merge into a resident model's parameters, in place: no file is written, no model is rebuilt."""

import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from recycler.checkpoints.pool import Pool
from recycler.errors import Incompatible
from recycler.merge.plain import read
from recycler.merge.sources import Sources
from recycler.merge.stream import Digest, merged
from recycler.nouns.recipe import Recipe


class Resident:
    """One model that lives as long as its worker and takes the weights of merge after merge.

    Where every tensor of the checkpoints is a parameter or buffer of the model under the same name
    the merge is copied in place. Else (a base model without a head's prefix, fused experts) each
    merge goes through `from_pretrained(state_dict=...)`, the way the exported folder goes.
    """

    def __init__(
        self, pool: Pool, dtype: str, device: str = "cpu", distance: bool = False
    ) -> None:
        """Load the pool's first checkpoint as the shell for all merges.

        Args:
            pool: the checkpoints, all of one architecture.
            dtype: torch name of the dtype that merges are made, evaluated and exported in.
            device: torch device.
            distance: measure how far each merge is from the pool's base.
        """
        self.sources = Sources(pool)
        self.distance = 0.0  # ‖merge - base‖₂ / ‖base‖₂ of the merge that is held, if measured
        self._measures = distance
        self.device = device
        self._dtype = getattr(torch, dtype)
        self._config = AutoConfig.from_pretrained(pool.checkpoints[0].path)
        shell = pool.checkpoints[0].path
        self.model: Any = self._prepared(
            AutoModelForCausalLM.from_pretrained(shell, dtype=self._dtype)
        )
        self._slots = _slots(self.model, pool.checkpoints[0].tensors)
        self._loaded = ("", "")

    def load(self, recipe: Recipe) -> tuple[str, float]:
        """Make the model hold this merge.

        Returns:
            The digest of the merged bytes and the seconds it took (about 0 where it is held
            already).
        """
        start = time.perf_counter()
        if self._loaded[0] != recipe.id:
            self._loaded = ("", "")  # half-copied weights must never count as loaded
            self._loaded = (recipe.id, self._copy(recipe))
        return self._loaded[1], time.perf_counter() - start

    @torch.no_grad()
    def _copy(self, recipe: Recipe) -> str:
        digest, whole = Digest(), {}
        moved = norm = 0.0
        for spec, tensor in merged(recipe, self.sources, self.device):
            digest.add(spec, tensor)
            if self._measures and tensor.is_floating_point():
                squares = self._squares(spec.name, tensor)
                moved, norm = moved + squares[0], norm + squares[1]
            if self._slots is None:
                whole[spec.name] = tensor.clone()
            else:
                self._slot(spec.name, tensor.shape).copy_(tensor)
        if self._slots is None:
            self.model = self._prepared(
                type(self.model).from_pretrained(
                    None, config=deepcopy(self._config), state_dict=whole, dtype=self._dtype
                )
            )
        self.distance = (moved / norm) ** 0.5 if norm else 0.0
        return digest.value

    def _slot(self, name: str, shape: torch.Size) -> Tensor:
        slot = self._slots.get(name) if self._slots else None
        if slot is None or slot.shape != shape:
            raise Incompatible(
                f"the merge gives {name!r} of shape {list(shape)}, the resident model has "
                f"{list(slot.shape) if slot is not None else 'no such tensor'}.",
                hint="put a checkpoint with that tensor (an untied head, the smallest vocabulary) "
                "first in the pool.",
            )
        return slot

    def _squares(self, name: str, tensor: Tensor) -> tuple[float, float]:
        """‖tensor - base‖² and ‖base‖² of one merged tensor; zeros where the base lacks it."""
        base = self.sources.pool.base
        spec = self.sources.spec(base, name) if base else None
        if base is None or spec is None:
            return 0.0, 0.0
        anchor = read((base, spec), tensor.shape).to(tensor.device, torch.float64)
        return float((tensor.double() - anchor).square().sum()), float(anchor.square().sum())

    def _prepared(self, model: Any) -> Any:
        return model.to(self.device).eval().requires_grad_(False)


def _slots(model: Any, tensors: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Where each tensor of the checkpoint lives in the model; None if not all are found alike."""
    state = model.state_dict(keep_vars=True)
    slots = {}
    for name, spec in tensors.items():
        slot = state.get(name)
        if slot is None or tuple(slot.shape) != spec.shape:
            return None
        slots[name] = slot.data if slot.dtype.is_floating_point else slot
    covered = {slot.data_ptr() for slot in slots.values()}
    left = [name for name, slot in state.items() if slot.data_ptr() not in covered]
    if left:
        raise Incompatible(
            f"the model has the parameter {left[0]!r}, which no checkpoint holds"
            + (f" ({len(left) - 1} more)." if len(left) > 1 else "."),
            hint="the folder was saved without its head; save it with the class that config.json "
            "names.",
        )
    return slots


def quiet_transformers() -> None:
    """Keep the libraries' progress bars and advice out of the program's own output."""
    for name in ("transformers", "lm_eval", "lm-eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
