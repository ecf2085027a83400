"""The samplers that propose the next merge. `recycler.search` can also be called as a function.

`from recycler import search; search(function, n=16, ...)` runs `search.function.search`, whether or
not this package was imported first.
"""

import sys
from types import ModuleType
from typing import Any

import recycler


class _Callable(ModuleType):
    """Makes the package callable as the function of the same name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return recycler.__getattr__("search")(*args, **options)


sys.modules[__name__].__class__ = _Callable
