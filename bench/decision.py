"""The default pick against knee, greedy soup and best single: `python bench/decision.py`.

Ten pools of 16 checkpoints of search_bench.py; whole studies (`auto`, 50 evaluations, re-check on select
items, report on test items), as `recycler run` does them. What each rule takes is scored on fresh items
that no study has seen. Averages are in steps of each study's scale (front/scale.py), less that of the best
single; means over seeds. A pool counts if the pick's average is at least that of all others, within a
thousandth of a step.

    --cache FOLDER   keep trained pools there
    --seeds N        studies for each pool
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from landscapes import Landscape
from machine import machine
from racing import POOLS, Scorer, plan_of

from recycler.execute.inline import Inline
from recycler.front import baselines
from recycler.front.results import Results
from recycler.loop import run
from recycler.nouns.trial import Trial
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

NAMES = ("pick", "knee", "greedy soup", "best single")


def averages(landscape: Landscape, seed: int) -> dict[str, float]:
    """Average on fresh items of what each rule takes, in steps of the scale."""
    plan = plan_of(landscape.spec, "auto", 50, seed)
    store, scorer = SqlStore("sqlite://"), Scorer(landscape, plan)
    store.create_study(plan)
    run(plan, store, Proposer(plan), Inline(lambda: scorer), phases=("select", "test"))
    results = Results.read(store, plan.name)
    objectives = plan.objectives

    def average(trial: Trial) -> float:
        rows = scorer.outcomes(np.array(trial.recipe.vector(plan.names)), "fresh")
        fresh = objectives.gains([{f"t{j}": o.score().mean for j, o in enumerate(rows)}])
        return float((fresh[0] / results.scales).mean())

    def on_select(trial: Trial) -> float:
        return float((objectives.gains([trial.means("select")])[0] / results.scales).mean())

    singles = [t for t in results.baselines if t.kind == "single"]
    taken = {
        "pick": results.picked(),
        "knee": results.front.knee(),
        "greedy soup": baselines.greedy_soup(plan, results.trials),
        "best single": max(singles, key=on_select),
    }
    found = {name: average(trial) for name, trial in taken.items()}
    return {name: value - found["best single"] for name, value in found.items()}


def main() -> None:
    """Run the studies and print one line for each pool."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recycler-bench")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| pool | " + " | ".join(NAMES) + " | at least all |\n|---|" + "---|" * (len(NAMES) + 1))
    met = 0
    for spec in POOLS:
        landscape = Landscape(spec, given.cache)
        rows = [averages(landscape, seed) for seed in range(given.seeds)]
        means = {name: float(np.mean([row[name] for row in rows])) for name in NAMES}
        best = means["pick"] >= max(means.values()) - 1e-3
        met += best
        cells = " | ".join(f"{means[name]:+.3f}" for name in NAMES)
        print(f"| {spec.name} | {cells} | {'yes' if best else 'no'} |", flush=True)
    print(f"\n{met} of {len(POOLS)} pools, {given.seeds} seeds. {machine()}.")


if __name__ == "__main__":
    main()
