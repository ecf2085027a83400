"""What the service computes of a study: once for each change, and never late without a word."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from large import one_more, small

from recycler.nouns.status import Status
from recycler.service.live import GRACE, SLOW, Live, lagging
from recycler.store.sql import SqlStore


@pytest.fixture
def study(tmp_path):
    """A ledger with a study of twelve trials, held by this process as a run does."""
    url, name = small(tmp_path, 12)
    store = SqlStore(url)
    with store.hold(name):
        store.set_status(name, Status.RUNNING)
        yield store, name, Live(store)
    store.close()


def counted(seconds=0.0):
    """A function that takes some seconds, and the list of the times it was called."""
    calls = []

    def make(results):
        time.sleep(seconds)
        calls.append(len(results.trials))
        return len(results.trials)

    return make, calls


@contextmanager
def queries():
    """The statements that are sent to ledgers meanwhile."""
    asked = []

    def executed(connection, cursor, statement, *rest):
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", executed)
    try:
        yield asked
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", executed)


def test_it_is_computed_once_for_each_change_and_key(study):
    store, name, live = study
    make, calls = counted()
    assert [live.document(name, ("a",), make) for _ in range(3)] == [12, 12, 12]
    assert live.document(name, ("b",), make) == 12
    assert calls == [12, 12]
    one_more(store)
    assert live.document(name, ("a",), make) == 13


def test_many_who_ask_at_once_wait_for_one_computation(study):
    _, name, live = study
    make, calls = counted(0.1)
    found = []
    asking = [
        threading.Thread(target=lambda: found.append(live.document(name, ("a",), make)))
        for _ in range(8)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == [12] * 8
    assert calls == [12]


def test_what_takes_long_lags_behind_a_running_study_and_says_so(study):
    store, name, live = study
    make, calls = counted(1.5 * SLOW)
    told = []
    token = lagging.set(told)
    try:
        assert live.document(name, ("a",), make) == 12
        assert told == []
        one_more(store)
        assert live.document(name, ("a",), make) == 12
        assert told == [True]
        time.sleep(1.6 * SLOW * GRACE)
        assert live.document(name, ("a",), make) == 13
        assert told == [True]
        one_more(store)
        store.set_status(name, Status.COMPLETE)
        assert live.document(name, ("a",), make) == 14  # the end is never late
        assert told == [True]
    finally:
        lagging.reset(token)
    assert calls == [12, 13, 14]


def test_a_study_that_was_made_anew_is_read_anew(study):
    store, name, live = study
    make, _ = counted(1.5 * SLOW)
    assert live.document(name, ("a",), make) == 12
    assert live.study(name).trials()[0].name == name
    plan = store.plan(name)
    live.forget(name)
    assert live.document(name, ("a",), make) == 12
    assert store.plan(name) == plan


def test_all_studies_at_rest_are_listed_with_a_fixed_number_of_queries(tmp_path):
    store = SqlStore(small(tmp_path, 12)[0])
    plan = store.plan(next(iter(store.versions())))
    live, counts = Live(store), []
    for more in (3, 30):
        for number in range(more):
            store.create_study(replace(plan, name=f"s{more}-{number}"))
        known = [study["name"] for study in store.studies()]
        assert [found.study for found in live.snapshots()] == known
        assert store.versions() == {name: store.version(name) for name in known}
        with queries() as asked:
            assert [found.study for found in live.snapshots()] == known
        counts.append(len(asked))
    assert counts[0] == counts[1] <= 4
    store.extend(known[3], plan.evaluations + 5)
    assert live.snapshots()[3].budget == plan.evaluations + 5
    store.close()
