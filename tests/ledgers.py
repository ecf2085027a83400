"""Fixtures of ledgers: a file, and an empty database on a real PostgreSQL of our own."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


def _binaries() -> Path | None:
    """The folder of PostgreSQL's programs on this machine."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin")]
    if shutil.which("pg_config"):
        asked = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True)
        found.append(Path(asked.stdout.strip()))
    return next((folder for folder in found if (folder / "initdb").exists()), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server of our own, without the database's name; stopped at the end."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = _binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine")
    home = tempfile.mkdtemp(prefix="recycler-pg-")
    as_server: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(home, "postgres")
        runuser = shutil.which("runuser", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        as_server = [runuser or "runuser", "-u", "postgres", "--"]
    port = _free_port()
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*as_server, f"{programs}/pg_ctl", "-D", f"{home}/data", "-w", "-l", f"{home}/log"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": home, "timeout": 60}
    make = [f"{programs}/initdb", "-D", f"{home}/data", "-U", "postgres", "-A", "trust"]
    try:
        subprocess.run([*as_server, *make, "--no-sync"], **quiet)
        subprocess.run([*control, "-o", options, "start"], **quiet)
        try:
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database(postgres: str) -> str:
    """URL of an empty database."""
    name = f"t{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(f"{postgres}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as db:
        db.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return f"{postgres}/{name}"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture(params=["file", "database"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty ledger's URL on SQLite, then on PostgreSQL."""
    return str(request.getfixturevalue(request.param))
