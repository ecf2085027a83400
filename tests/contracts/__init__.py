"""Suites that any implementation of a socket can be run against.

Each says in its docstring what a subclass gives; `pytest` then runs every test on it.
"""

import pytest

for name in ("merge_method", "sampler", "store"):
    pytest.register_assert_rewrite(f"{__name__}.{name}")
