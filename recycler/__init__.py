"""recycler: searches merges of leftover checkpoints on several benchmarks at once.

Importing this package loads nothing heavy; each name below is imported when first used.
"""

from importlib import import_module
from typing import Any

from recycler.environment import prepare

__version__ = "0.1.0"

prepare()  # before torch, tqdm or ray are imported by anything below

_HOME = {
    "Checkpoint": "recycler.checkpoints.folder",
    "Front": "recycler.front.front",
    "Objective": "recycler.nouns.objectives",
    "Objectives": "recycler.nouns.objectives",
    "Pool": "recycler.checkpoints.pool",
    "Recipe": "recycler.nouns.recipe",
    "RecyclerError": "recycler.errors",
    "Study": "recycler.study",
    "Workspace": "recycler.submit.workspace",
    "search": "recycler.search.function",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the module behind a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'recycler' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
