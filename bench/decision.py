"""The default pick against knee, greedy soup and best single: `python bench/decision.py`.

Ten pools of 16 checkpoints of search_bench.py, `auto` with 50 evaluations. Everything is chosen by dev
scores; the test average is in steps of each study's scale (front/scale.py). A pool counts if the pick's
test average is at least that of all three others, within a thousandth of a step.

    --cache FOLDER   keep trained pools there
    --seeds N        searches for each pool; the test averages are means over them
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from landscapes import Landscape
from machine import machine
from search_bench import POOLS, Search

from recycler.front import baselines
from recycler.front.decision import choose
from recycler.front.front import Front, Member, front_rows
from recycler.nouns.trial import Trial
from recycler.search.samplers import Proposer

NAMES = ("pick", "knee", "greedy soup", "best single")


def averages(search: Search) -> dict[str, float]:
    """Test average of what each rule takes, in steps of the scale."""
    plan, trials = search.plan, search.trials
    scales = baselines.scales_of(plan, trials)
    proposer = Proposer(plan)
    corner = proposer.reference(trials)
    expected = proposer.expected(trials, corner)
    members = front_rows(trials, plan.objectives, "dev")
    front = Front(
        objectives=plan.objectives,
        members=tuple(Member(t, 1.0) for t in members),
        basis="dev",
        certainty="dev",
        reference=corner,
        expected=np.array([expected[t.number] for t in members]),
        steps=baselines.steps_of(plan, trials),
    )
    singles = [t for t in trials if t.kind == "single"]

    def average(trial: Trial) -> float:
        weights = np.array(trial.recipe.vector(plan.names))
        test = search.landscape.score(weights, "test")
        signs = np.array([o.sign for o in plan.objectives.searched])
        return float((test * signs / scales).mean())

    def on_dev(trial: Trial) -> float:
        return float((plan.objectives.gains([trial.means("dev")])[0] / scales).mean())

    taken = choose(front, singles, expected, scales)
    return {
        "pick": average(taken.pick),
        "knee": average(front.knee()),
        "greedy soup": average(baselines.greedy_soup(plan, trials)),
        "best single": average(max(singles, key=on_dev)),
    }


def main() -> None:
    """Run the searches and print one line for each pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pools")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    pools = [p for p in POOLS if p.n == 16]
    print("| pool | " + " | ".join(NAMES) + " | at least all |\n|---|" + "---|" * (len(NAMES) + 1))
    met = 0
    for spec in pools:
        landscape = Landscape(spec, arguments.cache)
        found = [
            averages(Search(landscape, "auto", 50, seed).run()) for seed in range(arguments.seeds)
        ]
        means = {name: float(np.mean([row[name] for row in found])) for name in NAMES}
        best = means["pick"] >= max(means.values()) - 1e-3
        met += best
        cells = " | ".join(f"{means[name]:.3f}" for name in NAMES)
        print(f"| {spec.name} | {cells} | {'yes' if best else 'no'} |", flush=True)
    print(f"\n{met} of {len(pools)} pools. {machine()}.")


if __name__ == "__main__":
    main()
