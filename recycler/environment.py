"""Process settings that must be made before heavy packages are imported.

One thread a process: with two busy cores, torch on two threads was 10 to 16 times slower than on
one. Nothing is downloaded from a hub unless the user asks for it.
"""

import ctypes
import os
from functools import cache
from typing import Any

DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # By default glibc returns the memory of every large activation and faults it in again. With these
    # settings in a worker's environment, scoring the demo pool took 10 to 25 % less CPU time.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


def prepare() -> None:
    """Set each variable that the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    _keep_memory()


def _keep_memory() -> None:
    """Apply the two glibc settings to this process, which no longer reads its environment.

    A merge allocates and frees dozens of tensors: faulting their memory in again took a third of a
    pass that makes eight merges.
    """
    libc = _libc()
    if libc is None:
        return
    for parameter, name in ((-3, "MALLOC_MMAP_THRESHOLD_"), (-1, "MALLOC_TRIM_THRESHOLD_")):
        if os.environ[name].isdigit():
            libc.mallopt(parameter, int(os.environ[name]))


def spare_memory() -> None:
    """Let this process return memory to the system, because it lives long and computes now and then.

    Undoes `_keep_memory`, and keeps glibc at two heaps however many threads there are.
    """
    libc = _libc()
    if libc is None:
        return
    for parameter, value in ((-3, 1 << 17), (-1, 1 << 17), (-8, 2)):  # mmap, trim, heaps
        libc.mallopt(parameter, value)


def release() -> None:
    """Return freed memory to the system now."""
    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@cache
def _libc() -> Any:
    """The C library, if it is glibc."""
    try:
        found = ctypes.CDLL(None)
        _ = found.mallopt
    except (OSError, AttributeError):  # another C library
        return None
    return found
