"""What transformers' classes say about an architecture, parsed from their sources without an import.

Two facts decide the bytes of a merge and are not in config.json: whether the output head is tied
to the embedding if the config is silent, and which tensors stay in float32 whatever the model's
dtype. Importing the classes takes seconds, longer than many a merge, so their source is parsed. A
test compares the result with the imported classes.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_TIED = "tie_word_embeddings"
_HALF, _STRICT = "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"
_MAPPING = "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"  # model type -> folder
PARTS = (
    "text_config",
    "vision_config",
    "audio_config",
    "encoder",
    "decoder",
)  # names of sub-configs in configs


def is_tied_by_config(config: Mapping[str, Any]) -> bool:
    """Whether the output head is the input embedding, as transformers decides it.

    A config without the setting means its class's default. Some classes take it from the text part
    if the outer config says no, as in saves made before transformers 5. Some always tie.
    """
    rule = _tied(_kind(config))
    if rule.always or config.get(_TIED, rule.default):
        return True
    text = config.get("text_config")
    if not rule.text_counts or not isinstance(text, Mapping):
        return False
    return bool(text.get(_TIED, _tied(_kind(text)).default))


def stays_float32(config: Mapping[str, Any], tensor: str, dtype: str) -> bool:
    """Whether the architecture keeps a tensor in float32 in a model of the given dtype.

    Args:
        config: of a checkpoint.
        tensor: its name.
        dtype: torch name of the model's dtype.
    """
    if dtype not in ("float16", "bfloat16"):
        return False
    kinds = {_kind(config), *(_kind(part) for part in config.values())} - {""}
    return any(re.search(p, tensor) for kind in kinds for p in _kept(kind, dtype == "float16"))


def extra_rows(config: Mapping[str, Any]) -> set[int]:
    """How many rows more than `vocab_size` the embedding of an architecture may have.

    Usually none; Llama 3.2 Vision has 8 for its image tokens.
    """
    found = {0}
    for call in _embeddings(_kind(config)):
        size = call.args[0] if call.args else None
        if isinstance(size, ast.BinOp) and ast.unparse(size.left) == "config.vocab_size":
            more = size.right
            count = config.get(more.attr) if isinstance(more, ast.Attribute) else None
            found.add(more.value if isinstance(more, ast.Constant) else count)  # type: ignore[arg-type]
    return {count for count in found if isinstance(count, int)}


@cache
def _embeddings(model_type: str) -> tuple[ast.Call, ...]:
    nodes = (node for found in _classes(model_type, "modeling") for node in ast.walk(found))
    calls = (node for node in nodes if isinstance(node, ast.Call))
    return tuple(call for call in calls if ast.unparse(call.func).endswith("Embedding"))


def default_of(config: Mapping[str, Any], key: str) -> Any:
    """The default of a setting that a config omits; None if the class does not write it out."""
    classes = [c for c in _classes(_kind(config), "configuration") if c.name.endswith("Config")]
    own = [c for c in classes if _literal(c, "model_type") == _kind(config)]
    return _literal(own[0], key) if own else None


def _kind(config: Any) -> str:
    return str(config.get("model_type", "")) if isinstance(config, Mapping) else ""


@dataclass(frozen=True, slots=True)
class _Tie:
    """When a config class ties: always, by default, or if its text part does."""

    always: bool = False
    default: bool = False
    text_counts: bool = False


@cache
def _tied(model_type: str) -> _Tie:
    classes = [c for c in _classes(model_type, "configuration") if c.name.endswith("Config")]
    own = [c for c in classes if _literal(c, "model_type") == model_type] or classes[-1:]
    if not own:
        return _Tie()
    texts = [ast.unparse(node) for node in _body(own[0], "__post_init__")]
    return _Tie(
        always=f"self.{_TIED} = True" in texts,
        default=bool(_literal(own[0], _TIED)),
        text_counts=any(f"self.{_TIED} = " in t and "text_config" in t for t in texts),
    )


@cache
def _kept(model_type: str, is_half: bool) -> tuple[str, ...]:
    """Patterns of the names of tensors that stay in float32."""
    keys = (_STRICT, _HALF) if is_half else (_STRICT,)
    found = [_literal(c, key) for c in _classes(model_type, "modeling") for key in keys]
    names = {name for listed in found if listed for name in listed}
    return tuple(sorted(name.replace("*", ".*") for name in names))


def _literal(found: ast.ClassDef, name: str) -> Any:
    """The value of a class attribute given as a literal; None if there is none."""
    for node in found.body:
        if isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and node.value:
                try:
                    return ast.literal_eval(node.value)
                except (ValueError, TypeError):
                    return None
    return None


def _body(found: ast.ClassDef, function: str) -> Iterator[ast.stmt]:
    """The statements of a method that always run."""
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            yield from node.body


def _classes(model_type: str, part: str) -> list[ast.ClassDef]:
    """The classes in an architecture's `configuration` or `modeling` file; empty if unknown."""
    name = _folders().get(model_type, model_type.replace("-", "_"))
    if not re.fullmatch(r"\w+", name):  # a path must not come from an untrusted config.json
        return []
    trees = _trees(f"models/{name}/{part}_*.py")
    return [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]


@cache
def _folders() -> dict[str, str]:
    """Model type -> folder, if the two differ."""
    found = {"gpt-sw3": "gpt2"}
    for tree in _trees("models/auto/auto_mappings.py"):
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == _MAPPING:
                assert isinstance(node.value, ast.Call), "an OrderedDict of pairs"
                found |= dict(ast.literal_eval(node.value.args[0]))
    return found


def _trees(pattern: str) -> list[ast.Module]:
    """The parsed files of transformers that match; none if it is not installed."""
    spec = find_spec("transformers")
    roots = [Path(root) for root in (spec and spec.submodule_search_locations) or ()]
    files = [file for root in roots for file in sorted(root.glob(pattern))]
    return [ast.parse(file.read_text(encoding="utf-8")) for file in files]
