"""Where the next weights come from. `recycler.search` is also the function of that name.

`from recycler import search; search(function, n=16, ...)` runs `search.function.search`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Lets the package be called as the function of the same name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("recycler.search.function").search(*args, **options)


sys.modules[__name__].__class__ = _Callable
