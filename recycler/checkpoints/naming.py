"""Which tensors of checkpoints correspond: prefixes, tied heads, and buffers (no parameters)."""

import re
from collections.abc import Mapping, Sequence

from recycler.checkpoints.architecture import is_tied_by_config
from recycler.checkpoints.folder import HEADS, Checkpoint
from recycler.checkpoints.header import TensorSpec

# Suffixes of the names of input embeddings; the first kind that is present counts.
EMBEDDINGS = (
    "shared.weight",
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "embeddings.weight",
)
_SHARERS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Computed by a model from its config; training does not change it.
_BUFFER = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|freqs_cis|cos_cached|sin_cached|position_ids|token_type_ids"
    r"|masked_bias|causal_mask|attn_mask|attention_mask|relative_position_index"
    r"|num_batches_tracked)$"
)
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|crossattention)\.bias$")  # of GPT-2, NeoX


def is_buffer(spec: TensorSpec) -> bool:
    """Whether a tensor is not a parameter: merges copy it, and a checkpoint may lack it."""
    mask = _MASK.search(spec.name) is not None and len(spec.shape) == 4
    return mask or _BUFFER.search(spec.name) is not None


def is_head(name: str) -> bool:
    """Whether this is the name of an output embedding."""
    return name.endswith(HEADS)


def embedding_of(checkpoint: Checkpoint) -> TensorSpec | None:
    """The input embedding of the text; None if it can't be told."""
    for kind in EMBEDDINGS:
        specs = [
            s for n, s in checkpoint.tensors.items() if n.endswith(kind) and len(s.shape) == 2
        ]
        if len(specs) > 1:
            specs = [s for s in specs if "language_model" in s.name] or specs
        if specs:
            return specs[0] if len(specs) == 1 else None
    return None


def copied_from(checkpoint: Checkpoint, name: str) -> TensorSpec | None:
    """The embedding that a tensor of this name copies, by config and architecture.

    The tensor is a tied head, or one of the two embeddings of an encoder-decoder model that shares
    them.
    """
    if is_head(name) and is_tied_by_config(checkpoint.config):
        return embedding_of(checkpoint)
    if name.endswith(_SHARERS):
        return next(
            (s for n, s in checkpoint.tensors.items() if n.endswith("shared.weight")), None
        )
    return None


def missing_prefix(short: Checkpoint, whole: Checkpoint) -> str:
    """The prefix that names in `short` lack compared with `whole`, such as `model.`; empty if none.

    A model saved without its head has names without the base model's prefix.
    """
    strange = [n for n, spec in short.tensors.items() if n not in whole.tensors]
    strange = [n for n in strange if not is_head(n) and not is_buffer(short.tensors[n])]
    ends = [name for name in whole.tensors if strange and name.endswith(f".{strange[0]}")]
    for prefix in sorted((name[: -len(strange[0])] for name in ends), key=len):
        if all(prefix + name in whole.tensors for name in strange):
            return prefix
    return ""


def shared_names(checkpoints: Sequence[Checkpoint]) -> list[Mapping[str, TensorSpec]]:
    """The tensors of each checkpoint under common names: those with the base model's prefix."""
    made: list[Mapping[str, TensorSpec]] = []
    known: dict[tuple[str, ...], tuple[str, Checkpoint]] = {}
    kinds = {tuple(c.tensors): c for c in reversed(checkpoints)}
    for checkpoint in checkpoints:
        key = tuple(checkpoint.tensors)
        if key not in known:
            found = [(missing_prefix(checkpoint, whole), whole) for whole in kinds.values()]
            known[key] = max(found, key=lambda pair: len(pair[0]))
        prefix, whole = known[key]
        named = {
            name if is_head(name) or name in whole.tensors else prefix + name: spec
            for name, spec in checkpoint.tensors.items()
        }
        made.append(named if prefix else checkpoint.tensors)
    return made
