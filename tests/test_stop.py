"""Stopping, listing and deleting studies, from a second process as users do."""

import json
import time
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner
from contracts.sampler import study_plan
from contracts.store import plan, proposal
from test_lease import driver, overwrite

from recycler.cli.main import cli
from recycler.errors import Conflict, NotFound
from recycler.pace import Pace, seconds_left
from recycler.store import lease
from recycler.store.sql import SqlStore
from recycler.submit.workspace import Workspace, pool_name

pytestmark = pytest.mark.system


def call(url: str, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["--store", url, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_stop_now_does_not_wait_and_the_merge_in_flight_is_done_again(file: str) -> None:
    store = SqlStore(file)
    store.create_study(study_plan("dirichlet", 3, 2, evaluations=2))
    process = driver(file, 60.0)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        (row,) = json.loads(call(file, "studies", "--json"))
        assert row["alive"]
        assert f"process {process.pid} on" in row["holder"]
        begun = time.monotonic()
        assert f"process {process.pid}" in call(file, "stop", "study", "--now")
        _, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
        assert time.monotonic() - begun < 50  # a merge takes 60 s
    finally:
        process.kill()
    status = store.status("study")
    assert (status["status"], status["alive"]) == ("stopped", False)
    assert status["message"] == "on request, without waiting for the merges in flight"
    assert abs(status["heartbeat"] - time.time()) < 5
    assert [trial.state for trial in store.trials("study")] == ["running"]
    said = call(file, "stop", "study", "--now")
    assert "does not run: stopped since" in said
    assert "without waiting" in said
    again = driver(file, 0.0)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    status = store.status("study")
    assert (status["status"], status["running"]) == ("complete", 0)
    assert store.trials("study")[0].attempts == 2
    told = status["progress"]
    assert (told["phase"], told["done"], told["busy"]) == ("test", told["total"], 0)
    store.close()


def test_a_study_that_never_ran_says_so_when_it_is_to_stop(file: str) -> None:
    SqlStore(file).create_study(plan())
    assert "it never did" in call(file, "stop", "study")


def test_rm_leaves_nothing_but_evaluations(url: str) -> None:
    workspace = Workspace(url)
    store = workspace.store
    store.create_study(plan())
    store.create_study(plan("other"))
    for name in ("study", "other"):
        store.start(name, proposal())
        store.catalog.add_pool(pool_name(name), {"checkpoints": [], "base": None})
    asked = CliRunner().invoke(cli, ["--store", url, "rm", "study", "--json"])
    assert asked.exit_code == 1  # nobody could answer
    assert len(store.trials("study")) == 1
    assert json.loads(call(url, "rm", "study", "--yes", "--json")) == {
        "study": "study",
        "trials": 1,
    }
    with pytest.raises(NotFound):
        store.status("study")
    assert store.catalog.pools() == [pool_name("other")]
    assert len(store.trials("other")) == 1
    store.close()


def test_rm_is_refused_while_a_process_runs_the_study_and_not_once_it_was_killed(url: str) -> None:
    workspace = Workspace(url)
    store = workspace.store
    store.create_study(plan())
    far = replace(lease.this_process(), machine="elsewhere", pid=1)
    overwrite(store, token="theirs", holder=json.dumps(asdict(far)), heartbeat=time.time())
    for refused in (workspace.remove_study, store.delete_study):
        with pytest.raises(Conflict, match="is being run by process 1"):
            refused("study")
    overwrite(store, heartbeat=time.time() - 2 * lease.STALE)
    workspace.remove_study("study")
    assert store.studies() == []
    store.close()


def test_a_pool_is_removed_unless_a_study_uses_it(file: str) -> None:
    workspace = Workspace(file)
    store = workspace.store
    store.create_study(plan())
    entries = [{"name": name, "fingerprint": f} for name, f in plan().ingredients]
    store.catalog.add_pool("drawer", {"checkpoints": entries[::-1], "base": None})
    store.catalog.add_pool("unused", {"checkpoints": entries[:2], "base": None})
    with pytest.raises(Conflict, match="in use by study 'study'"):
        workspace.remove_pool("drawer")
    with pytest.raises(NotFound, match="drawers"):
        workspace.remove_pool("drawers")
    call(file, "pool", "rm", "unused")
    workspace.remove_study("study")
    call(file, "pool", "rm", "drawer")
    assert store.catalog.pools() == []


def test_the_seconds_left_are_those_of_the_work_left() -> None:
    """Dev items take 2 s a trial; select has half as many items and test twice as many."""
    made = plan(
        ingredients=plan().ingredients,
        evaluations=7,
        finalists=4,
        items={"dev": 10, "select": 5, "test": 20, "seed": 0},
    )
    told: list = []
    now = [0.0]
    pace = Pace(made, told.append, lambda: now[0])
    pace.submitted(1)
    job = type("J", (), {"split": "dev", "part": (0.0, 1.0)})
    for _ in range(30):
        now[0] += 2.0
        pace.landed(job, None)  # type: ignore[arg-type]
    pace.told("search", 6, 12, busy=1)
    assert told[-1]["pace"] == pytest.approx(2.0)
    rechecked, reported = 4 + 5, 2 + 5  # finalists and baselines; half of them and baselines
    assert seconds_left(made, told[-1]) == pytest.approx(
        2.0 * (6 + 0.5 * rechecked + 2 * reported)
    )
    assert seconds_left(made, told[-1], done=12) == pytest.approx(
        2.0 * (0.5 * rechecked + 2 * reported)
    )
    pace.told("test", 6, 7, busy=1)
    assert seconds_left(made, told[-1]) == pytest.approx(2.0 * 2)
