"""A ledger of schema 0002, made by the last version before the service, on both databases.

It holds the finished study `toy`, and `half`, which was interrupted while a merge of the user's waited.
Its checkpoints and tasks are made anew; they are the same bytes.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import services
import sqlalchemy as sa
import toy
import yaml
from alembic import command
from alembic.config import Config

import recycler.store
from recycler.store import rows
from recycler.store.engine import HEAD
from recycler.study import Study
from recycler.submit.workspace import Workspace

DATA = Path(__file__).parent / "data"
OLD = DATA / "ledger-0002.db"


@pytest.fixture
def old(tmp_path):
    """An SQLite copy of the ledger whose paths lead to checkpoints and tasks made anew."""
    folders = toy.drawer(tmp_path / "drawer", n=3)
    toy.study_file(tmp_path, folders)
    copy = tmp_path / "old.db"
    shutil.copy(OLD, copy)
    db = sqlite3.connect(copy)
    for table, column in (("studies", "plan"), ("pools", "spec")):
        query = f"UPDATE recycler_{table} SET {column} = replace({column}, '/drawers', ?)"
        db.execute(query, (str(tmp_path),))
    db.commit()
    db.close()
    return copy


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request, old):
    """Its URL, with schema 0002."""
    if request.param == "sqlite":
        return f"sqlite:///{old}"
    url = request.getfixturevalue("database")
    there, here = sa.create_engine(url), sa.create_engine(f"sqlite:///{old}")
    config = Config()
    folder = Path(recycler.store.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    with there.begin() as db, here.connect() as source:
        config.attributes["connection"] = db
        command.upgrade(config, "0002")
        for table in rows.metadata.sorted_tables:
            if sa.inspect(source).has_table(table.name):
                found = [dict(row) for row in source.execute(table.select()).mappings()]
                if found:
                    db.execute(table.insert(), found)
    there.dispose()
    here.dispose()
    return url


def version(url):
    engine = sa.create_engine(url)
    with engine.connect() as db:
        found = db.execute(sa.text(f"SELECT version_num FROM {rows.VERSION_TABLE}")).scalar()
    engine.dispose()
    return found


def test_an_old_ledger_shows_the_same_front_and_goes_on(ledger, tmp_path):
    assert version(ledger) == "0002"
    workspace = Workspace(ledger, create=False)
    assert version(ledger) == HEAD
    study = Study("toy", workspace)
    expected = json.loads((DATA / "ledger-0002-front.json").read_text(encoding="utf-8"))
    assert study.results.front_json() == expected
    before = {t.name: (t.digest, dict(t.means("dev"))) for t in Study("half", workspace).trials}
    assert len(before) == 5
    half = Study("half", workspace).run()
    assert half.status["status"] == "complete"
    after = {t.name: (t.digest, dict(t.means("dev"))) for t in half.trials}
    assert {name: after[name] for name in before} == before
    tried = study.try_merge({"ckpt-0": 0.4, "ckpt-2": 0.6})
    assert tried["state"] == "complete"
    done = study.export("pick", tmp_path / "best")
    assert done["digest"] == study.results.picked().digest
    workspace.store.close()


def test_an_old_ledger_is_served(old, tmp_path):
    section = yaml.safe_load((tmp_path / "study.yaml").read_text(encoding="utf-8"))["evaluator"]
    service = services.Service(tmp_path, f"sqlite:///{old}", evaluators={"toy": section})
    try:
        told = {study["study"]: study for study in service.get("studies")["studies"]}
        assert told["toy"]["status"] == "complete"
        assert told["half"]["status"] == "stopped"
        assert service.done(service.post("studies/half/start"))["status"] == "complete"
    finally:
        service.close()
