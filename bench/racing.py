"""Racing compared with scoring every candidate on all dev items, on landscapes of real merges.

The same study (sampler, seed, number of candidates) runs with and without racing. Its front on dev items,
as `recycler.search` returns it, and its front after the re-check on select items are scored on fresh items
that neither has seen. The pick is the member with the best expected average. Prints paired differences
with 95 % intervals over pools and seeds.

    python bench/racing.py [--quick] [--sampler auto] [--gain 0.01] [--chance 0.05]
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from landscapes import TEST_COPIES, Landscape, PoolSpec
from machine import machine

from recycler.evaluate.results import evaluation_of
from recycler.execute.inline import Inline
from recycler.front import pareto
from recycler.front.expectation import expected
from recycler.front.front import front_rows
from recycler.front.racing import settings_of
from recycler.front.stages import elected
from recycler.loop import run
from recycler.nouns.evaluation import Evaluation, Outcomes
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import SCORED, Job
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

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


SHARES = {
    "select": (0.0, 0.2),
    "test": (0.2, 0.5),
    "fresh": (0.5, 1.0),
}  # shares of the unseen clusters


class Scorer:
    """A landscape's items in four disjoint splits; copies of one image share a cluster.

    The unseen clusters are assigned to select, test and fresh at random per seed. Counts the evaluated dev
    items of the search's candidates, and the select items.
    """

    def __init__(self, landscape: Landscape, plan: Plan) -> None:
        self._landscape, self._plan = landscape, plan

        self.items = {"dev": 0, "select": 0, "test": 0}

    def outcomes(
        self, weights: np.ndarray, split: str, part: tuple[float, float] = (0.0, 1.0)
    ) -> list[Outcomes]:
        rows = self._landscape.outcomes(weights, "dev" if split == "dev" else "test")
        items = np.arange(rows.shape[1])
        if split == "dev":
            start, stop = (round(share * len(items)) for share in part)
            items = clusters = items[start:stop]
        else:
            images = self._landscape.spec.net != "bytes"
            of = items % (len(items) // TEST_COPIES) if images else items
            of = np.random.default_rng(self._plan.seed).permutation(of.max() + 1)[of]
            low, high = (round(share * (of.max() + 1)) for share in SHARES[split])
            items = items[(of >= low) & (of < high)]
            clusters = of[items]
        ids, labels = tuple(items.tolist()), tuple(clusters.tolist())
        return [Outcomes(ids, tuple(row[items].tolist()), (), labels) for row in rows]

    def __call__(self, job: Job) -> Evaluation:
        weights = np.array(job.recipe.vector(self._plan.names))
        found = self.outcomes(weights, job.split, job.part)
        self.items[job.split] += sum(len(o.ids) for o in found)
        return evaluation_of(job, {f"t{j}": o for j, o in enumerate(found)}, "", {})


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of a front on fresh items: average of the pick, hypervolume, number of members."""

    average: float
    volume: float
    members: int


def study(landscape: Landscape, plan: Plan) -> tuple[dict[str, Result], dict[str, float]]:
    """Return the fronts of the search on dev items and of the whole study, with their costs.

    Costs are in items: `dev` for candidates after the greedy path, `select` for the re-check.
    """
    store, scorer = SqlStore("sqlite://"), Scorer(landscape, plan)
    store.create_study(plan)
    run(plan, store, Proposer(plan), Inline(lambda: scorer), phases=("select",))
    trials = list(store.trials(plan.name))
    reference = np.array(store.status(plan.name)["reference"])
    scored = [t for t in trials if t.state in SCORED]
    expected_gains = {
        split: expected(plan, trials, reference, split) for split in ("dev", "select")
    }
    fronts = {
        "search": front_rows(scored, plan.objectives, "dev", expected=expected_gains["dev"]),
        "study": elected(plan, trials),
    }
    found = {}
    for name, members in fronts.items():
        gains = expected_gains["dev" if name == "search" else "select"]
        pick = int(np.argmax([gains[t.number].mean() for t in members]))
        rows = [scorer.outcomes(np.array(t.recipe.vector(plan.names)), "fresh") for t in members]
        fresh = plan.objectives.gains(
            [{f"t{j}": o.score().mean for j, o in enumerate(row)} for row in rows]
        )
        volume = pareto.hypervolume(fresh, reference)
        found[name] = Result(float(fresh[pick].mean()), volume, len(members))
    whole = landscape.spec.items * landscape.spec.m
    others = sum(t.kind != "search" for t in trials)
    costs = {"dev": scorer.items["dev"] - others * whole, "select": scorer.items["select"]}
    return found, costs


def interval(x: np.ndarray) -> str:
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
    parser.add_argument("--reseed", type=int, default=0, help="other pools, to tune on")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recycler-bench")
    given = parser.parse_args()
    torch.set_num_threads(1)
    racing = settings_of(
        {k: v for k in ("gain", "chance") if (v := getattr(given, k)) is not None} or True
    )
    pairs: dict[str, list[tuple[float, ...]]] = {"search": [], "study": []}
    started = time.perf_counter()
    for spec in POOLS[:2] if given.quick else POOLS:
        landscape = Landscape(replace(spec, seed=spec.seed + given.reseed), given.cache)
        for seed in range(1 if given.quick else given.seeds):
            plan = plan_of(spec, given.sampler, given.evaluations, seed)
            full, costs = study(landscape, plan)
            raced, fewer = study(landscape, replace(plan, racing=racing))
            line = []
            for name, rows in pairs.items():
                a, b = raced[name], full[name]
                paid = ("dev",) if name == "search" else ("dev", "select")
                share = sum(fewer[k] for k in paid) / sum(costs[k] for k in paid)
                lost = 100 * (b.average - a.average), 100 * (1 - a.volume / b.volume)
                rows.append((100 * share, *lost))
                line.append(
                    f"{name} {share:.0%}, {-lost[0]:+.2f} points, {-lost[1]:+.2f} %, "
                    f"{a.members} for {b.members} members"
                )
            print(f"{spec.name:18} seed {seed}: " + " | ".join(line), flush=True)
    print(
        f"\n{given.sampler}, {given.evaluations} candidates, racing minus full evaluation, on fresh items"
    )
    print("| front | items, % | pick, points | hypervolume, % |\n|---|---|---|---|")
    for name, rows in pairs.items():
        items, points, volumes = np.array(rows).T
        print(
            f"| of the {name} | {items.mean():.0f} | {interval(-points)} | {interval(-volumes)} |"
        )
    print("(items of `search`: dev items past the greedy path; of `study`: also the re-check's)")
    print(f"{time.perf_counter() - started:.0f} s. {machine()}")


if __name__ == "__main__":
    main()
