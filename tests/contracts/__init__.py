"""Suites that any implementation of a socket can be run against.

Each says in its docstring what a subclass gives; `pytest` then runs every test on it.
"""

import pkgutil

import pytest

for module in pkgutil.iter_modules(__path__):
    pytest.register_assert_rewrite(f"{__name__}.{module.name}")
