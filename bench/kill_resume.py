"""kill -9 of `recycler demo` at ten random moments, with a resume each time: is work lost or repeated?

Prints the contents of the ledger around each kill, then a verdict. Run: `python bench/kill_resume.py`
(a few minutes). Only the main process is killed, as by the kernel when memory runs out.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TABLE = "recycler_evaluations"
QUERY = f"SELECT number, split, objective, mean FROM {TABLE} ORDER BY number, split, objective"


def scores(ledger: Path) -> list[tuple]:
    """Return all scores in the ledger."""
    if not ledger.exists():
        return []
    with sqlite3.connect(ledger) as db:
        known = db.execute("SELECT name FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone()
        return db.execute(QUERY).fetchall() if known else []


def trials(ledger: Path) -> list[tuple]:
    """Return number, recipe, state, digest and attempts of all trials."""
    with sqlite3.connect(ledger) as db:
        return db.execute(
            "SELECT number, recipe_id, state, digest, attempts FROM recycler_trials ORDER BY number"
        ).fetchall()


def demo(folder: Path, options: list[str]) -> subprocess.Popen:
    """Start `recycler demo` in a folder."""
    command = [sys.executable, "-m", "recycler", "demo", *options]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="2")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="recycler-kill-"))
    ledger, options = folder / ".recycler" / "ledger.db", ["--workers", arguments.workers]
    before: list[tuple] = []
    lost = 0
    for kill in range(arguments.kills):
        process = demo(folder, options)
        try:
            process.wait(timeout=rng.uniform(3.0, 30.0))
            print(f"kill {kill}: the demo had already ended")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        now = scores(ledger)
        lost += len(set(before) - set(now))
        print(f"kill {kill}: {len(before):>4} scores before, {len(now):>4} after", flush=True)
        before = now
    start = time.monotonic()
    assert demo(folder, options).wait() == 0, (folder / "log").read_text()[-2000:]
    final, ended = scores(ledger), trials(ledger)
    lost += len(set(before) - set(final))
    twice = len(final) - len({row[:3] for row in final})
    twice += len(ended) - len({row[1] for row in ended})
    front = subprocess.run(
        [sys.executable, "-m", "recycler", "front", "demo", "--json"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    table = json.loads(front.stdout)
    print(f"resumed to the end in {time.monotonic() - start:.0f} s: {len(ended)} trials, ")
    print(
        f"  {sum(row[2] == 'complete' for row in ended)} complete, {table['evaluations']} in the budget,"
    )
    print(f"  {sum(row[4] > 1 for row in ended)} begun more than once after a kill")
    print(f"scores in the ledger twice: {twice}; scores lost: {lost}; ledger {ledger}")
    sys.exit(0 if twice == lost == 0 and all(row[2] == "complete" for row in ended) else 1)


if __name__ == "__main__":
    main()
