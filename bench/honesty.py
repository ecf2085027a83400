"""Are the reported numbers true? Studies on landscapes of real merges, checked on fresh items.

Each run is a whole study: search on dev items, re-check on select items, report on test items. Its
report is then compared with scores on items that no part of the study has seen. Prints the bias of
the reported average of the pick (also minus the bias of the uniform soup, which cancels differences
between test and fresh items), the coverage of its 95 % interval, the number of reported members that
are dominated on fresh items (p < 0.05), and the calibration of P(non-dominated).

    python bench/honesty.py [--quick] [--plot calibration.png]
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from landscapes import Landscape, PoolSpec
from machine import machine
from racing import Scorer, plan_of

from recycler.execute.inline import Inline
from recycler.front import pareto
from recycler.front.expectation import expected
from recycler.front.resampling import probabilities
from recycler.front.stages import elected
from recycler.loop import run
from recycler.nouns.evaluation import Outcomes
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

POOLS = [
    PoolSpec("mlp-far-3", "mlp", 16, 3, 400, 250, 6.0),
    PoolSpec("mlp-close-3", "mlp", 16, 3, 400, 800, 0.7, seed=1),
    PoolSpec("mlp-far-5", "mlp", 16, 5, 400, 300, 6.0, seed=2),
    PoolSpec("bytes-close-3", "bytes", 16, 3, 400, 3000, 1.0, "bits", seed=8),
    PoolSpec("bytes-far-3", "bytes", 16, 3, 400, 1500, 6.0, "bits", seed=9),
]
DRAWS = 1000


def draws_of(found: list[list[Outcomes]], sign: float, seed: int) -> np.ndarray:
    """(draws, k, m) paired cluster bootstrap of the gains of k merges."""
    rng, columns = np.random.default_rng(seed), []
    for j in range(len(found[0])):
        arrays = [row[j].arrays() for row in found]
        clusters = arrays[0][2]
        counts = pareto.draw_counts(int(clusters.max()) + 1, DRAWS, rng)
        values, weights = (np.stack([a[i] for a in arrays]) for i in (0, 1))
        columns.append(sign * pareto.bootstrap_means(values, weights, clusters, counts))
    return np.stack(columns, axis=2)


def study(landscape: Landscape, seed: int, evaluations: int) -> dict:
    """Run one whole study and check it on fresh items."""
    plan = plan_of(landscape.spec, "auto", evaluations, seed)
    store, scorer = SqlStore("sqlite://"), Scorer(landscape, plan)
    store.create_study(plan)
    run(plan, store, Proposer(plan), Inline(lambda: scorer))
    trials = store.trials(plan.name)
    members = elected(plan, trials)
    expected_gains = expected(plan, trials, store.status(plan.name)["reference"], "select")
    pick = int(np.argmax([expected_gains[t.number].mean() for t in members]))
    sign = plan.objectives.searched[0].sign
    fresh = [scorer.outcomes(np.array(t.recipe.vector(plan.names)), "fresh") for t in members]
    scores = [o.score() for o in fresh[pick]]
    test = members[pick].evaluations["test"].scores.values()
    truth, told = (np.mean([s.mean for s in some]) for some in (scores, test))
    error, doubt = (
        np.sqrt(sum(s.stderr**2 for s in some)) / len(scores) for some in (scores, test)
    )
    draws = draws_of(fresh, sign, seed)
    beaten = [
        max((draws[:, j] >= draws[:, i]).all(1).mean() for j in range(len(members)) if j != i)
        if len(members) > 1
        else 0.0
        for i in range(len(members))
    ]
    rivals = [t for t in trials if "test" in t.evaluations]
    chances = probabilities(
        [store.outcomes(plan.name, t.number, "test") for t in rivals],
        [t.evaluations["test"].scores for t in rivals],
        plan.objectives,
        seed,
    )
    others = [scorer.outcomes(np.array(t.recipe.vector(plan.names)), "fresh") for t in rivals]
    gains = sign * np.array([[o.score().mean for o in row] for row in others])
    off = (plan.objectives.gains([t.means("test") for t in rivals]) - gains).mean(1)
    uniform = next(row for row, t in enumerate(rivals) if t.kind == "uniform")
    picked = next(row for row, t in enumerate(rivals) if t.number == members[pick].number)
    return {
        "chosen": 100 * (off[picked] - off[uniform]),
        "bias": 100 * sign * (told - truth),  # points, or hundredths of a bit
        "covers": abs(told - truth) <= 1.96 * doubt,
        "covers_both": abs(told - truth) <= 1.96 * np.hypot(doubt, error),
        "members": len(members),
        "false": sum(share > 0.95 for share in beaten),
        "chances": chances,
        "true": pareto.nondominated(gains),
        "fresh": len(fresh[0][0].ids),
    }


def calibration(runs: list[dict], plot: Path | None) -> None:
    """Bins of P(non-dominated), and the share that is non-dominated on fresh items."""
    p = np.concatenate([r["chances"] for r in runs])
    true = np.concatenate([r["true"] for r in runs])
    edges = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0001])
    rows = [
        (p[b].mean(), true[b].mean(), int(b.sum()))
        for low, high in pairwise(edges)
        if (b := (p >= low) & (p < high)).any()
    ]
    print("P(non-dominated) told | share non-dominated on fresh items | merges")
    for told, found, count in rows:
        print(f"{told:22.2f} | {found:34.2f} | {count}")
    print(f"expected calibration error {sum(c * abs(t - f) for t, f, c in rows) / len(p):.3f}")
    if plot:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(5, 5))
        axes.plot([0, 1], [0, 1], color="#999", lw=1)
        axes.plot([r[0] for r in rows], [r[1] for r in rows], "o-", color="#c25a1b")
        axes.set(xlabel="P(non-dominated) reported", ylabel="share non-dominated on fresh items")
        plt.tight_layout()
        plt.savefig(plot, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed a pool")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recycler-bench")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, runs = time.perf_counter(), []
    for spec in POOLS:
        landscape = Landscape(spec, given.cache)
        for seed in range(1 if given.quick else given.seeds):
            runs.append(study(landscape, seed, given.evaluations))
            r = runs[-1]
            print(
                f"{spec.name:14} seed {seed}: reported - fresh {r['bias']:+.2f}, "
                f"{r['false']} of {r['members']} members false",
                flush=True,
            )
    bias, chosen = (np.array([r[key] for r in runs]) for key in ("bias", "chosen"))
    members = sum(r["members"] for r in runs)
    print(
        f"\n{len(runs)} runs: reported - truth on {runs[0]['fresh']} fresh items "
        f"{bias.mean():+.2f} ± {1.96 * bias.std(ddof=1) / len(bias) ** 0.5:.2f} points (or 0.01 bits); "
        f"less that of the uniform soup, which nobody chose, on the same items "
        f"{chosen.mean():+.2f} ± {1.96 * chosen.std(ddof=1) / len(chosen) ** 0.5:.2f}; "
        f"the 95 % interval covers the fresh mean in {np.mean([r['covers'] for r in runs]):.0%}, "
        f"with the fresh mean's own error in {np.mean([r['covers_both'] for r in runs]):.0%}; "
        f"false members {sum(r['false'] for r in runs)} of {members} "
        f"({sum(r['false'] for r in runs) / members:.1%})"
    )
    calibration(runs, given.plot)
    print(f"{time.perf_counter() - started:.0f} s. {machine()}")


if __name__ == "__main__":
    main()
