"""The kinds of operations: which limit each counts against, and where exports go."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycler.service.config import ServiceConfig

HEAVY = ("run", "scout", "try")  # take a place of the studies (see `config.Limits`)
LIGHT = ("check", "register", "create", "bill", "sample", "answers", "export")
KINDS = (*HEAVY, *LIGHT)


def accelerators(arguments: Mapping[str, Any]) -> int:
    """Workers of an operation that need an accelerator."""
    section = arguments.get("execution") or {}
    return 0 if section.get("device", "cpu") == "cpu" else int(section.get("workers", 1))


def export_folder(config: ServiceConfig, id: int, study: str, trial: int | str) -> Path:
    """The folder that an export is written to: its name has no more than the operation allows."""
    safe = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in str(trial))
    return Path(config.exports) / str(id) / f"{study}-{safe}"
