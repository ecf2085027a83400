"""What this machine can run at once: workers and batch size from memory, cores and accelerators."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

_PROCESS = 1_200_000_000  # torch, transformers, lm-eval and Ray in one worker [B]
_SHARE = 0.8  # of the free memory that is planned with
_LARGEST_BATCH = 128
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is free on this machine.

    Attributes:
        cores: processor cores that this process may use.
        memory: free memory [B].
        accelerators: free memory of each CUDA device [B].
        quick: dtypes besides float32 whose matrix products the processor has instructions for.
    """

    cores: int
    memory: int
    accelerators: tuple[int, ...] = ()
    quick: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> "Machine":
        """This machine, within the limits of its container."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(
            cores=_cores(),
            memory=_memory(),
            accelerators=tuple(torch.cuda.mem_get_info(i)[0] for i in range(count)),
            quick=_quick(),
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What scoring one merge takes.

    Attributes:
        weights: size of the resident model [B].
        token: memory of one token in a batch, without the weights [B].
        longest: longest prompt with its answer [tokens].
    """

    weights: int
    token: int
    longest: int

    @classmethod
    def of(cls, config: Mapping[str, Any], weights: int, longest: int) -> "Load":
        """From a config.json: logits three times in float32, activations of a layer, keys, values."""

        def number(*names: str) -> int:
            return _number(config, *names)

        vocabulary, hidden = number("vocab_size"), number("hidden_size", "n_embd", "d_model")
        inside = number("intermediate_size", "n_inner", "d_ff") or 4 * hidden
        layers, heads = (
            number("num_hidden_layers", "n_layer"),
            number("num_attention_heads", "n_head"),
        )
        token = 4 * (3 * vocabulary + 8 * hidden + 4 * inside + 2 * layers * hidden)
        return cls(weights, token + 8 * heads * max(longest, 1), max(longest, 1))


@dataclass(frozen=True, slots=True)
class Sizing:
    """How to run on a machine: `batch` sequences at once on each of `workers`, and why."""

    batch: int
    workers: int
    device: str
    why_batch: str
    why_workers: str


def sized(machine: Machine, load: Load, evaluations: int) -> Sizing:
    """Workers and batch size for a machine.

    One worker for each accelerator, else for each core, as far as memory lasts, and at most a quarter
    of the budget: proposals made at the same time don't know each other's scores.
    """
    if machine.accelerators:
        workers, free = len(machine.accelerators), min(machine.accelerators)
        room, fixed, what = free * _SHARE, load.weights, "free on each accelerator"
    else:
        fixed = load.weights + _PROCESS
        fit = int(machine.memory * _SHARE // (fixed + load.token * load.longest))
        workers = max(1, min(machine.cores, fit, max(1, evaluations // 4)))
        room, what = machine.memory * _SHARE / workers, "free for all workers"
        free = machine.memory
    one = load.token * load.longest
    most = int(max(room - fixed, 0) / 2 // one)
    batch = min(_LARGEST_BATCH, 1 << max(most.bit_length() - 1, 0))
    needs = f"{_gb(fixed)} and {_gb(one)} a sequence of at most {load.longest} tokens"
    short = "" if room >= fixed + one else "; this may be too little: use a larger machine"
    return Sizing(
        batch=batch,
        workers=workers,
        device="cuda" if machine.accelerators else "cpu",
        why_batch=f"{_gb(free)} {what}; a worker takes about {needs}{short}",
        why_workers=f"{machine.cores} cores, {_gb(machine.memory)} of free memory, "
        f"{len(machine.accelerators) or 'no'} accelerators",
    )


def longest_of(config: Mapping[str, Any]) -> int:
    """Longest sequence of a model [tokens], from its config.json; 2048 if it does not say."""
    return _number(config, "max_position_embeddings", "n_positions", "n_ctx") or 2048


def _number(config: Mapping[str, Any], *names: str) -> int:
    inner = config.get("text_config")
    table = {**config, **(inner if isinstance(inner, dict) else {})}
    values = (table.get(name) for name in names)
    return next((v for v in values if type(v) is int and v > 0), 0)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _cores() -> int:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with suppress(OSError, ValueError, IndexError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()[:2]
        cores = min(cores, max(1, int(quota) // int(period)))  # "max" is no number
    return cores


def _memory() -> int:
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, max(limit - int((_CGROUP / "memory.current").read_text()), 0))
    return free


def _quick() -> tuple[str, ...]:
    flags: set[str] = set()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(
            (set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set()
        )
    known = {
        "bfloat16": {"amx_bf16", "avx512_bf16", "bf16"},
        "float16": {"amx_fp16", "avx512_fp16"},
    }
    return tuple(dtype for dtype, names in known.items() if names & flags)
