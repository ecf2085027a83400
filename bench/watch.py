"""Cost of one look at a running study by number of trials: time, CPU, and what it asks the ledger.

A study of a plain function runs to 2,000 trials on SQLite in a file; a watcher looks after every trial of
the last ones. The first look reads everything, each later one what changed.

Run: python bench/watch.py [--trials 2000]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from events import plan_of, scorer
from machine import machine

from recycler.execute.inline import Inline
from recycler.loop import run
from recycler.nouns.status import Wanted
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore
from recycler.watching import Watcher

LOOKS = 30


def cost(watcher: Watcher) -> tuple[float, float]:
    """Seconds and CPU seconds of one look."""
    wall, cpu = time.perf_counter(), time.process_time()
    watcher.look()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    print(machine())
    plan = plan_of(trials, "dirichlet")
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore(f"sqlite:///{Path(folder) / 'ledger.db'}")
        store.create_study(plan)
        score = scorer(plan)
        watcher, looks = None, []

        def one(job):
            nonlocal watcher
            if job.trial == trials - LOOKS:
                watcher = Watcher(store, plan.name)
                print(
                    "first look at {:d} trials: {:.3f} s, {:.3f} s CPU".format(
                        job.trial, *cost(watcher)
                    )
                )
            elif watcher is not None:
                looks.append(cost(watcher))
            return score(job)

        run(plan, store, Proposer(plan), Inline(lambda: one), phases=(), wanted=lambda: Wanted.RUN)
        wall, cpu = np.median(np.array(looks), axis=0)
        print(
            f"{len(looks)} later looks, after one more trial each: {wall:.4f} s, {cpu:.4f} s CPU (medians)"
        )
        idle = np.median(np.array([cost(watcher) for _ in range(LOOKS)]), axis=0)
        print("{} looks with nothing new: {:.4f} s, {:.4f} s CPU (medians)".format(LOOKS, *idle))
        store.close()


if __name__ == "__main__":
    main()
