"""Run conditions that may change scores: versions of libraries, processor, threads."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "tokenizers", "lm-eval", "numpy")


def conditions() -> dict[str, str]:
    """Return library versions, processor and number of threads of this process."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "processor": _processor(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a phrase for each recorded condition that differs now."""
    return [
        f"{name} is {now[name] or 'unset'} here, it was {value or 'unset'}"
        for name, value in then.items()
        if name in now and now[name] != value
    ]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the processor's model name if known, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())
