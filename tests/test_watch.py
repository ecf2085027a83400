"""Watching a study: the snapshot agrees with the results, and each look reads only what is new."""

import io
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from contracts.sampler import study_plan
from rich.console import Console
from studies import finished
from test_try import finish, scorer

from recycler.cli.main import cli
from recycler.execute.inline import Inline
from recycler.front.results import Results
from recycler.loop import run
from recycler.nouns.plan import Plan
from recycler.nouns.status import Wanted
from recycler.report.volume import trace
from recycler.report.watching import shown, sparkline
from recycler.runs import run_study
from recycler.search.samplers import Proposer
from recycler.store import lease
from recycler.store.sql import SqlStore
from recycler.watching import Watcher


def advance(plan: Plan, store: SqlStore, jobs: int) -> None:
    """Go on with a study for so many jobs."""
    left = iter([Wanted.RUN] * jobs)
    how = {"wanted": lambda: next(left, Wanted.STOP)}
    run(plan, store, Proposer(plan), Inline(scorer(plan)), **how)


def text(watcher: Watcher, width: int = 100) -> str:
    out = Console(file=io.StringIO(), width=width)
    out.print(shown(watcher.look(), watcher.plan, out))
    return out.file.getvalue()  # type: ignore[attr-defined]


class Counting(SqlStore):
    """A ledger that counts the trials it hands out."""

    handed = 0

    def trials(self, study: str, since: int = -1) -> list[Any]:
        found = super().trials(study, since)
        self.handed += len(found)
        return found


def test_a_watcher_reads_each_change_once_and_agrees_with_the_results() -> None:
    plan, store = study_plan("auto", 4, 2, evaluations=9, greedy=True), Counting("sqlite://")
    store.create_study(plan)
    watcher = Watcher(store, plan.name)
    first = watcher.look()
    assert (first.status, first.done, first.total, first.pick) == ("new", 0, 6 + 9, None)
    for jobs in (3, 4, 5, 100):
        advance(plan, store, jobs)
        before = store.handed
        found, results = watcher.look(), Results.read(store, plan.name)
        assert store.handed - before <= 2 * jobs + 1
        assert list(found.hypervolume) == pytest.approx(trace(results), rel=1e-12)
        assert found.event == results.event
        assert found.counts["complete"] == sum(t.state == "complete" for t in results.trials)
        assert found.done == sum(t.state != "running" for t in results.trials)
        pick = results.decision if results.reference is not None else None
        assert (found.pick and found.pick["trial"]) == (pick and pick.pick.number)
        ended = [t for t in results.trials if t.finished]
        newest = max(ended, key=lambda trial: trial.finished or 0)
        assert newest.number in [row["trial"] for row in found.latest]
        before = store.handed
        assert watcher.look() == found
        assert store.handed == before  # nothing new, nothing read
    assert (found.status, found.spent, found.done) == ("complete", 9, found.total)
    assert found.pick
    assert found.pick["basis"] == "select"


def test_a_study_that_is_started_anew_is_watched_from_its_beginning(file: str) -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=4), SqlStore(file)
    store.create_study(plan)
    finish(plan, store)
    watcher = Watcher(store, plan.name)
    assert watcher.look().counts["complete"] == 9
    store.delete_study(plan.name)
    store.create_study(replace(plan, evaluations=2))
    found = watcher.look()
    assert (found.status, found.budget, found.hypervolume, found.latest) == ("new", 2, (), ())


def test_failures_are_shown_with_their_reasons() -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=12), SqlStore("sqlite://")
    store.create_study(plan)
    score = scorer(plan)()

    def failing(job: Any) -> Any:
        if job.trial in (5, 7):
            raise ValueError(f"no [bold]scores[/bold] for {job.trial}")
        return score(job)

    run(plan, store, Proposer(plan), Inline(lambda: failing))
    watcher = Watcher(store, plan.name)
    found = watcher.look()
    assert [failure["trial"] for failure in found.failures] == [7, 5]
    said = text(watcher)
    assert "no [bold]scores[/bold] for 7" in said
    assert "2 failed" in said
    assert json.loads(json.dumps(found.to_json()))["failures"][0]["message"].endswith("for 7")


def test_a_sparkline_shows_the_least_the_largest_and_keeps_both_ends() -> None:
    assert sparkline((0.0, 1.0)) == "▁█"
    assert sparkline((2.0, 2.0, 2.0)) == "▁▁▁"
    assert sparkline(tuple(range(8))) == "▁▂▃▄▅▆▇█"
    long = sparkline(tuple(range(1000)))
    assert (len(long), long[0], long[-1]) == (60, "▁", "█")
    assert list(long) == sorted(long)


def test_a_finished_study_of_models_is_watched_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = finished(tmp_path_factory.getbasetemp())
    command = ["--store", world.store, "watch", "toy"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0
    decision = world.open().results.decision
    assert decision is not None
    assert f"trial {decision.pick.number} (" in done.stdout.split("pick so far:")[1]
    table = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert (table["status"], table["alive"], table["phase"]) == ("complete", False, "test")
    assert table["done"] == table["total"] > 0


def test_a_run_is_watched_while_it_goes_on(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    plan = study_plan("dirichlet", 3, 2, evaluations=400)
    store, other = SqlStore(file), SqlStore(file)
    store.create_study(plan)
    score, go = scorer(plan)(), threading.Semaphore(40)

    def slow(job: Any) -> Any:
        go.acquire()
        time.sleep(0.02)
        return score(job)

    def work() -> None:
        run_study(plan, store, Proposer(plan), lambda: Inline(lambda: slow))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        watcher, deadline = Watcher(other, plan.name), time.monotonic() + 60
        while not (
            (found := watcher.look()).done == 40
            and found.busy == 1
            and found.latest[0]["state"] == "running"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (found.alive, found.status, found.phase) == (True, "running", "search")
        assert (found.done, found.total) == (40, 405)
        assert found.eta is not None
        assert found.eta >= 0.02 * (405 - 40)  # the least that the search alone takes
        assert [row["state"] for row in found.latest][:2] == ["running", "complete"]
        assert "1 in flight" in text(watcher)
        assert other.want(plan.name, Wanted.NOW)  # outside the main thread: after the job
    finally:
        go.release(1000)
        thread.join()
    assert watcher.look().status == "stopped"
    store.close()
    other.close()
