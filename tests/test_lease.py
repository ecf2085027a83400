"""The lease: one driver a study on both databases, whatever happens to processes and connections."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from contracts.sampler import study_plan
from contracts.store import evaluation, plan, proposal

from recycler.errors import Conflict, NotFound, Unavailable
from recycler.nouns.evaluation import Failure
from recycler.nouns.status import Wanted
from recycler.store import engine, lease
from recycler.store import rows as t
from recycler.store.sql import SqlStore

pytestmark = pytest.mark.system


def opened(url: str) -> SqlStore:
    store = SqlStore(url)
    store.create_study(plan())
    return store


def overwrite(store: SqlStore, **values: Any) -> None:
    """Change the study's row behind everybody's back."""
    with store.engine.writing() as db:
        db.execute(t.studies.update().values(**values))


def test_no_write_of_a_driver_that_lost_its_lease_gets_through(url: str) -> None:
    store = opened(url)
    with store.hold("study"):
        store.start("study", proposal())
        overwrite(store, token="another's", heartbeat=time.time())
        before = store.trials("study")
        writes = (
            lambda: store.start("study", proposal((0.5, 0.5, 0.0))),
            lambda: store.record("study", 0, evaluation()),
            lambda: store.fail("study", 0, Failure("exception", "why")),
            lambda: store.retry("study", 0),
            lambda: store.set_status("study", "complete"),
            lambda: store.set_reference("study", [0.0, 0.0]),
            lambda: store.delete_study("study"),
        )
        for write in writes:
            with pytest.raises(Conflict, match="is being run by"):
                write()
        assert store.trials("study") == before
    assert store.status("study")["status"] == "new"
    with store.engine.reading() as db:  # leaving did not free what another holds
        assert db.execute(sa.select(t.studies.c.token)).scalar() == "another's"
    store.close()


def test_who_holds_no_lease_writes_only_while_nobody_does(url: str) -> None:
    store, other = opened(url), SqlStore(url)
    other.start("study", proposal())
    with store.hold("study"), pytest.raises(Conflict, match="is being run by process"):
        other.record("study", 0, evaluation())
    other.record("study", 0, evaluation())
    assert store.trials("study")[0].state == "complete"
    store.close()
    other.close()


def test_a_heartbeat_that_stands_still_frees_the_study_and_the_late_driver_is_shut_out(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 1000.0)
    first, second = opened(url), SqlStore(url)
    with first.hold("study"):
        first.start("study", proposal())
        with pytest.raises(Conflict, match="being run by"), second.hold("study"):
            pass
        # as if another machine had written it two minutes ago
        holder = '{"pid": 1, "host": "far", "machine": "elsewhere", "started": 0.0}'
        overwrite(first, holder=holder, heartbeat=time.time() - 2 * lease.STALE)
        assert first.status("study")["alive"] is False
        with second.hold("study"):
            assert second.status("study")["alive"] is True
            with pytest.raises(Conflict):
                first.record("study", 0, evaluation())
            second.record("study", 0, evaluation())
    assert first.trials("study")[0].state == "complete"
    first.close()
    second.close()


def test_a_fresh_heartbeat_of_another_machine_keeps_the_study(url: str) -> None:
    store = opened(url)
    holder = '{"pid": 1, "host": "far", "machine": "elsewhere", "started": 0.0}'
    overwrite(store, token="theirs", holder=holder, heartbeat=time.time())
    with (
        pytest.raises(Conflict, match="process 1 on far, last heard of 0 s ago"),
        store.hold("study"),
    ):
        pass
    store.close()


def test_a_pid_that_was_used_again_is_another_process(url: str) -> None:
    store = opened(url)
    here = lease.this_process()
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        other = replace(here, pid=parent.pid, started=here.started - 5000.0)
        row = f'{{"pid": {other.pid}, "host": "h", "machine": "{other.machine}", "started": {other.started}}}'
        overwrite(store, token="theirs", holder=row, heartbeat=time.time())
        assert store.status("study")["alive"] is False
        with store.hold("study"):
            assert store.status("study")["holder"] == str(here)
    finally:
        parent.kill()
        parent.wait()
    store.close()


def test_a_study_whose_driver_was_killed_can_be_replaced(url: str) -> None:
    store = opened(url)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = json.dumps(asdict(replace(lease.this_process(), pid=gone.pid)))
    overwrite(store, token="theirs", holder=holder, heartbeat=time.time())
    new = plan(evaluations=3)
    store.submit("study", lambda old, trials, alive: (new, True), "pool", {"base": None})
    assert store.plan("study") == new
    store.start("study", proposal())
    store.close()


def test_the_heartbeat_beats_and_brings_what_is_wanted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    store, other = opened(url), SqlStore(url)
    assert other.want("study", Wanted.STOP) is False  # nobody runs it
    with store.hold("study") as held:
        before = other.status("study")["heartbeat"]
        assert held.wanted is Wanted.RUN
        assert other.want("study", Wanted.PAUSE) is True
        deadline = time.monotonic() + 10
        while held.wanted is not Wanted.PAUSE and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held.wanted is Wanted.PAUSE
        assert other.status("study")["heartbeat"] > before
    with other.hold("study") as held:  # a new run begins without the old wish
        assert held.wanted is Wanted.RUN
    with pytest.raises(NotFound):
        other.want("elsewhere", Wanted.STOP)
    store.close()
    other.close()


RUN = """
import sys, time
from contracts.sampler import bowls, study_plan
from recycler.runs import run_study
from recycler.execute.inline import Inline
from recycler.evaluate.results import evaluation_of, read_values
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore
store = SqlStore(sys.argv[1])
plan = store.plan("study")
def score(job):
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
    function = bowls(plan.n, 2)
    values = dict(zip(("f0", "f1"), function(job.recipe.vector(plan.names))))
    return evaluation_of(job, {k: read_values(v) for k, v in values.items()}, "", {})
run_study(plan, store, Proposer(plan), lambda: Inline(lambda: score))
"""


def driver(url: str, seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, url, str(seconds)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("ledger", "how"),
    [
        ("file", signal.SIGTERM),
        ("file", signal.SIGHUP),
        ("database", signal.SIGTERM),
        ("database", signal.SIGKILL),
    ],
)
def test_a_driver_that_is_ended_is_seen_as_stopped_and_the_next_one_goes_on(
    request: pytest.FixtureRequest, ledger: str, how: signal.Signals
) -> None:
    url = request.getfixturevalue(ledger)
    store = SqlStore(url)
    store.create_study(study_plan("dirichlet", 3, 2, evaluations=2))
    process = driver(url, 60.0)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert store.status("study")["status"] == "running"
        with pytest.raises(Conflict, match=f"process {process.pid} on"), store.hold("study"):
            pass
        process.send_signal(how)
        process.communicate(timeout=120)
    finally:
        process.kill()
    status = store.status("study")
    assert (status["status"], status["alive"]) == ("stopped", False)
    assert f"process {process.pid}" in status["message"] or "Terminated" in status["message"]
    again = driver(url, 0.0)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert store.status("study")["status"] == "complete"
    trials = store.trials("study")
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state for trial in trials} == {"complete"}
    store.close()


def test_a_lost_connection_to_the_database_is_mended_and_shuts_no_door(database: str) -> None:
    """The server ends all our connections in the middle; today's lock went with them."""
    store, other = opened(database), SqlStore(database)
    admin = sa.create_engine(database, isolation_level="AUTOCOMMIT")
    drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with store.hold("study"):
        store.start("study", proposal())
        with admin.connect() as db:
            db.execute(sa.text(drop))
        with pytest.raises(Conflict, match="being run by"), other.hold("study"):
            pass
        store.record("study", 0, evaluation())
    assert [trial.state for trial in other.trials("study")] == ["complete"]
    for opened_store in (store, other):
        opened_store.close()
    admin.dispose()


def test_a_database_that_stays_away_is_told_without_its_password(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.2)
    store = opened(database)
    held = store.hold("study")
    held.__enter__()
    store.engine._engine.dispose()
    broken = sa.make_url(database).set(port=1, username="me", password="hunter2")
    store.engine._engine = sa.create_engine(broken)
    with pytest.raises(Unavailable, match="could not be written for") as caught:
        store.start("study", proposal())
    monkeypatch.setattr(engine, "PATIENCE", 60.0)
    begun = time.monotonic()
    with pytest.raises(Unavailable):  # nobody waits twice
        store.set_status("study", "paused")
    assert time.monotonic() - begun < 20
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1" in caught.value.message
    held.__exit__(None, None, None)
    store.close()


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql+nothing://me:hunter2@127.0.0.1/x",
        "mysql://me:hunter2@127.0.0.1/x",
        "postgresql+psycopg://me:hunter2@127.0.0.1:1/x",
        "postgresql://me:hunter2@:x:y/z",
    ],
)
def test_no_message_holds_a_password(wrong: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        SqlStore(wrong)
    assert "hunter2" not in str(caught.value)


def test_a_ledger_that_refuses_writes_is_told_at_once(tmp_path: Path) -> None:
    opened(f"sqlite:///{tmp_path}/ledger.db").close()
    store = SqlStore(f"sqlite:///file:{tmp_path}/ledger.db?mode=ro&uri=true")
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="readonly"):
        store.set_status("study", "stopped")
    assert time.monotonic() - begun < 20
    assert store.status("study")["status"] == "new"
    store.close()
