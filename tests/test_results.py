"""Results: one reading of a study, of one moment, however much is written meanwhile."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from contracts.sampler import study_plan
from rich.console import Console
from test_loop import finish

from recycler.cli.main import cli
from recycler.errors import NotFound
from recycler.front.results import Results
from recycler.loop import Progress
from recycler.nouns.evaluation import Evaluation, Outcomes, Split
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Job, Kind, Proposal
from recycler.report import text
from recycler.report.page import html_page
from recycler.store.sql import SqlStore


def scored_by_items(plan: Plan, items: int = 12):
    """Bowls whose gains come with noisy items, other ones on each split."""

    def function(job: Job, w: np.ndarray) -> dict[str, list[float]]:
        rng = np.random.default_rng([int(1e6 * x) for x in w] + [list(Split).index(job.split)])
        best = np.eye(plan.n)
        return {
            name: (-((w - best[j]) ** 2).sum() + 0.1 * rng.standard_normal(items)).tolist()
            for j, name in enumerate(job.objectives)
        }

    return function


def plan_of(**changes) -> Plan:
    return study_plan("dirichlet", 3, 2, evaluations=6, greedy=True, **changes)


def copied(plan: Plan, address: str) -> SqlStore:
    """A finished study in the ledger at an address."""
    return finish(plan, scored_by_items(plan), store=SqlStore(address))


@contextmanager
def transactions() -> Iterator[set[int]]:
    """Numbers of the transactions in which some engine read a table of studies."""
    begun, touched = [0], set()

    def begin(connection) -> None:
        begun[0] += 1

    def executed(connection, cursor, statement, *_) -> None:
        if "FROM recycler_" in statement and "alembic" not in statement:
            touched.add(begun[0])

    sa.event.listen(sa.Engine, "begin", begin)
    sa.event.listen(sa.Engine, "before_cursor_execute", executed)
    try:
        yield touched
    finally:
        sa.event.remove(sa.Engine, "begin", begin)
        sa.event.remove(sa.Engine, "before_cursor_execute", executed)


def test_a_page_and_a_table_are_one_read_transaction_each(url, tmp_path, capsys) -> None:
    store = copied(plan_of(), url)
    with transactions() as seen:
        results = Results.read(store, "study")
        assert len(seen) == 1
        page, table = html_page(results), results.front_json()
        text.front(results)
        assert len(seen) == 1
    assert results.front.certainty == "test"
    assert table["event"] == results.event > 0
    assert f"trial {results.front.knee().number}" in page
    store.close()
    for options in (["--json"], ["--html", str(tmp_path / "f.html")], []):
        with transactions() as seen:
            done = CliRunner().invoke(cli, ["--store", url, "front", "study", *options])
        assert (done.exit_code, len(seen)) == (0, 1), done.output
    said = CliRunner().invoke(cli, ["--store", url, "front", "study", "--json"]).stdout
    assert json.loads(said) == json.loads(json.dumps(table))


def test_a_reading_is_of_one_moment_while_a_driver_writes(url) -> None:
    """Between any two statements of the reading, another connection begins and scores a trial."""
    plan = plan_of()
    store, driver = copied(plan, url), SqlStore(url)
    numbers = iter(range(100))

    def write() -> None:
        weights = np.random.default_rng([7, next(numbers)]).dirichlet(np.ones(3))
        proposal = Proposal(kind=Kind.SEARCH, name="more", recipe=plan.recipe(tuple(weights)))
        trial = driver.start("study", proposal)
        items = Outcomes(tuple(str(i) for i in range(4)), (0.0, 1.0, 2.0, 3.0))
        outcomes = dict.fromkeys(("f0", "f1"), items)
        scores = {name: items.score() for name in outcomes}
        found = Evaluation(split="dev", scores=scores, outcomes=outcomes, digest="")
        driver.record("study", trial.number, found)

    reader = threading.get_ident()

    def meanwhile(connection, cursor, statement, *_) -> None:
        if threading.get_ident() == reader and "FROM recycler_" in statement:
            other = threading.Thread(target=write)
            other.start()
            other.join()

    before = store.read("study")
    sa.event.listen(sa.Engine, "before_cursor_execute", meanwhile)
    try:
        found = store.read("study")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", meanwhile)
    assert next(numbers) >= 3  # it did write in between
    states = [trial.state for trial in found.trials]
    assert found.status["complete"] == states.count("complete") == len(states)
    assert all(found.outcomes(trial.number, "dev") for trial in found.trials)
    assert max(trial.finished for trial in found.trials) <= found.event
    assert len(store.read("study").trials) > len(found.trials) >= len(before.trials)
    assert Results(found).front_json() == Results(found).front_json()
    store.close()
    driver.close()


def test_the_front_is_that_on_dev_items_until_all_who_are_due_are_rechecked(tmp_path) -> None:
    plan, store = plan_of(), SqlStore(f"sqlite:///{tmp_path}/ledger.db")
    told: list[tuple[str, str, int, int]] = []

    def look(progress: Progress) -> None:
        results = Results.read(store, "study")
        done, due = results.rechecks["select"]
        told.append((progress.phase, results.front.basis, done, due))
        assert (results.front.basis == "select") == (0 < due == done)
        assert bool(results.rechecking) == (results.front.basis == "dev" and done > 0)
        if results.front.basis == "dev":
            assert results.front.certainty == "dev"
        everyone = results.rechecks["test"]
        if results.front.certainty == "test":
            assert everyone[0] == everyone[1] > 0

    finish(plan, scored_by_items(plan), store=store, listen=look)
    halfway = [basis for phase, basis, done, due in told if phase == "select" and 0 < done < due]
    assert halfway
    assert set(halfway) == {"dev"}
    assert next(basis for phase, basis, *_ in told if phase == "test") == "select"
    assert Results.read(store, "study").front.certainty == "test"

    told.clear()
    more = replace(plan, evaluations=16)
    store.extend("study", more.evaluations)
    assert Results.read(store, "study").front.basis == "select"  # nobody new is due yet
    finish(more, scored_by_items(more), store=store, listen=look)
    assert any(phase == "select" and 0 < done < due for phase, _, done, due in told)
    assert Results.read(store, "study").front.certainty == "test"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_table_of_seven_objectives_fits_the_terminal_and_says_everything(width: int) -> None:
    plan = study_plan("dirichlet", 4, 7, evaluations=4, greedy=True)
    names = ["gsm8k", "ifeval_strict", "mbpp", "humaneval", "mmlu_pro_law", "hellaswag", "arc"]
    objectives = tuple(Objective(name, "value", "max", scale=1.0) for name in names)
    plan = replace(plan, objectives=Objectives(objectives))
    rng = np.random.default_rng(0)
    store = finish(plan, lambda job, w: {k: rng.random(9).tolist() for k in job.objectives})
    results, written = Results.read(store, "study"), io.StringIO()
    text.front(results, Console(file=written, width=width, highlight=False))
    said = written.getvalue()
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    for trial in (*results.front.trials, *results.baselines):
        for score in trial.evaluations["test"].scores.values():
            assert f"{score.mean:.3f} ± {score.stderr:.3f}" in said
    tables = said.count("front, then baselines")
    assert tables == {80: 3, 120: 2, 200: 1}[width]
    assert ("Regrets need a wider terminal" in said) == (width < 200)


def test_an_unknown_study_is_not_found_and_the_known_ones_are_listed(tmp_path) -> None:
    store = copied(plan_of(), f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(NotFound, match="no study 'other'") as caught:
        Results.read(store, "other")
    assert "study" in caught.value.hint
    with pytest.raises(NotFound, match="no trial 99"):
        Results.read(store, "study").trial_json(99)
