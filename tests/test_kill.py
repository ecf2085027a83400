"""A real `recycler run`, killed at random moments and run again: nothing twice, nothing lost."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

LEDGER = Path(".recycler/ledger.db")
COMMAND = [sys.executable, "-m", "recycler", "run", "study.yaml", "--executor", "inline", "--json"]


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        COMMAND,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def rows(folder: Path, query: str) -> list[tuple]:
    """What a query finds in the ledger; nothing while there is no table."""
    if not (folder / LEDGER).exists():
        return []
    db = sqlite3.connect(folder / LEDGER, timeout=15)
    try:
        return db.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def scored(folder: Path) -> list[tuple]:
    return rows(
        folder,
        "SELECT s.number, s.split, s.objective, coalesce(s.mean, e.mean),"
        " coalesce(s.stderr, e.stderr), coalesce(s.item_count, e.item_count)"
        " FROM recycler_scores s LEFT JOIN recycler_evaluations e ON s.recipe_id = e.recipe_id"
        " AND s.measure = e.measure AND s.split = e.split ORDER BY 1, 2, 3",
    )


def trials(folder: Path) -> list[tuple]:
    return rows(
        folder,
        "SELECT number, kind, name, recipe_id, state, started, finished, digest"
        " FROM recycler_trials ORDER BY number",
    )


def wait_for(folder: Path, count: int, process: subprocess.Popen) -> None:
    """Until the ledger has so many scores, or the process ended by itself."""
    deadline = time.monotonic() + 60
    while len(scored(folder)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no progress for a minute"
        time.sleep(0.005)


def pause(process: subprocess.Popen, folder: Path) -> None:
    """Stop a process where it is, but not inside a transaction of its own."""
    db = sqlite3.connect(folder / LEDGER, timeout=0, isolation_level=None)
    while True:
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(0.002)
        else:
            db.execute("ROLLBACK")
            db.close()
            return


@pytest.fixture(scope="module")
def undisturbed(drawer: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that was run to its end; a second run is refused meanwhile."""
    folder = tmp_path_factory.mktemp("undisturbed")
    toy.study_file(folder, drawer, evaluations=6)
    first = start(folder)
    wait_for(folder, 1, first)
    pause(first, folder)  # it stays in the middle while the second begins
    try:
        second = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, timeout=90)
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    (folder / "front.json").write_text(out, encoding="utf-8")
    refused = {"code": second.returncode, "error": second.stderr, "holder": first.pid}
    (folder / "refused.json").write_text(json.dumps(refused), encoding="utf-8")
    return folder


def test_a_second_run_of_a_running_study_is_refused(undisturbed: Path) -> None:
    told = json.loads((undisturbed / "refused.json").read_text(encoding="utf-8"))
    assert told["code"] == 1
    message = json.loads(told["error"].splitlines()[-1])
    assert f"study 'toy' is being run by process {told['holder']} on" in message["error"]
    assert message["hint"]


def test_a_run_killed_at_random_moments_ends_as_if_undisturbed(
    undisturbed: Path, drawer: list[Path], tmp_path: Path
) -> None:
    toy.study_file(tmp_path, drawer, evaluations=6)
    wanted, chance = scored(undisturbed), random.Random(0)
    for share in (0.0, 0.2, 0.5, 0.8):
        process, before = start(tmp_path), scored(tmp_path)
        try:
            wait_for(tmp_path, max(1, round(share * len(wanted))), process)
            time.sleep(chance.uniform(0.0, 0.05))
        finally:
            kill(process)
        assert set(before) <= set(scored(tmp_path))  # what was written stays
    process = start(tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert scored(tmp_path) == wanted  # the key is (trial, split, objective): none twice
    assert trials(tmp_path) == trials(undisturbed)
    front = json.loads((undisturbed / "front.json").read_text(encoding="utf-8"))
    assert json.loads(out) == front
