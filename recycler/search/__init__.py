"""Where the next weights come from. `recycler.search` is also the function of that name.

`from recycler import search; search(function, n=16, ...)` runs `search.function.search`, also where
the package was imported before and hides the function.
"""

import sys
from types import ModuleType
from typing import Any

import recycler


class _Callable(ModuleType):
    """Lets the package be called as the function of the same name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return recycler.__getattr__("search")(*args, **options)


sys.modules[__name__].__class__ = _Callable
