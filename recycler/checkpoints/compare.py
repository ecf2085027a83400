"""Differences between checkpoints: findings from headers and configs, without reading a tensor."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recycler.checkpoints.architecture import default_of, extra_rows, is_tied_by_config
from recycler.checkpoints.findings import ERROR, WARNING, Finding, short
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import TensorSpec, brief
from recycler.checkpoints.naming import (
    copied_from,
    embedding_of,
    is_buffer,
    is_head,
    shared_names,
)
from recycler.checkpoints.tokenizers import (
    TOKENIZER,
    Tables,
    same_file,
    template_findings,
    tokenizer_findings,
    tokens_of,
)

# Settings that change what the same tensors compute: they must agree.
_MUST_AGREE = {
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "vocab_size",
    "id2label",
    "label2id",
}
# Settings that do not change what a model computes.
_HARMLESS = {
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "gradient_checkpointing",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "unsloth_version",
    "quantization_config",  # has a finding of its own
}
_CONFIG = "_config"  # suffix of the keys of configs inside a config


def compare(checkpoints: Sequence[Checkpoint]) -> Iterator[Finding]:
    """All findings that affect a merge; each checkpoint is compared with the first."""
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
            hint="quantised numbers can't be averaged; use the checkpoint before quantisation.",
        )
    rows, size = _rows(checkpoint), _text(checkpoint.config).get("vocab_size")
    if rows is None or type(size) is not int:
        return
    if rows - size not in extra_rows(_text(checkpoint.config)):
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
    """Rows of the input embedding; None if it is not recognised."""
    spec = embedding_of(checkpoint)
    return spec.shape[0] if spec else None


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the text part of a multimodal model, else the config itself."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) and text else config


# --- two checkpoints ---


def _architecture_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    mine, theirs = _architecture(other), _architecture(first)
    if not any(a and b and _differ(a, b) for a, b in zip(mine, theirs, strict=True)):
        return
    if (
        mine[1] == theirs[1]
        and _is_base_of(mine[0], theirs[0])
        and _has_same_tensors(first, other)
    ):
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
        hint="only checkpoints of one architecture can be merged; remove it from the pool.",
    )


def _architecture(checkpoint: Checkpoint) -> tuple[Any, Any]:
    return checkpoint.config.get("architectures"), checkpoint.config.get("model_type")


def _is_base_of(one: Any, other: Any) -> bool:
    """Whether one of two class lists names the base of the other, as `GPT2Model` does."""
    if not all(
        isinstance(c, list) and len(c) == 1 and isinstance(c[0], str) for c in (one, other)
    ):
        return False
    pairs = ((one[0], other[0]), (other[0], one[0]))
    return any(a.endswith("Model") and b.startswith(a.removesuffix("Model")) for a, b in pairs)


def _has_same_tensors(first: Checkpoint, other: Checkpoint) -> bool:
    """Whether names agree, except for a prefix, buffers and tied heads."""
    tables = shared_names([first, other])
    apart = ((n, t[n]) for t, u in (tables, tables[::-1]) for n in t.keys() - u.keys())
    return all(is_buffer(spec) or is_head(name) for name, spec in apart)


def _called(architecture: tuple[Any, Any]) -> str:
    classes, kind = architecture
    named = isinstance(classes, list) and len(classes) == 1 and isinstance(classes[0], str)
    text = classes[0] if named and classes else short(classes)
    return f"{text} ({short(kind)})" if kind else str(text)


def _tensor_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    theirs, mine = shared_names([first, other])
    for name in sorted(theirs.keys() | mine.keys()):
        expected, found = theirs.get(name), mine.get(name)
        if is_buffer(found or theirs[name]):
            continue  # computed from the config, or copied
        if expected is None or found is None:
            if _is_copy(other if found is None else first, name):
                continue
            present = mine if expected is None else theirs
            yield Finding(
                code="tensor-extra" if expected is None else "tensor-missing",
                severity=ERROR,
                checkpoint=other.name,
                file=(found or present[name]).file,
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
        elif expected.is_float != found.is_float:
            yield _kind_finding(first, other, expected, found)
        elif expected.dtype != found.dtype:
            yield Finding(
                code="dtype",
                severity=WARNING,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="merges are summed in float32 and rounded once, to the wider of the two; set "
                "`merge.dtype` to choose another.",
            )


def _is_copy(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor that is not stored is the embedding."""
    return copied_from(checkpoint, name) is not None


def _kind_finding(
    first: Checkpoint, other: Checkpoint, expected: TensorSpec, found: TensorSpec
) -> Finding:
    return Finding(
        code="integers",
        severity=ERROR,
        checkpoint=other.name,
        file=found.file,
        tensor=found.name,
        found=str(found),
        expected=f"{expected} as in {first.name!r}",
        hint="floats can't be averaged with integers; save both with one dtype.",
    )


def _config_findings(
    first: Checkpoint, other: Checkpoint, parts: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """Settings of a config, or of one of its parts, that differ between two checkpoints."""
    theirs, mine = (_settings(_part(c.config, parts)) for c in (first, other))
    for key in sorted(theirs.keys() | mine.keys()):
        expected, found = theirs.get(key), mine.get(key)
        if isinstance(expected, Mapping) and isinstance(found, Mapping) and key.endswith(_CONFIG):
            yield from _config_findings(first, other, (*parts, key))
            continue
        if expected is None or found is None:  # one leaves it to the architecture's default
            expected, found = (
                default_of(config, key) if value is None else value
                for config, value in ((theirs, expected), (mine, found))
            )
        if key in _HARMLESS or not _differ(expected, found):
            continue
        silent = theirs.get(key) is None or mine.get(key) is None
        path = ".".join((*parts, key))
        yield Finding(
            code="config",
            severity=ERROR if key in _MUST_AGREE and not silent else WARNING,
            checkpoint=other.name,
            file="config.json",
            found=f"{path} {short(found)}",
            expected=f"{short(expected)} as in {first.name!r}",
            hint="with another setting the same weights compute something else.",
        )


def _part(config: Mapping[str, Any], parts: tuple[str, ...]) -> Mapping[str, Any]:
    for part in parts:
        config = config[part]
    return config


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config in one canonical form, with defaults derived from other settings filled in."""
    settings = dict(config)
    heads, hidden = settings.get("num_attention_heads"), settings.get("hidden_size")
    if type(heads) is int and heads > 0:
        settings["num_key_value_heads"] = settings.get("num_key_value_heads") or heads
        if type(hidden) is int:
            settings["head_dim"] = settings.get("head_dim") or hidden // heads
    settings["tie_word_embeddings"] = is_tied_by_config(config)
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if isinstance(rope, dict) and (rope or "rope_theta" in settings):
        rope = {"rope_type": rope.get("type", "default"), **rope}
        rope.pop("type", None)
        if "rope_theta" in settings:
            rope.setdefault("rope_theta", settings["rope_theta"])
        for key in ("rope_theta", "rope_scaling"):
            settings.pop(key, None)
    settings["rope_parameters"] = rope or None
    return settings


def _differ(a: Any, b: Any) -> bool:
    return bool(a != b) and repr(a) != repr(b)  # NaN, which a config may hold, differs from itself
