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


class Server:
    """A PostgreSQL server of our own, in a temporary folder; a context that starts and stops it."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="psycopg is not installed")
        programs = _binaries()
        if programs is None:
            pytest.skip("no PostgreSQL server on this machine")
        self.home = tempfile.mkdtemp(prefix="recycler-pg-")
        self._as_server: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(self.home, "postgres")
            path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
            runuser = shutil.which("runuser", path=path)
            self._as_server = [runuser or "runuser", "-u", "postgres", "--"]
        self._programs, self._port = programs, _free_port()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}"

    def __enter__(self) -> "Server":
        made = ["-D", f"{self.home}/data", "-U", "postgres", "-A", "trust", "--no-sync"]
        try:
            self._run("initdb", *made)
            self.start()
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.kill()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self._port} -k {self.home} -c listen_addresses=127.0.0.1 -c fsync=off"
        data = ["-D", f"{self.home}/data", "-l", f"{self.home}/log"]
        self._run("pg_ctl", *data, "-w", "-o", options, "start")

    def kill(self) -> None:
        """End it without a word to its clients."""
        self._run("pg_ctl", "-D", f"{self.home}/data", "-w", "-m", "immediate", "stop")

    def database(self) -> str:
        """URL of a new empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        admin = sa.create_engine(f"{self.url}/postgres", isolation_level="AUTOCOMMIT")
        with admin.connect() as db:
            db.execute(sa.text(f"CREATE DATABASE {name}"))
        admin.dispose()
        return f"{self.url}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_server, f"{self._programs}/{program}", *arguments]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": self.home, "timeout": 60}
        subprocess.run(command, **quiet)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server for all tests of this process; stopped at the end."""
    with Server() as server:
        yield server


@pytest.fixture
def database(postgres: Server) -> str:
    """URL of an empty database."""
    return postgres.database()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture(params=["file", "database"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty ledger's URL on SQLite, then on PostgreSQL."""
    return str(request.getfixturevalue(request.param))
