"""Tools for the comparisons with mergekit: its venv, worker processes, pools, and measured processes.

mergekit is never imported here. It needs an older pydantic, so it has a venv of its own and runs by its
command line or in a worker process. recycler runs by its command line.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import transformers

ROOT = Path(__file__).parent.parent
REQUIRED = (
    "mergekit>=0.1.5,<0.2",
    "pydantic<2.11",
    f"torch=={torch.__version__.partition('+')[0]}",
    f"transformers=={transformers.__version__}",
)
SAMPLE = 0.05  # interval between samples of a process's memory [s]

# Both workers read one JSON job per line and answer with one line; output of libraries goes to stderr.
_LOOP = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    job = json.loads(line)
    try:
        merge(job)
        reply = {"ok": True}
    except Exception as error:
        reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(reply) + "\\n")
    answers.flush()
"""
_RECYCLER = """
from recycler.environment import prepare
prepare()
from recycler.cli.main import cli

def merge(job):
    cli(["merge", job["recipe"], job["out"], "--json"], standalone_mode=False)
"""
# With `masks` (files by model), random masks are read instead of drawn. mergekit draws the masks of a group of
# tensors in the order of its models, except those of density 1.
_MERGEKIT = """
import logging, torch, yaml
from safetensors.torch import load_file
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge as Method
from mergekit.options import MergeOptions

logging.disable(logging.WARNING)
draw, merge_group, masks, queue = torch.bernoulli, Method.merge_group, {}, []

def named(self, group, /, **parameters):
    dense = parameters["density"]
    queue[:] = [(str(e.id), group.metadata.name) for e in group.non_base if dense[e.id] < 1]
    return merge_group(self, group, **parameters)

def looked_up(chances):
    if not masks:
        return draw(chances)
    model, name = queue.pop(0)
    return masks[model][name].to(chances.dtype)

Method.merge_group, torch.bernoulli = named, looked_up

def merge(job):
    masks.clear()
    masks.update({model: load_file(file) for model, file in job.get("masks", {}).items()})
    with open(job["recipe"]) as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    run_merge(config, job["out"], MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False))
"""


# --- the tools ---


def mergekit_venv(folder: Path) -> Path:
    """Return the interpreter of a venv with mergekit, which is made on first use.

    Args:
        folder: folder of the venv; parents are created.
    """
    python = folder / "bin" / "python"
    if not (folder / "bin" / "mergekit-yaml").exists():
        print(f"installing {', '.join(REQUIRED)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "--quiet", *REQUIRED]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return python


def mergekit_version(python: Path) -> str:
    """Return the versions of mergekit and of its pydantic."""
    code = "from importlib.metadata import version as v; print(v('mergekit'), 'with pydantic', v('pydantic'))"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def environment(threads: int = 0) -> dict[str, str]:
    """Environment variables of either tool; 0 threads: the tool's default number."""
    given = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    limit = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    return {**given, **limit, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


class Worker:
    """One tool in a process of its own that serves many merges."""

    def __init__(self, tool: str, python: Path | str, log: Path) -> None:
        code = (_RECYCLER if tool == "recycler" else _MERGEKIT) + _LOOP
        self._log = log
        self._process = subprocess.Popen(
            [python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log.open("wb"), text=True, env=environment(1),
        )  # fmt: skip

    def merge(self, recipe: Path, out: Path, **options) -> str:
        """Make one merge; returns the error, or nothing."""
        job = {"recipe": str(recipe), "out": str(out), **options}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker died:\n{self._log.read_text()[-2000:]}")
        reply = json.loads(line)
        return "" if reply["ok"] else reply["error"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


# --- pools ---


def llama_shapes(
    hidden: int, layers: int, inner: int, vocab: int, heads: int, kv: int, tied: bool
) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """Config and tensor shapes of a Llama."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": inner,
        "vocab_size": vocab, "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": hidden // heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    narrow = hidden // heads * kv
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(layers):
        parts = {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        shapes.update({f"model.layers.{layer}.{k}.weight": v for k, v in parts.items()})
    return config, shapes


def write_checkpoint(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a checkpoint folder that both tools can read."""
    folder.mkdir(parents=True)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tie_free_pool(root: Path, n: int, seed: int = 0, tied: bool = False) -> list[Path]:
    """Write a base (first) and n float32 checkpoints with exact task vectors and no ties.

    Base entries are multiples of 2^-12 below 1/8, task vectors distinct multiples of 2^-24 with
    heavy tails, so x - base is exact and the trim threshold of TIES is never shared.
    """
    rng = np.random.default_rng(seed)
    config, shapes = llama_shapes(64, 4, 96, 257, 4, 2, tied)
    base = {
        name: torch.from_numpy(rng.integers(-511, 512, shape).astype(np.float32) / 4096)
        for name, shape in shapes.items()
    }
    folders = [write_checkpoint(root / "base", config, base)]
    for member in range(n):
        moved = {name: x + _tie_free(rng, x.shape) for name, x in base.items()}
        folders.append(write_checkpoint(root / f"m{member}", config, moved))
    return folders


def _tie_free(rng: np.random.Generator, shape: torch.Size) -> torch.Tensor:
    """Distinct magnitudes k 2^-24, k in 1..2^18, log-normal, with random signs."""
    count, sizes = shape.numel(), np.empty(0)
    while sizes.size < count:
        drawn = np.exp(rng.normal(np.log(30_000), 1.2, 4 * count)).astype(np.int64)
        sizes = np.union1d(sizes, drawn[(drawn > 0) & (drawn <= 2**18)])
    sizes = rng.permutation(sizes)[:count] * rng.choice((-1, 1), count) / 2**24
    return torch.from_numpy(sizes.astype(np.float32)).reshape(shape)


def cast_pool(root: Path, pool: list[Path], dtypes: list[torch.dtype]) -> list[Path]:
    """Write the same checkpoints rounded to other dtypes, one dtype per checkpoint."""
    made = []
    for folder, dtype in zip(pool, dtypes, strict=True):
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        made.append(write_checkpoint(root / folder.name, config, rounded))
    return made


# --- measuring a whole process ---


@dataclass(frozen=True, slots=True)
class Measured:
    """Resources that one process used.

    Attributes:
        wall: wall-clock time [s].
        cpu: user and system time [s].
        anonymous: peak anonymous memory, sampled every `SAMPLE` seconds [B].
        resident: peak resident set, including mapped files [B].
        load: load average of the machine at the end.
    """

    wall: float
    cpu: float
    anonymous: int
    resident: int
    load: float

    def __str__(self) -> str:
        return (
            f"{self.wall:7.1f} s wall {self.cpu:7.1f} s CPU {self.anonymous / 1e9:6.2f} GB anonymous "
            f"{self.resident / 1e9:6.2f} GB resident  load {self.load:.1f}"
        )


def measure(command: list, cores: int) -> Measured:
    """Run a command and measure it; its output is shown only if it fails.

    Args:
        command: program and arguments.
        cores: number of CPU cores it may use; 0: all.
    """
    peaks, over = {"RssAnon": 0, "VmHWM": 0}, threading.Event()
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], env=environment(cores),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=(lambda: os.sched_setaffinity(0, range(cores))) if cores else None,
    )  # fmt: skip
    errors: list[bytes] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()

    def watch() -> None:
        while not over.wait(SAMPLE):
            for key, found in _memory(process.pid).items():
                peaks[key] = max(peaks[key], found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    over.set()
    watcher.join()
    reader.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{errors[0].decode()[-3000:]}")
    load = os.getloadavg()[0]
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(wall, cpu, peaks["RssAnon"], peaks["VmHWM"], load)


def _memory(pid: int) -> dict[str, int]:
    """Anonymous memory now and the largest resident set so far [B]; `ru_maxrss` counts the parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {key: int(rest.split()[0]) * 1024 for key, rest in pairs if key in ("RssAnon", "VmHWM")}
