"""The database behind a ledger: connections, schema, and transactions that outlive a connection."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import StaticPool

from recycler.errors import Conflict, InvalidConfig, MissingExtra, NotFound, Unavailable
from recycler.store import rows as t

HEAD = "0003"  # newest migration
PATIENCE = 60.0  # how long a write is retried while the database can't be reached [s]
# The first statement of a migration: other processes wait, and all tables appear together or none
_ALONE = {"sqlite": "SELECT 1", "postgresql": "SELECT pg_advisory_xact_lock(7265637963)"}
T = TypeVar("T")
DatabaseError = DBAPIError  # what reading raises if the database is away; see `passing`


class Engine:
    """An open database, given by a URL such as `sqlite:///ledger.db`; `sqlite://` is in memory."""

    def __init__(self, url: str) -> None:
        """Connect, and make or upgrade the tables.

        Raises:
            InvalidConfig: the URL is not one of SQLite or PostgreSQL.
            MissingExtra: the driver is not installed.
            NotFound: the database can't be opened.
            Conflict: a newer recycler wrote the ledger.
        """
        self._engine = _made(url)
        self._away = False  # whether the last write gave up waiting
        self.dialect: str = self._engine.dialect.name
        self.in_memory = isinstance(self._engine.pool, StaticPool)
        try:
            self._migrate()
        except BaseException:
            self.close()  # a refused ledger is closed again
            raise

    def __str__(self) -> str:
        """The file, or the URL without its password."""
        url = self._engine.url
        return url.database or "in memory" if self.dialect == "sqlite" else url.render_as_string()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One read transaction: everything read in it belongs to the same moment."""
        if self.dialect == "postgresql":
            # the isolation level goes back to the default when the connection is returned
            with self._engine.connect() as raw:
                db = raw.execution_options(isolation_level="REPEATABLE READ")
                with db.begin():
                    yield db
        else:
            with self._engine.begin() as db:
                yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One write transaction: it is committed as a whole or not at all."""
        with self._engine.execution_options(begin="BEGIN IMMEDIATE").begin() as db:
            yield db

    def write(self, work: Callable[[sa.Connection, bool], T]) -> T:
        """Run `work(db, again)` in a write transaction, and retry while the database is unreachable.

        If the connection is lost during the commit, nobody knows whether it succeeded. So `again`
        is true from the second try on, and `work` must then accept rows that its first try has
        written.

        After that the next write is tried once: whoever leaves a run waits no second time.

        Raises:
            Unavailable: the database could not be reached for PATIENCE seconds, or it refuses writes.
        """
        start, wait, again = time.monotonic(), 0.05, False
        patience = 0.0 if self._away else PATIENCE
        while True:
            try:
                with self.writing() as db:
                    done = work(db, again)
                self._away = False
                return done
            except DBAPIError as error:
                passing, waited = _may_pass(error), time.monotonic() - start
                if not passing and not isinstance(error, OperationalError):
                    raise
                if not passing or waited + wait > patience:
                    self._away = passing
                    raise self._unavailable(error, waited) from error
                again = True
                time.sleep(wait)
                wait = min(2 * wait, 5.0)

    def clock(self, db: sa.Connection) -> float:
        """The clock that leases use [s since 1970]: the database server's, if there is one."""
        if self.dialect == "postgresql":
            return float(
                db.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one()
            )
        return time.time()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _unavailable(self, error: DBAPIError, waited: float) -> Unavailable:
        return Unavailable(
            f"the ledger {self} could not be written for {waited:.1f} s: {_first_line(error)}.",
            hint="check that the database runs and its disk has room, then run the study again.",
        )

    def _migrate(self) -> None:
        try:
            with self._engine.connect() as db:
                if not sa.inspect(db).has_table(t.VERSION_TABLE):
                    version = None
                else:
                    query = sa.text(f"SELECT version_num FROM {t.VERSION_TABLE}")
                    version = db.execute(query).scalar()
        except DBAPIError as error:
            raise NotFound(
                f"the ledger {self} can't be opened: {_first_line(error)}.",
                hint="check the path or the database URL.",
            ) from error
        if version is not None and version > HEAD:
            raise Conflict(
                f"the ledger {self} has version {version}, this recycler knows {HEAD}.",
                hint="a newer recycler wrote it; upgrade recycler.",
            )
        if version != HEAD:
            self._upgrade()

    def _upgrade(self) -> None:
        """Upgrade the tables in one transaction, one process at a time."""
        from alembic import command  # imported only here: alembic costs 0.2 s
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.writing() as db:
            db.exec_driver_sql(_ALONE[self.dialect])
            config.attributes["connection"] = db
            command.upgrade(config, "head")


def _made(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        if backend not in _ALONE:
            raise sa.exc.ArgumentError(f"{backend} holds no ledger")
        memory = backend == "sqlite" and parsed.database in (None, "", ":memory:")
        if memory:
            engine = sa.create_engine(
                parsed, poolclass=StaticPool, connect_args={"check_same_thread": False}
            )
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
    except (sa.exc.ArgumentError, NoSuchModuleError) as error:
        shown = _without_password(url)
        raise InvalidConfig(
            f"{shown!r} is not a database URL: {str(error).replace(url, shown)}.",
            hint="use sqlite:///path/ledger.db or postgresql+psycopg://user@host/name.",
        ) from None  # the cause would repeat the URL with its password
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{parsed.drivername} needs the package {error.name}.",
            hint="pip install 'recycler[postgres]'",
        ) from error
    if backend == "sqlite":
        sa.event.listen(engine, "connect", _pragmas)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says, reads included
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=15000",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def passing(error: Exception) -> Unavailable | None:
    """The error to show if the database could not be reached or is busy now; None for others."""
    if not isinstance(error, DBAPIError) or not _may_pass(error):
        return None
    return Unavailable(
        f"the ledger can't be reached: {_first_line(error)}.",
        hint="check that the database runs and its disk has room; then try again.",
    )


def _may_pass(error: DBAPIError) -> bool:
    """Whether the database was unreachable, busy or full, so that a retry may succeed."""
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        text = str(error.orig)
        return any(word in text for word in ("locked", "busy", "full", "I/O", "unable to open"))
    return isinstance(error, OperationalError | InterfaceError)


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]


def _without_password(url: str) -> str:
    """The URL with its password replaced by stars, even if the URL can't be parsed."""
    head, at, tail = url.rpartition("@")
    scheme, _, login = head.partition("://")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{colon}{'***' if colon else ''}@{tail}" if at else url
