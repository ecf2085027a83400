"""Contract test suites for implementations of the protocols in `recycler.protocols`.

Subclass a suite and provide what its docstring asks for; pytest then runs all its tests.
"""

import pkgutil

import pytest

for module in pkgutil.iter_modules(__path__):
    pytest.register_assert_rewrite(f"{__name__}.{module.name}")
