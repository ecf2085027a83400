"""Compare samplers on landscapes of real merges, by test items: `python bench/search_bench.py`.

The pick of each method is the member of its front (by dev means) with the best expected average
(front/expectation.py); a second column has the pick by dev means. Hypervolume is that of the front on test
items above the fixed reference. `references` is the front of singles, uniform, merge-best and all greedy
steps. Differences are paired by pool (means over seeds), with 95 % intervals over pools and the number of
pools in which they are not negative. `paper` runs in the cmaes package, because replay takes seconds;
tests/test_samplers.py shows that the draws are the same.

    --quick            two pools, one seed, without the slow samplers
    --cache FOLDER     keep trained pools there
    --seeds N  --pools TEXT,TEXT (only pools whose name contains one of them)
    --reseed N         add N to each pool's seed: pools for tuning, so that the reported ones stay unseen
    --demo             only the demo's pool, scored by lm-eval (minutes per search)
    --times            only the table of proposal times
"""

import argparse
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars

import numpy as np
import torch
from cmaes import CMA
from demo_landscape import SPEC, DemoLandscape
from landscapes import Landscape, PoolSpec
from machine import machine

from recycler.front import baselines, pareto
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.space import normalised
from recycler.nouns.trial import Proposal, State, Trial
from recycler.search.samplers import Proposer

POOLS = (
    PoolSpec("mlp-far-3", "mlp", 16, 3, 400, 250, 6.0),
    PoolSpec("mlp-close-3", "mlp", 16, 3, 400, 800, 0.7, seed=1),
    PoolSpec("mlp-far-5", "mlp", 16, 5, 400, 300, 6.0, seed=2),
    PoolSpec("mlp-close-5", "mlp", 16, 5, 100, 700, 1.0, seed=3),
    PoolSpec("mlp-far-2", "mlp", 16, 2, 100, 250, 5.0, seed=4),
    PoolSpec("conv-close-3", "conv", 16, 3, 400, 500, 1.0, seed=5),
    PoolSpec("conv-far-2", "conv", 16, 2, 400, 150, 5.0, seed=6),
    PoolSpec("attention-close-3", "transformer", 16, 3, 400, 600, 1.0, seed=7),
    PoolSpec("bytes-close-3", "bytes", 16, 3, 400, 3000, 1.0, "bits", seed=8),
    PoolSpec("bytes-far-3", "bytes", 16, 3, 400, 1500, 6.0, "bits", seed=9),
    PoolSpec("mlp-4-far-3", "mlp", 4, 3, 400, 250, 4.0, seed=11),
    PoolSpec("mlp-4-close-2", "mlp", 4, 2, 400, 800, 1.0, seed=12),
    PoolSpec("mlp-8-close-3", "mlp", 8, 3, 400, 500, 1.0, seed=14),
    PoolSpec("mlp-32-far-3", "mlp", 32, 3, 400, 250, 4.0, seed=15),
    PoolSpec("mlp-32-close-4", "mlp", 32, 4, 400, 800, 0.7, seed=16),
)
METHODS = (  # name, evaluations; the slow ones last
    ("auto", 50),
    ("auto", 200),
    ("paper", 50),
    ("paper", 200),
    ("dirichlet", 50),
    ("dirichlet", 200),
    ("sobol", 50),
    ("cmaes", 50),
    ("cmaes", 200),
    ("nsga2", 50),
    ("nsga2", 200),
    ("nsga3", 200),
    ("tpe", 50),
    ("gp", 50),
    ("nehvi", 50),
)
Array = np.ndarray
OPENED = (
    "auto",
    "surrogate",
)  # these start with the greedy path, as by default; the others do not
SLOW = ("gp", "nehvi", "tpe")


@dataclass(frozen=True, slots=True)
class Result:
    """Test scores of one search: averages of the picks, hypervolume; and seconds per proposal."""

    average: float
    by_means: float
    volume: float
    seconds: float


class Search:
    """One search on a landscape, without a ledger on disk."""

    def __init__(
        self, landscape: Landscape | DemoLandscape, sampler: str, evaluations: int, seed: int
    ) -> None:
        """Prepare the plan; `run` searches."""
        spec = landscape.spec
        self.landscape, self.sampler = landscape, sampler
        self.plan = Plan(
            name="bench",
            ingredients=tuple((f"w{i:02}", f"weight:{i:02}") for i in range(spec.n)),
            objectives=Objectives(
                tuple(Objective(f"f{j}", "value", spec.direction) for j in range(spec.m))
            ),
            sampler="dirichlet" if sampler in ("paper", "references") else sampler,
            evaluations=evaluations,
            greedy=sampler in OPENED,
            seed=seed,
        )
        self.trials: list[Trial] = []
        self.seconds: list[float] = []

    def run(self) -> "Search":
        own = self.plan.evaluations
        if self.sampler in ("paper", "references"):
            self.plan = replace(self.plan, evaluations=0)
        proposer = Proposer(self.plan)
        while True:
            corner = proposer.reference(self.trials)
            start = time.perf_counter()
            proposal = proposer.next(self.trials, corner)
            if proposal is None:
                break
            if proposal.kind == "search":
                self.seconds.append(time.perf_counter() - start)
            self._score(proposal)
        if self.sampler == "paper":
            self._paper(own)
        while self.sampler == "references" and (
            step := baselines.greedy_step(self.plan, self.trials, self.plan.n)
        ):
            self._score(step)
        return self

    def _score(self, proposal: Proposal) -> Array:
        rows = self.landscape.outcomes(np.array(proposal.recipe.vector(self.plan.names)), "dev")
        scores = {
            f"f{j}": Score(float(row.mean()), float(row.std(ddof=1) / np.sqrt(len(row))), len(row))
            for j, row in enumerate(rows)
        }
        self.trials.append(
            Trial(
                number=len(self.trials),
                kind=proposal.kind,
                name=proposal.name,
                recipe=proposal.recipe,
                notes=proposal.notes,
                state=State.COMPLETE,
                finished=len(self.trials),
                evaluations={"dev": Evaluation(split="dev", scores=scores)},
            )
        )
        return self.plan.objectives.gains([self.trials[-1].means("dev")])[0]

    def _paper(self, evaluations: int) -> None:
        n = self.plan.n
        scales, told = baselines.scales_of(self.plan, self.trials), []
        cma = CMA(
            mean=np.full(n, 1 / n),
            sigma=1.0,
            bounds=np.tile([0.0, 1.0], (n, 1)),
            seed=self.plan.seed,
            population_size=4 + int(3 * np.log(n)),
            n_max_resampling=10 * n,
        )
        for _ in range(evaluations):
            raw = cma.ask()
            recipe = self.plan.recipe(tuple(normalised(raw)))
            gains = self._score(Proposal(kind="search", name="paper", recipe=recipe))
            told.append((raw, -float((gains / scales).mean())))
            if len(told) == cma.population_size:
                cma.tell(told)
                told = []

    def judged(self) -> Result:
        """Test average of the pick and test hypervolume of the front."""
        dev = self.plan.objectives.gains([t.means("dev") for t in self.trials])
        members = np.flatnonzero(pareto.nondominated(dev))
        sign = 1.0 if self.landscape.spec.direction == "max" else -1.0
        test = np.array([self._test(self.trials[i]) for i in members]) * sign
        corner = Proposer(self.plan).reference(self.trials)
        assert corner is not None
        expected_gains = Proposer(self.plan).expected(self.trials, corner)
        pick = int(np.argmax([expected_gains[i].mean() for i in members]))
        plain = int(np.argmax(dev[members].mean(axis=1)))
        seconds = float(np.mean(self.seconds)) if self.seconds else 0.0
        return Result(
            average=float(test[pick].mean()),
            by_means=float(test[plain].mean()),
            volume=pareto.hypervolume(test, corner),
            seconds=seconds,
        )

    def greedy_average(self) -> float:
        """Test average, as a gain, of the greedy soup."""
        soup = baselines.greedy_soup(self.plan, self.trials)
        assert soup is not None
        sign = 1.0 if self.landscape.spec.direction == "max" else -1.0
        return sign * float(self._test(soup).mean())

    def _test(self, trial: Trial) -> Array:
        return self.landscape.score(np.array(trial.recipe.vector(self.plan.names)), "test")


Table = dict[tuple[str, str, int], Result]  # (pool, method, evaluations) -> mean over seeds


def mean_result(results: list[Result]) -> Result:
    """Mean of each field."""
    return Result(
        *(float(np.mean([getattr(r, f) for r in results])) for f in Result.__dataclass_fields__)
    )


def measure(pools: list[PoolSpec], methods: list, seeds: int, cache: Path) -> Table:
    """Run all searches and print one line per pool."""
    table: Table = {}
    for spec in pools:
        landscape = DemoLandscape(cache) if spec is SPEC else Landscape(spec, cache)
        known = Search(landscape, "references", 0, 0).run()
        table[spec.name, "references", 0] = known.judged()
        soup = known.greedy_average()
        table[spec.name, "greedy", 0] = replace(
            table[spec.name, "references", 0], average=soup, by_means=soup
        )
        for method, evaluations in methods:
            runs = [Search(landscape, method, evaluations, seed).run() for seed in range(seeds)]
            table[spec.name, method, evaluations] = mean_result([run.judged() for run in runs])
        _print_pool(spec, table)
    return table


def _print_pool(spec: PoolSpec, table: Table) -> None:
    volume = table[spec.name, "references", 0].volume
    greedy = table[spec.name, "greedy", 0].average
    parts = [
        f"{method}@{evaluations} {100 * (r.average - greedy):+.2f} {100 * (r.volume / volume - 1):+.0f}%"
        for (name, method, evaluations), r in table.items()
        if name == spec.name and evaluations
    ]
    print(f"{spec.name} (greedy {100 * greedy:.2f}): " + " | ".join(parts), flush=True)


def interval(differences: Array) -> str:
    """Mean ± half width of its 95 % interval (normal), and the number that are not negative."""
    k = len(differences)
    half = 1.96 * differences.std(ddof=1) / np.sqrt(k) if k > 1 else float("nan")
    return f"{differences.mean():+.2f} ± {half:.2f} ({int((differences >= 0).sum())} of {k})"


def compare(table: Table, pools: list[PoolSpec], a: tuple[str, int], b: tuple[str, int]) -> None:
    """One line: average of the pick [points] and hypervolume [%], a minus b; returns both."""
    if not all((p.name, *side) in table for p in pools for side in (a, b)) or not pools:
        return
    left = [table[p.name, *a] for p in pools]
    right = [table[p.name, *b] for p in pools]
    points, plain = (
        np.array([100 * (getattr(x, f) - getattr(y, f)) for x, y in zip(left, right, strict=True)])
        for f in ("average", "by_means")
    )
    volume = np.array([100 * (x.volume / y.volume - 1) for x, y in zip(left, right, strict=True)])
    one, other = (f"{m}@{e}" if e else m for m, e in (a, b))
    both = int(((points >= 0) & (volume >= 0)).sum())
    print(
        f"| {one} against {other} | {interval(points)} | {interval(plain)} | {interval(volume)} "
        f"| {both} of {len(points)} |"
    )


def report(table: Table, pools: list[PoolSpec]) -> None:
    """Print the comparisons, by size of the pools."""
    for n in sorted({p.n for p in pools}):
        some = [p for p in pools if p.n == n]
        print(
            f"\n| n = {n}, {len(some)} pools | average of the pick, points | of the pick by dev means "
            "| hypervolume, % | both not below |\n|---|---|---|---|---|"
        )
        compare(table, some, ("auto", 50), ("paper", 200))
        for evaluations in (50, 200):
            compare(table, some, ("auto", evaluations), ("references", 0))
            compare(table, some, ("auto", evaluations), ("greedy", 0))
            for other in sorted({m for _, m, e in table if e == evaluations} - {"auto"}):
                compare(table, some, ("auto", evaluations), (other, evaluations))
        compare(table, some, ("nehvi", 50), ("gp", 50))
        compare(table, some, ("nehvi", 50), ("nsga2", 200))


def proposal_times() -> None:
    """Seconds of one proposal of `auto`, n = 32, m = 4, from a ledger of random merges."""
    objectives = Objectives(tuple(Objective(f"f{j}", "value", "max") for j in range(4)))
    ingredients = tuple((f"w{i:02}", f"weight:{i:02}") for i in range(32))
    plan = Plan(
        name="times",
        ingredients=ingredients,
        objectives=objectives,
        sampler="auto",
        evaluations=600,
        greedy=False,
    )
    rng, proposer = np.random.default_rng(0), Proposer(plan)
    best = rng.dirichlet(np.ones(32), 4)
    rows = [*np.eye(32), np.full(32, 1 / 32), *rng.dirichlet(np.full(32, 0.3), 500)]
    kinds = ["single"] * 32 + ["uniform"] + ["search"] * 500
    trials = []
    for number, (kind, w) in enumerate(zip(kinds, rows, strict=True)):
        scores = {f"f{j}": Score(-float(((w - best[j]) ** 2).sum()), 0.01, 400) for j in range(4)}
        found = {"dev": Evaluation(split="dev", scores=scores)}
        recipe = plan.recipe(tuple(w))
        trials.append(
            Trial(
                number=number,
                kind=kind,
                name=kind,
                recipe=recipe,
                state=State.COMPLETE,
                evaluations=found,
            )
        )
    corner = proposer.reference(trials)
    merge_best = proposer.next(trials, corner)
    assert merge_best is not None
    scores = trials[-1].evaluations
    trials.insert(
        33, replace(trials[-1], kind="merge-best", recipe=merge_best.recipe, evaluations=scores)
    )
    print(
        "\n| trials | 50 | 100 | 200 | 500 |\n|---|---|---|---|---|\n| seconds per proposal |",
        end="",
    )
    for k in (50, 100, 200, 500):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            proposer.next(trials[:k], corner)
            times.append(time.perf_counter() - start)
        print(f" {min(times):.2f} |", end="")
    print("  n = 32, m = 4, one thread, best of three")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    parser.add_argument("--cache", type=Path, default=Path(home) / "recycler-bench")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pools", default="")
    parser.add_argument("--methods", default="", help="only these, such as auto:50,paper:200")
    parser.add_argument("--reseed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pools = [replace(p, seed=p.seed + options.reseed) for p in POOLS]
    pools = [p for p in pools if any(text in p.name for text in options.pools.split(","))]
    wanted = [word.split(":") for word in options.methods.split(",") if word]
    methods = [(name, int(evaluations)) for name, evaluations in wanted] or list(METHODS)
    if options.quick:
        pools, options.seeds = [p for p in pools if p.net == "mlp"][:2], 1
        methods = [(m, e) for m, e in methods if m not in SLOW]
    pools = [SPEC] if options.demo else pools
    if not options.times:
        report(measure(pools, methods, options.seeds, options.cache), pools)
    proposal_times()
    print(f"\nMeasured on: {machine()}.")


if __name__ == "__main__":
    main()
