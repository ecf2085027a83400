"""A corpus of broken and strange pools: what each is made of, and what the check must say of it.

Each case has a builder; most spoil one of two good folders. Files are written byte by byte: nothing
here needs torch, and a tensor lies where the case says, not where a library would put it.
"""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROWS, WIDTH = 6, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": ROWS,
    "eos_token_id": 2,
}
TEMPLATE = "{% for m in messages %}\n{{ m.content }}\n{% endfor %}"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


# --- good folders ---


def packed(header: Any, data: bytes = b"\0" * 24) -> bytes:
    """A safetensors file: length of the header, header, data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """A valid file of these arrays."""
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8", "bool": "BOOL"}
    header, data = {}, b""
    for name, array in arrays.items():
        start, data = len(data), data + array.tobytes()
        header[name] = {
            "dtype": names[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, len(data)],
        }
    return packed(header, data)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a model of one layer."""
    rng = np.random.default_rng(seed)
    shapes = {
        "lm_head.weight": (ROWS, WIDTH),
        "model.embed_tokens.weight": (ROWS, WIDTH),
        "model.layers.0.mlp.up_proj.weight": (WIDTH, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def tokenizer(tokens: int = ROWS) -> dict[str, Any]:
    """The parts of a tokenizer.json that say which tokens there are."""
    vocabulary = {f"t{i}": i for i in range(tokens - 1)}
    added = [{"id": tokens - 1, "content": "<end>", "special": True}]
    return {"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": vocabulary}}


def folder(path: Path, seed: int = 0, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A whole and good checkpoint folder."""
    path.mkdir(parents=True)
    (path / WEIGHTS).write_bytes(safetensors(arrays(seed) if tensors is None else tensors))
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer()))
    settings = {"eos_token": "<end>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


# --- cases ---


@dataclass(frozen=True)
class Case:
    """What a pool is made of, and what must come out.

    Attributes:
        build: makes the folders below a root; returns the arguments of `pool check`.
        codes: of the findings, all and no others.
        exit: of `pool check`.
        said: part of what is printed of the findings.
        deep: whether `--deep` is needed to see it.
        refused: whether `recycler merge` must refuse it.
    """

    build: Callable[[Path], list[str]]
    codes: frozenset[str]
    exit: int
    said: str
    deep: bool = False
    refused: bool = True


CASES: dict[str, Case] = {}


def pool(name: str, codes: str, said: str, **expected: Any) -> Callable[[Callable], Callable]:
    """Register a builder that makes the whole pool."""

    def register(build: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
        assert name not in CASES, name
        exit_code = expected.pop("exit", 2)
        refused = expected.pop("refused", exit_code == 2)
        CASES[name] = Case(
            build, frozenset(codes.split()), exit_code, said, refused=refused, **expected
        )
        return build

    return register


def spoiled(name: str, codes: str, said: str, **expected: Any) -> Callable[[Callable], Callable]:
    """Register a change to the second of two good folders."""

    def register(spoil: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def build(root: Path) -> list[str]:
            good = folder(root / "good")
            spoil(folder(root / "spoiled", seed=1))
            return [str(good), str(root / "spoiled")]

        pool(name, codes, said, **expected)(build)
        return spoil

    return register


def weights(name: str, codes: str, said: str, content: bytes) -> None:
    """Register a weight file of this content."""
    spoiled(name, codes, said)(lambda path: (path / WEIGHTS).write_bytes(content))


def index(name: str, said: str, table: Any, code: str = "index") -> None:
    """Register an index with this table; the good weights become shard.safetensors."""

    def spoil(path: Path) -> None:
        (path / WEIGHTS).rename(path / "shard.safetensors")
        raw = table if isinstance(table, bytes) else json.dumps(table).encode()
        (path / INDEX).write_bytes(raw)

    spoiled(name, code, said)(spoil)


def config(name: str, codes: str, said: str, content: bytes, **expected: Any) -> None:
    """Register a config.json of this content."""
    spoiled(name, codes, said, **expected)(
        lambda path: (path / "config.json").write_bytes(content)
    )


def setting(name: str, codes: str, said: str, **settings: Any) -> None:
    """Register a changed setting of config.json; `exit` is 1 where a code stands in brackets."""
    warning = codes.startswith("(")
    raw = json.dumps({**CONFIG, **settings}).encode()
    config(name, codes.strip("()"), said, raw, exit=1 if warning else 2)


def tensors(name: str, codes: str, said: str, change: Callable[[dict], Any], **expected: Any):
    """Register a change to the tensors of the second folder."""

    def spoil(path: Path) -> None:
        changed = arrays(1)
        change(changed)
        (path / WEIGHTS).write_bytes(safetensors(changed))

    spoiled(name, codes, said, **expected)(spoil)


# --- weight files ---

GOOD = safetensors(arrays())
BEGIN = struct.unpack("<Q", GOOD[:8])[0]
WHOLE = "is not a whole safetensors file"

weights("data cut by one byte", "truncated", "ends at byte", GOOD[:-1])
weights("data cut off", "truncated", "ends at byte", GOOD[: 8 + BEGIN])
weights("cut in its header", "truncated", WHOLE, GOOD[: BEGIN // 2])
weights("empty file", "truncated", "header of 0 bytes, file of 0 bytes", b"")
weights("five bytes", "truncated", WHOLE, b"\1\0\0\0\0")
weights("header of no bytes", "header", "not valid JSON", struct.pack("<Q", 0) + b"\0" * 24)
weights("header longer than the file", "truncated", WHOLE, struct.pack("<Q", 999) + b"{}")
weights("header of 2**63 bytes", "truncated", WHOLE, struct.pack("<Q", 1 << 63) + b"{}")
weights("header of -1 bytes", "truncated", WHOLE, b"\xff" * 8 + b"{}")
weights("header is no JSON", "header", "not valid JSON", packed(b"{'t': 1}"))
weights("header in UTF-16", "header", "not valid JSON", packed(json.dumps({}).encode("utf-16")))
weights("header with a byte order mark", "header", "not valid JSON", packed(b"\xef\xbb\xbf{}"))
weights("header not UTF-8", "header", "not valid JSON", packed(b'{"\xff": 1}'))
weights("header is a list", "header", "is not a table", packed([TENSOR]))
weights("header nests", "header", "not valid JSON", packed(b'{"t":' + b"[" * 100_000))
weights("header with NaN", "header", "NaN is no number", packed(b'{"t": NaN}'))
weights("header ends in zeros", "header", "not valid JSON", packed(b"{}\0\0", b""))
weights(
    "metadata of numbers",
    "header",
    "__metadata__",
    packed({"__metadata__": {"a": 1}, "t": TENSOR}),
)
weights(
    "a tensor twice in a file",
    "header",
    "occurs twice",
    packed(b'{"t": %b, "t": %b}' % ((json.dumps(TENSOR).encode(),) * 2)),
)
weights(
    "half a surrogate pair as a name",
    "header",
    "surrogates not allowed",
    packed(b'{"\\ud800": %b}' % json.dumps(TENSOR).encode()),
)
weights("no tensor", "empty", "holds no tensor", packed({}, b""))
weights("data but no tensor", "layout", "its header describes", packed({}))


def entry(name: str, codes: str, said: str, data: bytes = b"\0" * 24, **fields: Any) -> None:
    """Register a file of one tensor `t` with these fields instead of TENSOR's."""
    table = {key: value for key, value in {**TENSOR, **fields}.items() if value is not ...}
    weights(name, codes, said, packed({"t": table}, data))


entry("negative shape", "header", "expected whole numbers", shape=[-2, -3])
entry("shape of floats", "header", "expected whole numbers", shape=[2.0, 3.0])
entry("shape of booleans", "header", "expected whole numbers", shape=[True, 6])
entry("shape of texts", "header", "expected whole numbers", shape=["2", "3"])
entry("shape is a number", "header", "expected whole numbers", shape=6)
entry("shape beyond any memory", "layout", "'t' has 24 bytes", shape=[2**62, 2**62])
entry("shape of 2**64", "header", "expected whole numbers", shape=[2**64, 0])
entry(
    "shape that wraps to 24 bytes",
    "layout",
    "'t' has 24 bytes",
    shape=[2**63, 2, 2, 6],
    dtype="U8",
)
entry(
    "shape beyond 64 bits times zero",
    "layout",
    "'t' has 0 bytes",
    b"",
    shape=[2**63, 2**63, 0],
    data_offsets=[0, 0],
)
entry("shape of 100 000 large lengths", "layout", "'t' has", shape=[2**62] * 100_000)
entry("no offsets", "header", "lacks dtype, shape or data_offsets", data_offsets=...)
entry("no dtype", "header", "lacks dtype, shape or data_offsets", dtype=...)
entry("a field too many", "header", "unknown field 'stride'", stride=[1])
entry("three offsets", "header", "offsets [0, 24, 24]", data_offsets=[0, 24, 24])
entry("offsets backwards", "layout", "has -24 bytes", data_offsets=[24, 0])
entry("offsets negative", "header", "offsets [-24, 0]", data_offsets=[-24, 0])
entry("offsets beyond the file", "truncated", "ends at byte", data_offsets=[24, 48])
entry("a gap at the start", "layout", "overlap or gap", b"\0" * 28, data_offsets=[4, 28])
entry("data left over", "layout", "its header describes", b"\0" * 25)
entry("unknown dtype", "dtype-unknown", "tensor 't' has dtype 'F31'", dtype="F31")
entry("dtype in torch's name", "dtype-unknown", "'float32', expected one of", dtype="float32")
entry("dtype is a list", "dtype-unknown", "has dtype ['F32']", dtype=["F32"])
entry("dtype of half a byte", "dtype-unknown", "has dtype 'F4'", dtype="F4", shape=[48])
entry("dtype of scales", "dtype-unknown", "has dtype 'F8_E8M0'", dtype="F8_E8M0", shape=[24])
entry("dtype of another size", "layout", "expected 12 for F16[2, 3]", dtype="F16")
weights("entry is a list", "header", "lacks dtype", packed({"t": ["F32", [2, 3], [0, 24]]}))
for case, offsets in {
    "overlap": [12, 36],
    "in one place": [0, 24],
    "with a gap": [28, 52],
}.items():
    weights(
        f"two tensors {case}",
        "layout",
        "(overlap or gap)",
        packed({"a": TENSOR, "t": {**TENSOR, "data_offsets": offsets}}, b"\0" * offsets[1]),
    )
for case, number in {
    "5000 digits": b"9" * 5000,
    "a minus zero": b"-0",
    "21 digits": b"1" * 21,
}.items():
    weights(
        f"an offset of {case}",
        "header",
        "no 64-bit whole number",
        packed(b'{"t": {"dtype": "F32", "shape": [], "data_offsets": [%b, 4]}}' % number),
    )
weights("a pickle called safetensors", "pickle", "it is a pickle", pickle.dumps({"t": [1.0] * 99}))
weights("a zip called safetensors", "pickle", "it is a zip archive", b"PK\3\4" + b"\0" * 99)
weights("a GGUF called safetensors", "format", "it is a GGUF file", b"GGUF\3\0\0\0" + b"\0" * 99)
weights("a web page", "format", "it is a web page", b"<!DOCTYPE html><html></html>")
weights(
    "a Git LFS pointer",
    "lfs-pointer",
    "git lfs pull",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
)


# --- what lies where a weight file should ---


@spoiled("weights are a folder", "not-a-file", "no regular file")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).mkdir()


@spoiled("weights are a pipe", "not-a-file", "no regular file")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    os.mkfifo(path / WEIGHTS)


@spoiled("weights link to a device", "not-a-file", "no regular file")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).symlink_to("/dev/zero")


@spoiled("weights link to nothing", "unreadable", "a link to ../blobs/gone, which is not there")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).symlink_to("../blobs/gone")


@spoiled("weights link to themselves", "unreadable", "can't be read")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).symlink_to(WEIGHTS)


@spoiled("only pickles", "pickle", "holds only pickles (pytorch_model.bin)")
def _(path: Path) -> None:
    (path / WEIGHTS).rename(path / "pytorch_model.bin")


@spoiled("an adapter", "adapter", "merge it into its base first")
def _(path: Path) -> None:
    (path / WEIGHTS).rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (path / "config.json").unlink()


@spoiled("an adapter as a pickle", "adapter", "holds a LoRA adapter")
def _(path: Path) -> None:
    (path / WEIGHTS).rename(path / "adapter_model.bin")
    (path / "adapter_config.json").write_text("{}")


@spoiled("no weights", "empty", "holds no *.safetensors")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()


@spoiled("an empty folder", "unreadable", "config.json is missing")
def _(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


@spoiled("files of two saves", "tensor-twice", "is in a.safetensors and in b.safetensors")
def _(path: Path) -> None:
    (path / WEIGHTS).rename(path / "a.safetensors")
    (path / "b.safetensors").write_bytes(safetensors({"model.norm.weight": np.zeros(2, "f4")}))


# --- indexes ---

index("index is no JSON", "is not readable JSON", b"weights", "json")
index("index is a list", "is not a JSON object", [], "json")
index("index without map", "has no weight_map", {"metadata": {}})
index("index with an empty map", "has no weight_map", {"weight_map": {}})
index("index with a list for a map", "has no weight_map", {"weight_map": ["shard.safetensors"]})
index("index names a missing file", "which is not there", {"weight_map": {"t": "x.safetensors"}})
index("index names nothing in the file", "not in it", {"weight_map": {"t": "shard.safetensors"}})
for place in (
    "../good/model.safetensors",
    "/etc/hostname",
    "..\\good\\model.safetensors",
    "C:model.safetensors",
    "shard.safetensors\0",
    "shard\n.safetensors",
    "\ud800.safetensors",
    "..",
    ".",
    "",
    "x" * 5000,
    7,
    None,
    ["shard.safetensors"],
):
    index(
        f"index leads to {str(place)[:20]!r}",
        "which is not a plain file name",
        {"weight_map": {"t": place}},
    )


@spoiled("index names a pipe", "not-a-file", "no regular file")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    os.mkfifo(path / "shard.safetensors")
    (path / INDEX).write_text(json.dumps({"weight_map": {"t": "shard.safetensors"}}))


# --- configs ---

config("config is no JSON", "json", "config.json is not readable JSON", b"{")
config("config is empty", "json", "config.json is not readable JSON", b"")
config("config not UTF-8", "json", "config.json is not readable JSON", b'{"a": "\xff"}')
config("config is a list", "json", "config.json is not a JSON object", b"[]")
config("config nests without end", "json", "not readable JSON", b'{"a":' * 100_000)
config("config nests deeply", "json", "nests deeper", b'{"a":' * 200 + b"1" + b"}" * 200)
config("config with a number of 5000 digits", "json", "JSON", b'{"a": %b}' % (b"9" * 5000))
setting(
    "a hidden size of 4000 digits", "config", "found hidden_size 99999", hidden_size=10**4000 - 1
)
setting("config that holds NaN", "(config)", "found rms_norm_eps nan", rms_norm_eps=float("nan"))
setting("another rope", "(config)", "'rope_theta': 77.0", rope_theta=77.0)
setting("another rope scaling", "(config)", "'yarn'", rope_scaling={"type": "yarn", "factor": 2.0})
setting("another norm", "(config)", "found rms_norm_eps 0.1", rms_norm_eps=0.1)
setting("another end token", "(config)", "found eos_token_id 3", eos_token_id=3)
setting("settings of strange types", "config", "found hidden_size [", hidden_size=[{"a": None}])
setting("another activation", "config", "found hidden_act 'relu'", hidden_act="relu")
setting(
    "another architecture",
    "architecture",
    "Qwen2ForCausalLM ('qwen2'), which shares 4 of 4 tensors",
    architectures=["Qwen2ForCausalLM"],
    model_type="qwen2",
)
setting(
    "architecture of strange types", "architecture", "shares 4 of 4", architectures=[{"a": 1}, 7]
)
setting(
    "quantised", "quantised", "quantised by 'gptq'", quantization_config={"quant_method": "gptq"}
)
setting("quantised somehow", "quantised", "quantised by [1]", quantization_config=[1])
setting("vocabulary beyond the rows", "config vocabulary", "6, the rows of its emb", vocab_size=9)


@spoiled("config missing", "unreadable", "config.json is missing")
def _(path: Path) -> None:
    (path / "config.json").unlink()


@spoiled("config is a pipe", "not-a-file", "no regular file")
def _(path: Path) -> None:
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")


@spoiled("config of 10 GB", "json", "10000000000 bytes, more than")
def _(path: Path) -> None:
    os.truncate(path / "config.json", 10_000_000_000)  # sparse: it takes no space


# --- tensors ---

tensors(
    "a tensor missing", "tensor-missing", "no such tensor", lambda t: t.pop("model.norm.weight")
)
tensors(
    "a tensor too many",
    "tensor-extra",
    "x.bias",
    lambda t: t.update({"x.bias": np.zeros(2, "f4")}),
)
tensors(
    "a name that would colour the terminal",
    "tensor-extra",
    "\\x1b[31mred\\u202e",
    lambda t: t.update({"\x1b[31mred\u202e": np.zeros(2, "f4")}),
)
tensors(
    "scalars and tensors of no element",
    "shape",
    "found float32[0, 7], expected float32[2]",
    lambda t: t.update({"model.norm.weight": np.zeros((0, 7), "f4")}),
)
tensors(
    "another dtype",
    "dtype",
    "found float16[2]",
    lambda t: t.update({"model.norm.weight": np.zeros(2, "f2")}),
    exit=1,
)
tensors("tied and untied", "tensor-missing", "lm_head.weight", lambda t: t.pop("lm_head.weight"))


@spoiled("more layers", "config tensor-extra", "found num_hidden_layers 2, expected 1")
def _(path: Path) -> None:
    layer = {"model.layers.1.mlp.up_proj.weight": np.zeros((2, 2), "f4")}
    (path / WEIGHTS).write_bytes(safetensors({**arrays(1), **layer}))
    (path / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 2}))


@spoiled("another width", "config shape", "found float32[6, 4], expected float32[6, 2]")
def _(path: Path) -> None:
    wide = {name: np.repeat(array, 2, -1) for name, array in arrays(1).items()}
    (path / WEIGHTS).write_bytes(safetensors(wide))
    (path / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 4}))


@spoiled("more rows", "config shape tokenizer", "8 tokens, token 5 is 't5'")
def _(path: Path) -> None:
    rows = {
        name: np.zeros((8, 2), "f4") if len(array) == ROWS else array
        for name, array in arrays(1).items()
    }
    (path / WEIGHTS).write_bytes(safetensors(rows))
    (path / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 8}))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(8)))


# --- tokenizers and templates ---


def tokens(name: str, codes: str, said: str, change: Callable[[dict], Any]) -> None:
    """Register a changed tokenizer.json."""

    def spoil(path: Path) -> None:
        table = tokenizer()
        change(table)
        (path / "tokenizer.json").write_text(json.dumps(table))

    spoiled(name, codes, said, exit=1)(spoil)


tokens(
    "another added token",
    "tokenizer",
    "found 6 tokens, token 5 is '<|im_end|>', expected 6 tokens, token 5 is '<end>'",
    lambda t: t["added_tokens"][0].update(content="<|im_end|>"),
)
tokens(
    "a token without a row",
    "tokenizer vocabulary",
    "1 tokens without a row of the embedding, first '<pad>' (6)",
    lambda t: t["added_tokens"].append({"id": 6, "content": "<pad>"}),
)
tokens(
    "another splitting",
    "tokenizer",
    "the same 6 tokens with another pre_tokenizer",
    lambda t: t.update(pre_tokenizer={"type": "Whitespace"}),
)
tokens(
    "tokens of strange types",
    "tokenizer",
    "found 0 tokens",
    lambda t: t.update(model={"vocab": 7}, added_tokens={"id": [1]}),
)


@spoiled("tokenizer is no JSON", "tokenizer", "found nothing that can be read", exit=1)
def _(path: Path) -> None:
    (path / "tokenizer.json").write_bytes(b"\xff{")


@spoiled("tokenizer missing", "tokenizer", "found no such file", exit=1)
def _(path: Path) -> None:
    (path / "tokenizer.json").unlink()


@spoiled("tokenizer is a pipe", "tokenizer", "found nothing that can be read", exit=1)
def _(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    os.mkfifo(path / "tokenizer.json")


@spoiled("another end token in the tokenizer", "tokenizer", "eos_token '<s>'", exit=1)
def _(path: Path) -> None:
    settings = {"eos_token": {"content": "<s>"}, "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


@spoiled("another chat template", "chat-template", "line 2 '{{ m.text }}'", exit=1)
def _(path: Path) -> None:
    (path / "chat_template.jinja").write_text(TEMPLATE.replace("content", "text"))


@spoiled("no chat template", "chat-template", "found no chat template, expected a chat", exit=1)
def _(path: Path) -> None:
    (path / "tokenizer_config.json").write_text("{}")


# --- pools ---


@pool("no folder", "not-found", "nowhere is not a folder")
def _(root: Path) -> list[str]:
    return [str(folder(root / "good")), str(root / "nowhere")]


@pool("a file for a folder", "not-found", "is not a folder")
def _(root: Path) -> list[str]:
    return [str(folder(root / "good")), str(root / "good" / WEIGHTS)]


@pool("a name that is too long", "not-found", "is not a folder")
def _(root: Path) -> list[str]:
    return [str(folder(root / "good")), str(root / ("x" * 300))]


@pool("a user who does not exist", "not-found", "is not a folder")
def _(root: Path) -> list[str]:
    return [str(folder(root / "good")), "~no-such-user/runs"]


@pool("a folder that links to itself", "not-found", "is not a folder")
def _(root: Path) -> list[str]:
    (root / "loop").symlink_to("loop")
    return [str(folder(root / "good")), str(root / "loop")]


@pool("a pipe for a folder", "not-found", "is not a folder")
def _(root: Path) -> list[str]:
    os.mkfifo(root / "pipe")
    return [str(folder(root / "good")), str(root / "pipe")]


@pool("nothing that opens", "empty not-found", "holds no tensor")
def _(root: Path) -> list[str]:
    (folder(root / "void") / WEIGHTS).write_bytes(packed({}, b""))
    return [str(root / "void"), str(root / "nowhere")]


@pool("a folder twice", "same-folder", "the folder of 'good' again")
def _(root: Path) -> list[str]:
    good = str(folder(root / "good"))
    return [good, str(folder(root / "other", 1)), good]


@pool("a link to a folder of the pool", "same-folder", "the folder of 'good' again")
def _(root: Path) -> list[str]:
    (root / "link").symlink_to(folder(root / "good"))
    return [str(root / "good"), str(root / "link")]


@pool("the base in the list", "base-member", "found the base itself", exit=1)
def _(root: Path) -> list[str]:
    good, base = folder(root / "good"), folder(root / "base", 1)
    return [str(good), str(base), "--base", str(base)]


@pool("no base", "not-found", "nowhere is not a folder")
def _(root: Path) -> list[str]:
    return [str(folder(root / "good")), "--base", str(root / "nowhere")]


@pool("a broken base", "truncated", "ends at byte")
def _(root: Path) -> list[str]:
    (folder(root / "base", 1) / WEIGHTS).write_bytes(GOOD[:-1])
    return [str(folder(root / "good")), "--base", str(root / "base")]


@pool("a base of another architecture", "architecture", "GPT2LMHeadModel")
def _(root: Path) -> list[str]:
    base = folder(root / "base", 1)
    (base / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["GPT2LMHeadModel"]}))
    return [str(folder(root / "good")), "--base", str(base)]


@pool("a folder of the hub's cache", "cache", "Hugging Face cache")
def _(root: Path) -> list[str]:
    folder(root / "models--us--model" / "snapshots" / "abc")
    return [str(folder(root / "good")), str(root / "models--us--model")]


@pool("the folder of a run, with its checkpoints inside", "nested", "of its folders have one")
def _(root: Path) -> list[str]:
    folder(root / "run" / "checkpoint-30")
    return [str(folder(root / "good")), str(root / "run")]


@pool("numbers beside whole numbers", "integers", "int64[4]")
def _(root: Path) -> list[str]:
    kinds = (np.arange(4), np.arange(4, dtype=np.float32))
    paths = [root / "whole", root / "broken"]
    for seed, (path, numbers) in enumerate(zip(paths, kinds, strict=True)):
        folder(path, tensors={**arrays(seed), "scale": numbers})
    return [str(path) for path in paths]


# --- what only reading shows ---


def numbers(name: str, said: str, **places: float) -> None:
    """Register numbers that are not finite at places of the norm; seen by a deep check only."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        for place, value in places.items():
            tensors["lm_head.weight"][int(place[1]), int(place[2])] = value

    tensors(name, "not-finite", said, change, deep=True)


numbers("NaN", "found 1 NaN and 0 Inf, the first at [3, 1]", p31=float("nan"))
numbers("Inf", "found 0 NaN and 1 Inf, the first at [0, 0]", p00=float("-inf"))
numbers("NaN and Inf", "found 1 NaN and 2 Inf, the first at [1, 1]",
        p11=float("inf"), p20=float("-inf"), p51=float("nan"))  # fmt: skip


@pool("equal checkpoints", "duplicate", "the very tensors of 'good'", exit=1, deep=True)
def _(root: Path) -> list[str]:
    copy = folder(root / "copy", tensors=dict(reversed(arrays().items())))  # laid out otherwise
    return [str(folder(root / "good")), str(copy), str(folder(root / "other", 1))]


@pool(
    "a checkpoint equal to the base", "base-member", "very tensors of the base", exit=1, deep=True
)
def _(root: Path) -> list[str]:
    good, base = folder(root / "good"), folder(root / "base")
    return [str(good), str(folder(root / "other", 1)), "--base", str(base)]


@pool("whole numbers that differ", "integers", "found other whole numbers", deep=True)
def _(root: Path) -> list[str]:
    paths = []
    for seed in range(2):
        positions = {"positions": np.arange(seed, 4 + seed)}
        paths.append(str(folder(root / f"run-{seed}", tensors={**arrays(seed), **positions})))
    return paths
