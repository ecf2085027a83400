"""Shared set-up: the package's environment before heavy imports, one toy drawer a session."""

import os
from pathlib import Path

from recycler.environment import prepare

prepare()

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import toy  # noqa: E402
from ledgers import database, file, postgres, url  # noqa: E402, F401 -- fixtures

torch.set_num_threads(1)
# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any load")

LONGEST = {
    "test_cluster.py",
    "test_execute.py",
    "test_faults.py",
    "test_guide.py",
    "test_kill.py",
    "test_notebooks.py",
    "test_references.py",
    "test_samplers.py",
    "test_service_kill.py",
    "test_service_queue.py",
    "test_studies.py",
    "test_space.py",
}
SYSTEM = {
    "chromium",
    "cluster",
    "database",
    "postgres",
    "server",
    "small_disk",
}  # fixtures of a real one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `system` what starts Ray or PostgreSQL, mounts a disk or kills processes."""
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        used = {*getattr(item, "fixturenames", ()), *map(str, given)}
        if used & SYSTEM or item.path.name == "test_kill.py":
            item.add_marker("system")
    # the longest files first, so that two processes end at the same time
    items.sort(key=lambda item: (item.path.name not in LONGEST, item.path.name != "test_guide.py"))


@pytest.fixture(scope="session")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four tiny Llama folders; read only."""
    return toy.drawer(tmp_path_factory.mktemp("drawer"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in its own folder, with no ledger above it in reach, of the developer or a stray."""
    monkeypatch.delenv("RECYCLER_STORE", raising=False)
    monkeypatch.setenv("RECYCLER_CEILING", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert os.getcwd() == str(tmp_path)
