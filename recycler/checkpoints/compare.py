"""What sets checkpoints apart: findings from headers and configs, no tensor read."""

from collections.abc import Iterator, Sequence
from typing import Any

from recycler.checkpoints.findings import ERROR, WARNING, Finding, short
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import brief
from recycler.checkpoints.tokenizers import (
    TOKENIZER,
    Tables,
    same_file,
    template_findings,
    tokenizer_findings,
    tokens_of,
)

# Settings that change what the same tensors compute: they must agree.
_MUST_AGREE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "vocab_size",
)
_SHOULD_AGREE = (
    "architectures",
    "model_type",
    "rope_parameters",  # with rope_theta and rope_scaling, as older saves have it
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "sliding_window",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")


def compare(checkpoints: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Everything that would spoil a merge, each checkpoint held against the first."""
    first, tables = checkpoints[0], Tables()
    for checkpoint in checkpoints:
        yield from _own_findings(checkpoint)
    yield from _vocabulary_findings(first, tables)
    for other in checkpoints[1:]:
        if not same_file(first.path / TOKENIZER, other.path / TOKENIZER):
            yield from _vocabulary_findings(other, tables)
        strange = list(_architecture_findings(first, other))
        yield from strange or _config_findings(first, other)
        yield from _tensor_findings(first, other)
        yield from tokenizer_findings(first, other, tables)
        yield from template_findings(first, other)


# --- one checkpoint ---


def _own_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    quantised = checkpoint.config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        yield Finding(
            code="quantised",
            severity=ERROR,
            checkpoint=checkpoint.name,
            file="config.json",
            found=f"weights quantised by {short(method)}",
            expected="weights as they were trained",
            hint="quantised numbers can't be averaged; take the checkpoint from before.",
        )
    rows, size = _rows(checkpoint), _settings(checkpoint).get("vocab_size")
    if rows is not None and size is not None and size != rows:
        yield Finding(
            code="vocabulary",
            severity=ERROR,
            checkpoint=checkpoint.name,
            file="config.json",
            found=f"vocab_size {short(size)}",
            expected=f"{rows}, the rows of its embedding",
            hint="such a model can't be loaded; restore the config.json that was saved with it.",
        )


def _vocabulary_findings(checkpoint: Checkpoint, tables: Tables) -> Iterator[Finding]:
    rows, tokens = _rows(checkpoint), tokens_of(tables[checkpoint.path / TOKENIZER])
    beyond = [number for number in tokens if rows is not None and number >= rows]
    if beyond:
        yield Finding(
            code="vocabulary",
            severity=WARNING,
            checkpoint=checkpoint.name,
            file=TOKENIZER,
            found=f"{len(beyond)} tokens without a row of the embedding, first "
            f"{brief(tokens[min(beyond)])} ({min(beyond)})",
            expected=f"tokens below {rows}",
            hint="a text with such a token fails; resize the embedding or remove the tokens.",
        )


def _rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the input embedding; None where it is not recognised."""
    for name, spec in checkpoint.tensors.items():
        if name.removesuffix(".weight").split(".")[-1] in _EMBEDDINGS and len(spec.shape) == 2:
            return spec.shape[0]
    return None


# --- two checkpoints ---


def _architecture_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    mine, theirs = _architecture(other), _architecture(first)
    if not any(a and b and _differ(a, b) for a, b in zip(mine, theirs, strict=True)):
        return
    specs = first.tensors.items()
    shared = sum(n in other.tensors and other.tensors[n].shape == s.shape for n, s in specs)
    yield Finding(
        code="architecture",
        severity=ERROR,
        checkpoint=other.name,
        file="config.json",
        found=f"{_called(mine)}, which shares {shared} of {len(first.tensors)} tensors",
        expected=f"{_called(theirs)} as in {first.name!r}",
        hint="only checkpoints of one architecture can be merged; take it out of the pool.",
    )


def _architecture(checkpoint: Checkpoint) -> tuple[Any, Any]:
    return checkpoint.config.get("architectures"), checkpoint.config.get("model_type")


def _called(architecture: tuple[Any, Any]) -> str:
    classes, kind = architecture
    named = isinstance(classes, list) and len(classes) == 1 and isinstance(classes[0], str)
    text = classes[0] if named and classes else short(classes)
    return f"{text} ({short(kind)})" if kind else str(text)


def _tensor_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    for name in sorted(first.tensors.keys() | other.tensors.keys()):
        expected, found = first.tensors.get(name), other.tensors.get(name)
        if expected is None or found is None:
            present = other if expected is None else first
            yield Finding(
                code="tensor-extra" if expected is None else "tensor-missing",
                severity=ERROR,
                checkpoint=other.name,
                file=(found or present.tensors[name]).file,
                tensor=name,
                found=str(found) if found else "no such tensor",
                expected=str(expected) if expected else f"no such tensor, as in {first.name!r}",
                hint="pool only checkpoints of one architecture, all tied or all untied.",
            )
        elif expected.shape != found.shape:
            yield Finding(
                code="shape",
                severity=ERROR,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="pool only checkpoints of one architecture and one vocabulary size.",
            )
        elif expected.dtype != found.dtype:
            yield Finding(
                code="dtype",
                severity=WARNING,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="merges are summed in float32 and rounded once, so this is allowed; set "
                "`merge.dtype` to choose the output.",
            )


def _config_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    mine, theirs = _settings(other), _settings(first)
    for key in (*_MUST_AGREE, *_SHOULD_AGREE):
        expected, found = theirs.get(key), mine.get(key)
        if not _differ(expected, found):
            continue
        silent = expected is None or found is None  # one leaves it to the architecture's default
        yield Finding(
            code="config",
            severity=ERROR if key in _MUST_AGREE and not silent else WARNING,
            checkpoint=other.name,
            file="config.json",
            found=f"{key} {short(found)}",
            expected=f"{short(expected)} as in {first.name!r}",
            hint="checkpoints with another setting compute something else with the same weights.",
        )


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config in one form: of a multimodal model its text part, and defaults that follow."""
    text = checkpoint.config.get("text_config")
    settings = {**(text if isinstance(text, dict) else {}), **checkpoint.config}
    heads, hidden = settings.get("num_attention_heads"), settings.get("hidden_size")
    if type(heads) is int and heads > 0:
        settings["num_key_value_heads"] = settings.get("num_key_value_heads") or heads
        if type(hidden) is int:
            settings["head_dim"] = settings.get("head_dim") or hidden // heads
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if isinstance(rope, dict) and (rope or "rope_theta" in settings):
        rope = {"rope_type": rope.get("type", "default"), **rope}
        rope.pop("type", None)
        if "rope_theta" in settings:
            rope.setdefault("rope_theta", settings["rope_theta"])
    settings["rope_parameters"] = rope or None
    return settings


def _differ(a: Any, b: Any) -> bool:
    return bool(a != b) and repr(a) != repr(b)  # NaN, which a config may hold, differs from itself
