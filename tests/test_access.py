"""Tokens, audit log and replies in the ledger, on SQLite and PostgreSQL."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from recycler.errors import Conflict, InvalidConfig, NotFound
from recycler.store import access as module
from recycler.store import rows
from recycler.store.sql import SqlStore


@pytest.fixture
def access(url):
    store = SqlStore(url)
    yield store.access
    store.close()


def everything(access) -> str:
    """All rows of tokens and replies, as text."""
    with access._engine.reading() as db:
        tables = (rows.tokens, rows.replies, rows.audit)
        return repr([[tuple(r) for r in db.execute(sa.select(table))] for table in tables])


def test_a_secret_is_known_by_its_hash_alone(access):
    secret, made = access.create("ann", ["write", "read"])
    other, _ = access.create("bob", ["read"])
    assert secret != other
    assert made.scopes == ("read", "write")
    assert access.check(secret).id == made.id
    assert secret[4:] not in everything(access)
    for wrong in ("", secret[:-1], secret + " ", secret.lower(), made.id, "\udc80"):
        assert access.check(wrong) is None
    assert access.token(made.id).used == pytest.approx(time.time(), abs=60)


def test_names_scopes_and_times_are_checked(access):
    access.create("ann", ["read"], 3600.0)
    with pytest.raises(Conflict, match="'ann'"):
        access.create("ann", ["read"])
    for name, scopes, seconds in (
        ("", ["read"], None),
        ("a\n", ["read"], None),
        ("x" * 101, ["read"], None),
        ("b", [], None),
        ("b", ["admin"], None),
        ("b", ["read"], 0.0),
        ("b", ["read"], float("nan")),
    ):
        with pytest.raises(InvalidConfig):
            access.create(name, scopes, seconds)
    assert [token.name for token in access.tokens()] == ["ann"]


def test_expired_and_revoked_tokens_and_their_sessions_are_worth_nothing(access):
    short, token = access.create("ann", ["read"], 0.3)
    session, _ = access.open_session(token)
    long, kept = access.create("bob", ["read"])
    others, _ = access.open_session(kept)
    assert access.check(session).parent == token.id
    time.sleep(0.4)
    assert access.check(short) is None
    assert access.check(session) is None
    access.create("ann", ["read"])  # the name is free again
    assert [found.id for found in access.revoke("bob")] == [kept.id]
    assert access.check(long) is None
    assert access.check(others) is None
    assert access.any_valid()
    access.revoke("ann")
    assert not access.any_valid()
    with pytest.raises(NotFound):
        access.revoke("ann")


def test_sessions_are_no_tokens_and_end(access):
    _, token = access.create("ann", ["read"])
    secret, session = access.open_session(token, 0.3)
    with pytest.raises(NotFound):
        access.revoke(session.id)
    assert access.check(secret)
    time.sleep(0.4)
    assert access.check(secret) is None
    again, _ = access.open_session(token)
    assert secret != again
    with access._engine.reading() as db:  # the one that ended is gone
        assert db.execute(sa.select(sa.func.count()).select_from(rows.tokens)).scalar() == 2
    access.close_session(again)
    assert access.check(again) is None
    assert [found.id for found in access.tokens()] == [token.id]


def test_one_of_many_equal_requests_is_done(access):
    ready = threading.Barrier(8)

    def ask(_):
        ready.wait()
        return access.begin_reply("ann", "key", "hash")

    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(ask, range(8))]
    assert found.count(None) == 1
    assert {row["status"] for row in found if row} == {0}
    access.end_reply("ann", "key", 202, '{"id": 1}')
    assert access.begin_reply("ann", "key", "hash")["reply"] == '{"id": 1}'
    assert access.begin_reply("bob", "key", "hash") is None  # each has keys of their own
    access.end_reply("bob", "key")
    assert access.begin_reply("bob", "key", "hash") is None


def test_replies_end_after_a_day(access, monkeypatch):
    access.begin_reply("ann", "key", "hash")
    access.end_reply("ann", "key", 200, "{}")
    assert access.begin_reply("ann", "key", "hash")["status"] == 200
    monkeypatch.setattr(module, "REPLY_SECONDS", -1.0)
    assert access.begin_reply("ann", "key", "hash") is None


def test_the_log_is_read_from_its_end(access):
    for number in range(5):
        access.note(f"u{number % 2}", "::1", f"POST /{number}" + "x" * 400, 200)
    found = access.noted(limit=2)
    assert [row["action"][:7] for row in found] == ["POST /4", "POST /3"]
    assert len(found[0]["action"]) == 300
    assert [row["action"][6] for row in access.noted(before=found[-1]["id"])] == ["2", "1", "0"]
    assert [row["action"][6] for row in access.noted("u1")] == ["3", "1"]
