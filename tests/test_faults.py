"""Faults of the machine in the middle of a real study: after the mend the ledger is the calm run's.

The evaluator is a user's module that scores the true merges; on its third call it lets the fault
happen, once. Recipes, scores, order and the budget spent must be those of a run without faults.
"""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from recycler import loop
from recycler.errors import Conflict, Unavailable
from recycler.evaluate.python import load_function
from recycler.study import Study
from recycler.submit.config import ExecutionSection
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

pytestmark = pytest.mark.system

MODULE = """
import os, signal
from pathlib import Path

HOOKS = []  # called once, when the third merge is scored
CALLS = []
SCRATCH = ""


def score(model, tokenizer, split):
    CALLS.append(split)
    if len(CALLS) >= 3 and HOOKS:
        HOOKS.pop()()
    if os.environ.get("SCRATCH"):  # as many metrics write down the answers first
        Path(os.environ["SCRATCH"], "answers.bin").write_bytes(bytes(40_000))
    mark = Path(os.environ.get("KILL_ONCE") or "/nowhere")
    if mark.exists():
        mark.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    sums = [float(p.sum()) for p in model.parameters()]
    return {"text": sums, "choice": [abs(s) for s in sums]}
"""


def make(folder: Path, drawer: list[Path], url: str = "") -> Study:
    """A small study over copies of three checkpoints."""
    folder.mkdir()
    pool = [shutil.copytree(path, folder / path.name) for path in drawer[:3]]
    name = f"judge_{folder.name}"
    (folder / f"{name}.py").write_text(MODULE)
    table = {
        "study": "toy",
        "pool": [str(path) for path in pool],
        "objectives": [
            {"name": "text", "metric": "sum", "direction": "min"},
            {"name": "choice", "metric": "size", "direction": "max"},
        ],
        "evaluator": {"kind": "python", "function": f"{name}:score"},
        "search": {"sampler": "dirichlet", "evaluations": 4, "greedy": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(table))
    workspace = Workspace(url or str(folder / "ledger.db"))
    submit(workspace, folder / "study.yaml")
    return Study("toy", workspace)


def ledger(study: Study) -> list[tuple]:
    return [
        (
            *(t.number, t.name, t.recipe.id, str(t.state), t.digest),
            *((str(s), sorted(e.scores.items())) for s, e in sorted(t.evaluations.items())),
        )
        for t in study.trials
    ]


@pytest.fixture(scope="module")
def calm(drawer: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[tuple]:
    study = make(tmp_path_factory.mktemp("calm") / "run", drawer).run()
    found = ledger(study)
    assert len(found) > 3 + 4
    assert {row[3] for row in found} == {"complete"}
    return found


@pytest.fixture
def study(drawer: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(loop, "BACKOFF", (0.2, 1.0, 2.0))
    return make(tmp_path / "run", drawer)


def on_third_call(study: Study, happen: Callable[[], object]) -> None:
    """Let something happen while the third merge is scored, in this process."""
    root, function = study.plan.evaluator["root"], study.plan.evaluator["function"]
    module = load_function(function, root).__globals__
    module["HOOKS"].append(happen)


def later(seconds: float, mend: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, mend)
    timer.daemon = True
    timer.start()


def weights(study: Study, number: int = 1) -> Path:
    pool = study.workspace.study_pool("toy")
    return next(iter(pool.checkpoints[number].path.glob("*.safetensors")))


def test_a_file_that_is_touched(study: Study, calm: list[tuple]) -> None:
    on_third_call(study, lambda: os.utime(weights(study)))
    assert ledger(study.run()) == calm


def test_a_file_that_is_cut_short_and_restored(study: Study, calm: list[tuple]) -> None:
    file = weights(study)
    whole = file.read_bytes()

    def cut() -> None:
        file.write_bytes(whole[: len(whole) // 2])
        later(1.0, lambda: file.write_bytes(whole))

    on_third_call(study, cut)
    assert ledger(study.run()) == calm


def test_a_file_that_vanishes_and_comes_back(study: Study, calm: list[tuple]) -> None:
    file = weights(study)
    aside = file.with_name("aside")

    def hide() -> None:
        file.rename(aside)
        later(1.0, lambda: aside.rename(file))

    on_third_call(study, hide)
    assert ledger(study.run()) == calm


def test_other_bytes_under_the_same_name_pause_the_study_until_they_are_restored(
    study: Study, calm: list[tuple]
) -> None:
    """The header is the same, so that only the fingerprint tells."""
    file = weights(study)
    whole = file.read_bytes()
    other = whole[:-4] + bytes(4)
    assert other != whole
    on_third_call(study, lambda: file.write_bytes(other))
    with pytest.raises(Unavailable, match="not the checkpoint that the study was made with"):
        study.run()
    assert study.status["status"] == "paused"
    assert "failed" not in {str(t.state) for t in study.trials}
    file.write_bytes(whole)
    assert ledger(Study("toy", study.workspace).run()) == calm


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_for_a_while(
    study: Study, calm: list[tuple], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(small_disk))

    def fill() -> None:
        with pytest.raises(OSError, match="No space left") as full:
            (small_disk / "big").write_bytes(bytes(1 << 20))
        assert full.value.errno == errno.ENOSPC
        later(1.0, (small_disk / "big").unlink)

    on_third_call(study, fill)
    assert ledger(study.run()) == calm


def test_a_signal_to_end_and_a_second_run(study: Study, calm: list[tuple]) -> None:
    on_third_call(study, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        study.run()
    assert study.status["status"] == "stopped"
    assert ledger(Study("toy", study.workspace).run()) == calm


def test_two_drivers_at_once(study: Study, calm: list[tuple]) -> None:
    refused = []

    def second() -> None:
        with pytest.raises(Conflict) as error:
            Study("toy", Workspace(study.workspace.url)).run()
        refused.append(error.value.message)

    on_third_call(study, second)
    assert ledger(study.run()) == calm
    assert refused


def test_a_ledger_that_another_process_locks_for_a_while(study: Study, calm: list[tuple]) -> None:
    file = study.workspace.url.removeprefix("sqlite:///")

    def lock() -> None:
        other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        later(2.0, other.close)

    on_third_call(study, lock)
    assert ledger(study.run()) == calm


def test_a_database_that_drops_its_connections_as_when_it_restarts(
    drawer: list[Path], calm: list[tuple], tmp_path: Path, database: str
) -> None:
    """The run may end with the reason, but nothing is lost and nothing is spent."""
    study = make(tmp_path / "run", drawer, database)
    admin = sa.create_engine(database.rpartition("/")[0] + "/postgres")
    name = database.rpartition("/")[2]

    def drop() -> None:
        with admin.connect() as db:
            db.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"
                ),
                {"n": name},
            )

    on_third_call(study, drop)
    with suppress(Unavailable):  # told with a way on, no traceback of the driver
        study.run()
    admin.dispose()
    study.workspace.store.close()
    again = Study("toy", Workspace(database))
    assert "failed" not in {str(t.state) for t in again.trials}
    found = ledger(again.run())
    again.workspace.store.close()
    assert found == calm


def test_a_ray_worker_that_is_killed(
    study: Study, calm: list[tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "kill"
    mark.touch()
    monkeypatch.setenv("KILL_ONCE", str(mark))
    study.run(ExecutionSection(executor="ray", workers=1))
    assert not mark.exists()
    assert ledger(study) == calm
