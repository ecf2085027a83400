"""Coverage and error of `recycler predict` on held-out merges: `python bench/predict.py`.

For each pool of `search_bench.py` and seed, a random part of the test items plays the dev items, and the
mean over the rest, within its own error, is the truth. A search (`auto`) runs; after a number of its evaluations (besides singles,
uniform and merge-best) the study predicts merges that it has not scored, of four sorts:
`near` draws around its front, `dirichlet` draws as samplers make them (concentrations 0.15 to 3), `edges`
mixtures of two checkpoints, `proposed` the merges of a grid of preferences. Told: the share of (merge,
objective) whose score on the dev items lies in the 90 % interval `dev`, whose truth lies in `mean`; the
mean absolute error of the expected score in standard errors of a score; and that of the nearest trial's
score, which needs no model. 95 % intervals are over (pool, seed).

    --pools TEXT,TEXT  only pools whose name contains one of them
    --seeds N  --reseed N (added to each pool's seed: pools for tuning)  --cache FOLDER
    --inflation X --own X   other constants than those of front/prediction.py
    --demo             the demo's pool, scored by lm-eval (minutes; `dev` only)
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from demo_landscape import SPEC, DemoLandscape
from landscapes import Landscape
from machine import machine
from search_bench import POOLS, Search

from recycler.front import pareto, prediction
from recycler.front.prediction import Forecast, Forecaster
from recycler.front.proposals import Proposals, preference_grid
from recycler.front.results import Results
from recycler.nouns.reading import Reading
from recycler.search.samplers import Proposer

COUNTS = (0, 15, 30, 60)
GRID = 6
Array = np.ndarray


class Split:
    """A landscape whose dev items are a random part of its test items."""

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self.landscape, self.spec, self._seed = landscape, landscape.spec, seed
        self._known: dict[bytes, tuple[list[Array], Array]] = {}

    def outcomes(self, weights: Array, split: str) -> list[Array]:
        """Per objective (items,) outcomes on the dev items."""
        return self._found(weights)[0]

    def truth(self, weights: Array) -> Array:
        """(m, 2) means over all other items, and the standard errors of these."""
        return self._found(weights)[1]

    def _found(self, weights: Array) -> tuple[list[Array], Array]:
        key = np.asarray(weights, dtype=np.float64).tobytes()
        if key not in self._known:
            rng = np.random.default_rng([self._seed, self.spec.seed])
            rows = [rng.permutation(row) for row in self.landscape.outcomes(weights, "test")]
            items = self.spec.items
            others = [row[items:] for row in rows]
            rest = np.array([(row.mean(), row.std(ddof=1) / len(row) ** 0.5) for row in others])
            self._known[key] = [row[:items] for row in rows], rest
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Case:
    """The coverage of one (pool, seed, evaluations, sort of merge), over merges and objectives."""

    pool: str
    seed: int
    count: int
    sort: str
    dev: float
    mean: float
    error: float
    nearest: float
    width: float


def results_of(search: Search, count: int) -> Results:
    """The study after some evaluations."""
    plan = search.plan
    trials = tuple(search.trials[: plan.n + 2 + count])
    corner = Proposer(plan).reference(trials)
    assert corner is not None
    return Results(
        Reading(
            event=0,
            status={"status": "running", "reference": list(corner), "name": plan.name},
            plan=plan,
            trials=trials,
            looked_at=1,
            outcomes=lambda number, split: {},
            answers=lambda number, split, objective: None,
        )
    )


def held_out(results: Results, seed: int, few: bool) -> dict[str, Array]:
    """Sort -> (c, n) weights of merges that were not scored."""
    plan, rng = results.plan, np.random.default_rng(seed)
    space, size = plan.points, 3 if few else 10
    scored = [t.recipe.vector(plan.names) for t in results.trials]
    gains = plan.objectives.gains([t.means("dev") for t in results.trials])
    good = np.array(scored)[pareto.nondominated(gains)]
    edges = np.zeros((3 * size, plan.n))
    for row in edges:
        share = rng.uniform(0.05, 0.95)
        row[rng.choice(plan.n, 2, replace=False)] = share, 1 - share
    proposals = Proposals(Forecaster(results))
    wanted = [*preference_grid(plan.objectives.m, GRID), np.full(plan.objectives.m, 1)]
    found = [proposals.suggest(w / w.sum()).prediction.recipe for w in wanted]
    return {
        "near": np.array(
            [space.near(rng, good[rng.integers(len(good))]) for _ in range(3 * size)]
        ),
        "dirichlet": np.concatenate([space.draws(rng, a, size) for a in (0.15, 0.4, 1.0, 3.0)]),
        "edges": edges,
        "proposed": np.array([recipe.vector(plan.names) for recipe in found]),
    }


def inside(score: float, f: Forecast, ends: tuple[float, float], error: float = 0.0) -> bool:
    """Whether a score with an error of its own lies in an interval, widened by that error."""
    low, high = (np.hypot(end - f.expected, 1.645 * error) for end in ends)
    return f.expected - low - 1e-12 <= score <= f.expected + high + 1e-12


def cases(search: Search, landscape: Split | DemoLandscape, seed: int) -> list[Case]:
    """Predict held-out merges after each number of evaluations."""
    made, plan = [], search.plan
    for count in COUNTS:
        results = results_of(search, count)
        forecaster = Forecaster(results)
        for sort, rows in held_out(
            results, 1000 + seed, isinstance(landscape, DemoLandscape)
        ).items():
            table = []
            for weights in rows:
                told = forecaster.at(plan.recipe(tuple(weights)))
                outcomes = landscape.outcomes(weights, "dev")
                truth = landscape.truth(weights) if isinstance(landscape, Split) else None
                near = results.trials[told.nearest].means("dev")
                for j, f in enumerate(told.forecasts):
                    table.append(_row(f, outcomes[j], None if truth is None else truth[j], near))
            made.append(Case(landscape.spec.name, seed, count, sort, *np.mean(table, axis=0)))
    return made


def _row(f: Forecast, items: Array, truth: Array | None, near: dict[str, float]) -> list[float]:
    score = float(items.mean())
    stderr = max(float(items.std(ddof=1)) / len(items) ** 0.5, 1e-9)
    return [
        inside(score, f, f.dev),
        np.nan if truth is None else inside(truth[0], f, f.mean, truth[1]),
        abs(f.expected - score) / stderr,
        abs(near[f.objective.name] - score) / stderr,
        (f.dev[1] - f.dev[0]) / stderr,
    ]


def told(found: Sequence[Case], title: str) -> str:
    """A line of the table: means over (pool, seed), with 95 % intervals of the coverages."""
    keys = sorted({(c.pool, c.seed) for c in found})
    rows = np.array(
        [
            np.mean(
                [
                    (c.dev, c.mean, c.error, c.nearest, c.width)
                    for c in found
                    if (c.pool, c.seed) == key
                ],
                axis=0,
            )
            for key in keys
        ]
    )
    middle = rows.mean(axis=0)
    half = 1.96 * rows.std(axis=0, ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else 0 * middle
    return (
        f"| {title} | {100 * middle[0]:.0f} ± {100 * half[0]:.0f} | {100 * middle[1]:.0f} ± "
        f"{100 * half[1]:.0f} | {middle[2]:.2f} | {middle[3]:.2f} | {middle[4]:.1f} |"
    )


def report(found: Sequence[Case]) -> None:
    """Print coverages pooled, by evaluations, by sort and by pool."""
    print("| held-out merges | dev, % | mean, % | error | nearest trial's | width of dev |")
    print("|---|---|---|---|---|---|", flush=True)
    print(told(found, f"all, {len({(c.pool, c.seed) for c in found})} studies"))
    for count in COUNTS:
        print(told([c for c in found if c.count == count], f"after {count} evaluations"))
    for sort in dict.fromkeys(c.sort for c in found):
        print(told([c for c in found if c.sort == sort], sort))
    for pool in dict.fromkeys(c.pool for c in found):
        print(told([c for c in found if c.pool == pool], pool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pools", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reseed", type=int, default=0)
    parser.add_argument("--inflation", type=float, default=prediction.INFLATION)
    parser.add_argument("--own", type=float, default=prediction.OWN)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "recycler-bench")
    given = parser.parse_args()
    prediction.INFLATION, prediction.OWN = given.inflation, given.own
    torch.set_num_threads(1)
    started, found = time.perf_counter(), []
    names = given.pools.split(",")
    for spec in [SPEC] if given.demo else POOLS:
        if not any(name in spec.name for name in names):
            continue
        spec = replace(spec, seed=spec.seed + given.reseed)
        whole = DemoLandscape(given.cache) if given.demo else Landscape(spec, given.cache)
        for seed in range(given.seeds):
            landscape = whole if given.demo else Split(whole, 1000 * given.reseed + seed)
            search = Search(landscape, "auto", max(COUNTS), seed).run()
            found += cases(search, landscape, seed)
            here = [c for c in found if (c.pool, c.seed) == (spec.name, seed)]
            print(told(here, f"{spec.name} {seed}"), flush=True)
    print()
    report(found)
    print(f"{time.perf_counter() - started:.0f} s. {machine()}")


if __name__ == "__main__":
    main()
