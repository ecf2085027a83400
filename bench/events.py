"""CPU time per event of a study (loop, ledger and proposals) by number of trials.

A study of a plain function with a cheap sampler runs to 2,000 trials on SQLite in a file. A trial is two
events: its proposal and its scores. For windows along the way, the mean CPU time of this process between
two scores is printed, without the evaluation itself. The goal is at most 20 ms per event at 2,000 trials.

Run: python bench/events.py [--trials 2000] [--sampler dirichlet]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

from recycler.evaluate.results import evaluation_of
from recycler.execute.inline import Inline
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.runs import run_study
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

N, M, ITEMS = 16, 3, 250


def plan_of(trials: int, sampler: str) -> Plan:
    return Plan(
        name="events",
        ingredients=tuple((f"w{i}", f"sha256:{i:03}") for i in range(N)),
        objectives=Objectives(tuple(Objective(f"f{j}", "value", "max") for j in range(M))),
        sampler=sampler,
        evaluations=trials - N - 2,
        greedy=False,
    )


def scorer(plan: Plan):
    noise = np.random.default_rng(0).normal(0, 0.3, (M, ITEMS))
    best = np.random.default_rng(1).dirichlet(np.ones(N), size=M)
    ids = tuple(range(ITEMS))

    def score(job):
        w = np.array(job.recipe.vector(plan.names))
        values = -((w - best) ** 2).sum(axis=1)[:, None] + noise
        rows = {
            o.name: Outcomes(ids, tuple(r))
            for o, r in zip(plan.objectives, values.tolist(), strict=True)
        }
        return evaluation_of(job, rows, "", {})

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--sampler", default="dirichlet")
    asked = parser.parse_args()
    plan = plan_of(asked.trials, asked.sampler)
    folder = tempfile.mkdtemp(prefix="recycler-bench-")
    store = SqlStore(f"sqlite:///{Path(folder) / 'ledger.db'}")
    store.create_study(plan)
    score, spent = scorer(plan), [0.0]

    def timed(job):
        start = time.process_time()
        found = score(job)
        spent[0] += time.process_time() - start
        return found

    marks: list[tuple[float, float]] = []
    run_study(
        plan,
        store,
        Proposer(plan),
        lambda: Inline(lambda: timed),
        lambda progress: marks.append((time.process_time(), spent[0])),
        phases=(),
    )
    print("| trials | CPU per trial [ms] | CPU per event [ms] |\n|---|---|---|")
    window = 50
    for end in (100, 250, 500, 1000, 1500, asked.trials):
        if end <= len(marks) - 1:
            (t0, s0), (t1, s1) = marks[end - window], marks[end]
            spent_here = 1000 * ((t1 - t0) - (s1 - s0)) / window
            print(f"| {end} | {spent_here:.1f} | {spent_here / 2:.1f} |")
    print(f"\nMeasured on: {machine()}.")
    store.close()


if __name__ == "__main__":
    main()
