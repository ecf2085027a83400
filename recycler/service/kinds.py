"""The kinds of operations: which limit each counts against, and where exports go."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycler.service.config import ServiceConfig

HEAVY = ("run", "scout", "try")  # take a place of the studies (see `config.Limits`)
LIGHT = ("check", "register", "create", "bill", "sample", "answers", "export")
KINDS = (*HEAVY, *LIGHT)


def accelerators(arguments: Mapping[str, Any]) -> int:
    """Accelerators that an operation takes: `gpus` for each worker, or one for each on a device."""
    section = arguments.get("execution") or {}
    each = section.get("gpus", 0.0) or float(section.get("device", "cpu") != "cpu")
    return math.ceil(int(section.get("workers", 1)) * each)


def export_folder(config: ServiceConfig, id: int, study: str, trial: int | str) -> Path:
    """The folder that an export is written to: its name has no more than the operation allows."""
    safe = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in str(trial))
    return Path(config.exports) / str(id) / f"{study}-{safe}"
