"""The ledger on SQLite and on a real PostgreSQL: contract, migrations, versions, locks."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from contracts.store import DurableStoreContract, StoreContract, evaluation, plan, proposal

from recycler.errors import Conflict, InvalidConfig, MissingExtra, NotFound
from recycler.store import rows as tables
from recycler.store.engine import HEAD
from recycler.store.sql import SqlStore


class TestSqliteInMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[SqlStore]:
        opened = SqlStore("sqlite://")
        yield opened
        opened.close()


class TestSqliteFile(DurableStoreContract):
    @pytest.fixture
    def address(self, file: str) -> str:
        return file


class TestPostgres(DurableStoreContract):
    @pytest.fixture
    def address(self, database: str) -> str:
        return database


# --- migrations and versions ---


def _differences(engine: sa.Engine) -> list[object]:
    with engine.connect() as db:
        options = {"version_table": tables.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(db, opts=options)
        return list(compare_metadata(context, tables.metadata))


def test_migrations_make_exactly_the_schema_of_the_tables(url: str) -> None:
    SqlStore(url).close()
    engine = sa.create_engine(url)
    assert _differences(engine) == []
    found, wanted = sa.MetaData(), tables.metadata
    found.reflect(engine)
    for table in wanted.sorted_tables:  # what the comparison above does not look at
        assert found.tables[table.name].primary_key.columns.keys() == (
            table.primary_key.columns.keys()
        )
        assert {key.target_fullname for key in found.tables[table.name].foreign_keys} == {
            key.target_fullname for key in table.foreign_keys
        }
    engine.dispose()


def test_the_comparison_of_schemas_sees_a_missing_column(url: str) -> None:
    SqlStore(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as db:
        db.execute(sa.text("ALTER TABLE recycler_trials DROP COLUMN notes"))
    assert [difference[0] for difference in _differences(engine)] == ["add_column"]
    engine.dispose()


def test_head_is_the_newest_migration() -> None:
    folder = Path(tables.__file__).parent / "migrations" / "versions"
    assert max(f.name[1:5] for f in folder.glob("v[0-9]*.py")) == HEAD


def test_opening_again_keeps_everything(url: str) -> None:
    first = SqlStore(url)
    first.create_study(plan())
    first.start("study", proposal())
    before = first.trials("study")
    first.close()
    again = SqlStore(url)
    assert again.trials("study") == before
    again.close()


def test_a_ledger_of_a_newer_version_is_refused(url: str) -> None:
    SqlStore(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as db:
        db.execute(sa.text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Conflict, match="version 9999, this recycler knows") as caught:
        SqlStore(url)
    assert "upgrade" in caught.value.hint


def test_a_migration_that_breaks_off_leaves_no_table_behind(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as db:  # stands in the way of the last table that is made
        db.execute(sa.text("CREATE TABLE recycler_evaluations (x INTEGER)"))
    with pytest.raises(sa.exc.DBAPIError, match="evaluations"):
        SqlStore(url)
    assert sa.inspect(engine).get_table_names() == ["recycler_evaluations"]
    with engine.begin() as db:
        db.execute(sa.text("DROP TABLE recycler_evaluations"))
    SqlStore(url).close()
    assert _differences(engine) == []
    engine.dispose()


def test_processes_that_open_a_new_ledger_at_once_all_succeed(url: str) -> None:
    code = "import sys; from recycler.store.sql import SqlStore; SqlStore(sys.argv[1]).studies()"
    started = [
        subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(p.communicate(timeout=60)[1], p.returncode) for p in started] == [("", 0)] * 3


def test_optunas_storage_shares_the_database_with_the_ledger(file: str) -> None:
    ours = SqlStore(file)
    ours.create_study(plan())
    theirs = optuna.storages.RDBStorage(file)
    shared = optuna.create_study(storage=theirs, study_name="study")
    shared.ask()
    names = sa.inspect(theirs.engine).get_table_names()
    assert {"alembic_version", tables.VERSION_TABLE} <= set(names)
    ours.close()
    again = SqlStore(file)  # neither takes the other's version for its own
    again.start("study", proposal())
    assert len(shared.trials) == 1
    assert again.plan("study") == plan()
    again.close()
    theirs.engine.dispose()


# --- what users meet ---


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_ledger_in_memory_leaves_no_file(address: str, tmp_path: Path) -> None:
    store = SqlStore(address)
    store.create_study(plan())
    with store.hold("study"):
        assert list(tmp_path.iterdir()) == []
    store.close()


def test_a_held_file_says_which_process_holds_it(file: str) -> None:
    store = SqlStore(file)
    store.create_study(plan())
    with (
        store.hold("study"),
        pytest.raises(Conflict, match=f"process {os.getpid()} on {socket.gethostname()}"),
        SqlStore(file).hold("study"),
    ):
        pass
    store.close()


@pytest.mark.parametrize("address", ["ledger.db", "nonsense://x", "mysql://x/y"])
def test_what_is_not_a_database_url_is_refused_with_examples(address: str) -> None:
    with pytest.raises(InvalidConfig, match="not a database URL") as caught:
        SqlStore(address)
    assert "sqlite:///" in caught.value.hint


def test_a_missing_driver_names_its_install_line() -> None:
    with pytest.raises(MissingExtra, match="psycopg2") as caught:
        SqlStore("postgresql+psycopg2://x@127.0.0.1/y")
    assert "recycler[postgres]" in caught.value.hint


def test_a_ledger_that_cannot_be_opened_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="can't be opened"):
        SqlStore(f"sqlite:///{tmp_path}/no/such/folder/ledger.db")


def test_deleting_a_study_leaves_the_others(url: str) -> None:
    store = SqlStore(url)
    for name in ("study", "other"):
        store.create_study(plan(name))
        store.start(name, proposal())
        store.record(name, 0, evaluation())
    store.delete_study("study")
    assert [row["name"] for row in store.studies()] == ["other"]
    assert len(store.trials("other")[0].evaluations) == 1
    store.create_study(plan())  # the name is free, and no old row comes back
    assert store.trials("study") == []
    store.start("study", proposal())
    assert store.trials("study")[0].evaluations == {}
    store.record("study", 0, evaluation())  # nor are its items scored already
    store.close()


# --- registry ---


def test_a_pool_is_registered_once_and_replaced_only_on_request(url: str) -> None:
    store = SqlStore(url)
    spec = {"checkpoints": [{"name": "ü", "about": {"lr": 0.1}}], "base": None}
    store.catalog.add_pool("drawer", spec)
    store.catalog.add_pool("drawer", spec)  # the same again is fine
    with pytest.raises(Conflict, match="drawer"):
        store.catalog.add_pool("drawer", {**spec, "base": {}})
    assert store.catalog.pool("drawer") == spec
    store.catalog.add_pool("drawer", {**spec, "base": {}}, replace=True)
    assert store.catalog.pool("drawer")["base"] == {}
    assert store.catalog.pools() == ["drawer"]
    with pytest.raises(NotFound, match="cupboard") as caught:
        store.catalog.pool("cupboard")
    assert "drawer" in caught.value.hint
    store.close()


def test_a_fingerprint_is_remembered_by_its_stamp(url: str) -> None:
    store = SqlStore(url)
    assert store.catalog.fingerprint("stamp") is None
    store.catalog.remember_fingerprint("stamp", "sha256:1")
    store.catalog.remember_fingerprint("stamp", "sha256:2")
    assert store.catalog.fingerprint("stamp") == "sha256:2"
    store.close()


def test_processes_that_register_the_same_pool_and_files_at_once_all_succeed(url: str) -> None:
    SqlStore(url).close()
    stores = [SqlStore(url) for _ in range(4)]

    def write(store: SqlStore) -> None:
        for i in range(15):
            store.catalog.remember_fingerprint(f"stamp {i}", "sha256:1")
            store.catalog.add_pool(f"pool {i}", {"base": None}, replace=i % 2 == 0)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, stores))
    assert len(stores[0].catalog.pools()) == 15
    assert {stores[0].catalog.fingerprint(f"stamp {i}") for i in range(15)} == {"sha256:1"}
    for store in stores:
        store.close()
