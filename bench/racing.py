"""Racing against scoring every candidate on all dev items, on landscapes of true merges.

The same study (sampler, seed, budget of candidates) is run twice, with and without racing; both
fronts and picks are judged on the same test items. Prints paired differences with 95 % intervals.

    python bench/racing.py [--quick] [--sampler auto] [--gain 0.002] [--chance 0.05]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from landscapes import Landscape, PoolSpec
from machine import machine

from recycler import pareto
from recycler.evaluate.results import evaluation_of
from recycler.evaluation import Outcomes
from recycler.execute.inline import Inline
from recycler.front import front_rows
from recycler.loop import run
from recycler.objectives import Objective, Objectives
from recycler.plan import Plan
from recycler.racing import settings_of
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore
from recycler.trial import COMPLETE, Job

POOLS = [
    PoolSpec(f"{kind}-{net}", net, 16, 3, 400, base, heat, seed=seed)
    for seed, net in enumerate(("mlp", "conv", "transformer", "mlp", "conv"))
    for kind, base, heat in (("close", 900, 0.6), ("far", 250, 2.0))
]


def plan_of(spec: PoolSpec, sampler: str, evaluations: int, seed: int) -> Plan:
    """A study of a landscape."""
    objectives = [Objective(f"t{j}", "value", spec.direction) for j in range(spec.m)]
    return Plan(
        name="landscape",
        ingredients=tuple((f"w{i:02}", f"w:{i:02}") for i in range(spec.n)),
        objectives=Objectives(tuple(objectives)),
        sampler=sampler,
        evaluations=evaluations,
        seed=seed,
    )


class Scorer:
    """Item outcomes of a landscape, whole splits or parts of them; counts the items it scored."""

    def __init__(self, landscape: Landscape, plan: Plan) -> None:
        self._landscape, self._plan = landscape, plan
        self.items = 0

    def __call__(self, job: Job):
        weights = np.array(job.recipe.vector(self._plan.names))
        rows = self._landscape.outcomes(weights, job.split)
        start, stop = (round(share * rows.shape[1]) for share in job.part)
        self.items += (stop - start) * len(rows)
        ids = tuple(range(start, stop))
        found = {
            o.name: Outcomes(ids, tuple(row[start:stop].tolist()))
            for o, row in zip(self._plan.objectives.searched, rows, strict=True)
        }
        return evaluation_of(job, found, "", {})


def study(landscape: Landscape, plan: Plan) -> tuple[float, float, int]:
    """(test average of the pick, test hypervolume of the front, dev items scored in the search)."""
    store, scorer = SqlStore("sqlite://"), Scorer(landscape, plan)
    proposer = Proposer(plan)
    store.create_study(plan)
    run(plan, store, proposer, Inline(lambda: scorer), phases=())
    trials = store.trials(plan.name)
    singles = sum(t.is_baseline or t.kind == "greedy" for t in trials)
    scored = [t for t in trials if t.state == COMPLETE]
    front = front_rows(scored, plan.objectives, "dev")
    sign = plan.objectives.searched[0].sign
    test = np.array(
        [sign * landscape.score(np.array(t.recipe.vector(plan.names)), "test") for t in front]
    )
    dev = plan.objectives.gains([t.means("dev") for t in front]).mean(1)
    reference = np.array(store.status(plan.name)["reference"])
    items = scorer.items - singles * landscape.spec.items * landscape.spec.m
    return float(test[dev.argmax()].mean()), pareto.hypervolume(test, reference), items


def interval(values: list[float]) -> str:
    x = np.array(values)
    half = 1.96 * x.std(ddof=1) / len(x) ** 0.5 if len(x) > 1 else float("nan")
    return f"{x.mean():+.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two pools, one seed")
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gain", type=float)
    parser.add_argument("--chance", type=float)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recycler-bench")
    given = parser.parse_args()
    torch.set_num_threads(1)
    racing = settings_of(
        {k: v for k in ("gain", "chance") if (v := getattr(given, k)) is not None} or True
    )
    shares, points, volumes = [], [], []
    started = time.perf_counter()
    for spec in POOLS[:2] if given.quick else POOLS:
        landscape = Landscape(spec, given.cache)
        for seed in range(1 if given.quick else given.seeds):
            plan = plan_of(spec, given.sampler, given.evaluations, seed)
            full = study(landscape, plan)
            raced = study(landscape, replace(plan, racing=racing))
            shares.append(raced[2] / full[2])
            points.append(100 * (raced[0] - full[0]))
            volumes.append(100 * (raced[1] / full[1] - 1))
            print(
                f"{spec.name:18} seed {seed}: items {shares[-1]:.0%}, pick {points[-1]:+.2f} points, "
                f"hypervolume {volumes[-1]:+.2f} %",
                flush=True,
            )
    print(
        f"\n{len(shares)} pairs, {given.sampler}, {given.evaluations} candidates: "
        f"{np.mean(shares):.0%} of the item evaluations; pick {interval(points)} points; "
        f"hypervolume {interval(volumes)} %"
    )
    print(f"{time.perf_counter() - started:.0f} s. {machine()}")


if __name__ == "__main__":
    main()
