"""Name of the machine that a figure was measured on."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processor, cores and memory in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB, Python {platform.python_version()}"
