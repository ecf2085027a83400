"""Time and memory of reading large studies: what a page or a report asks of a ledger of thousands of trials.

The ledger is made through the store's own functions, without models: three searched objectives and one that
is held out, each with real outcomes of ITEMS items per split, a part of them paired between merges as those
of models are. All trials are scored on dev items; a re-checked study has its finalists on select and its
front on test items too.

Each part runs in a process of its own, so that its time is cold and its memory is its own.

Run: python bench/large_study.py [--trials 2000 5000] [--part NAME ...]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine

from recycler.front.results import Results
from recycler.front.scale import steps
from recycler.front.stages import due
from recycler.nouns.evaluation import Evaluation, Outcomes
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.status import Status
from recycler.nouns.trial import Kind, Proposal
from recycler.store.sql import SqlStore
from recycler.watching import Watcher

NAME, N, ITEMS = "large", 8, 200
OBJECTIVES = Objectives(
    (
        Objective("code", "acc"),
        Objective("maths", "exact_match"),
        Objective("prose", "bits_per_byte"),
        Objective("law", "acc", held_out=True),
    )
)


def plan_of(trials: int) -> Plan:
    """A study of N checkpoints whose sampler made all trials but the baselines."""
    return Plan(
        name=NAME,
        ingredients=tuple((f"checkpoint-{i}", f"sha256:{i:064}") for i in range(N)),
        objectives=OBJECTIVES,
        evaluations=trials - N - 2,
        greedy=False,
        measures={o.name: {"task": o.name, "evaluator": "bench"} for o in OBJECTIVES},
    )


class Landscape:
    """Outcomes of merges: a bowl for each objective, and items of different difficulty."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.best = {o.name: rng.dirichlet(np.ones(N)) for o in OBJECTIVES}
        self.hard = {
            (o.name, s): rng.normal(0, 1, ITEMS)
            for o in OBJECTIVES
            for s in ("dev", "select", "test")
        }
        self.bytes = tuple(rng.integers(50, 900, ITEMS).astype(float).tolist())

    def evaluation(self, recipe: Recipe, split: str) -> Evaluation:
        """Score a merge; the luck of its items is a function of its id."""
        rng = np.random.default_rng(int(recipe.id, 16))
        w = np.array(recipe.vector([f"checkpoint-{i}" for i in range(N)]))
        found = {}
        for o in OBJECTIVES:
            if o.held_out and split == "dev":
                continue
            skill = 1.0 - 3.0 * float(((w - self.best[o.name]) ** 2).sum())
            at = skill + self.hard[o.name, split] + rng.normal(0, 0.3, ITEMS)
            if o.metric == "bits_per_byte":
                found[o.name] = Outcomes(
                    tuple(range(ITEMS)), tuple((1.5 - 0.2 * at).tolist()), self.bytes
                )
            else:
                right = tuple((at > 0.3).astype(float).tolist())
                found[o.name] = Outcomes(tuple(range(ITEMS)), right)
        scores = {name: outcomes.score() for name, outcomes in found.items()}
        return Evaluation(split=split, scores=scores, outcomes=found, seconds={"evaluate": 1.25})


def large(folder: Path, trials: int, rechecked: bool = True) -> str:
    """Make a ledger with the study NAME of so many complete trials; return its URL.

    Args:
        folder: an existing folder.
        trials: number of trials, N + 2 or more.
        rechecked: whether finalists are scored on select and test items, and the study is complete.
    """
    url = f"sqlite:///{folder / f'large-{trials}-{rechecked}.db'}"
    store, plan, land = SqlStore(url), plan_of(trials), Landscape()
    store.create_study(plan)
    rng = np.random.default_rng(1)
    known = {s: {} for s in ("dev", "select", "test")}
    with store.hold(NAME):
        store.set_status(NAME, Status.RUNNING)
        for number in range(trials):
            proposal = _proposal(plan, number, rng)
            store.start(NAME, proposal)
            found = land.evaluation(proposal.recipe, "dev")
            trial = store.record(NAME, number, found, measures=plan.measure_ids)
            known["dev"][number] = trial
            if number == N - 1:
                gains = OBJECTIVES.gains([t.means("dev") for t in known["dev"].values()])
                store.set_reference(NAME, gains.min(axis=0) - 0.05, steps(OBJECTIVES, gains))
        if rechecked:
            corner = np.array(store.status(NAME)["reference"])
            for split in ("select", "test"):
                for trial in due(plan, store.trials(NAME), split, corner):
                    found = land.evaluation(trial.recipe, split)
                    store.record(NAME, trial.number, found, measures=plan.measure_ids)
            store.set_status(NAME, Status.COMPLETE)
    store.close()
    return url


def _proposal(plan: Plan, number: int, rng: np.random.Generator) -> Proposal:
    if number < N:
        one = tuple(float(i == number) for i in range(N))
        return Proposal(
            kind=Kind.SINGLE, name=f"single:checkpoint-{number}", recipe=plan.recipe(one)
        )
    if number == N:
        return Proposal(kind=Kind.UNIFORM, name="uniform", recipe=plan.recipe((1.0 / N,) * N))
    w = rng.dirichlet(np.full(N, 0.3 + number % 4))
    return Proposal(
        kind=Kind.SEARCH, name=f"search {number - N}", recipe=plan.recipe(tuple(w.tolist()))
    )


# --- what is measured: each is given the URL of a ledger ---


def _read(url: str) -> Callable[[], object]:
    return lambda: SqlStore(url).read(NAME)


def _trials(url: str) -> Callable[[], object]:
    return lambda: SqlStore(url).trials(NAME)


def _front(url: str) -> Callable[[], object]:
    return lambda: Results.read(SqlStore(url), NAME).front_json()


def _prepared(what: Callable[[Results], object]) -> Callable[[str], Callable[[], object]]:
    """A part that begins with results that were read before."""

    def part(url: str) -> Callable[[], object]:
        results = Results.read(SqlStore(url), NAME)
        return lambda: what(results)

    return part


def _compared(results: Results) -> object:
    from recycler.front.compare import compare

    pick = results.choice.pick.number
    return compare(results, [str(pick), "uniform"]).to_json()


def _foreseen(results: Results) -> object:
    from recycler.front.prediction import Forecaster

    middle = results.plan.recipe((0.5, 0.5) + (0.0,) * (N - 2))
    return Forecaster(results).at(middle).to_json()


def _figures(results: Results) -> object:
    from recycler.report.figures import front_figure, parallel_figure
    from recycler.report.volume import trace_figure
    from recycler.report.weights import weights_figure

    made = (front_figure, parallel_figure, trace_figure, weights_figure)
    return [make(results).to_json() for make in made]


def _all_trials(results: Results) -> object:
    return json.dumps([results.trial_json(t.number) for t in results.trials])


def _look(url: str) -> Callable[[], object]:
    return lambda: Watcher(SqlStore(url), NAME).look()


def _looks(url: str) -> Callable[[], object]:
    """A look after one more trial."""
    store = SqlStore(url)
    watcher = Watcher(store, NAME)
    watcher.look()
    store.set_status(NAME, Status.RUNNING)
    one_more(store)
    return watcher.look


def one_more(store: SqlStore) -> None:
    """Add a complete trial to the study NAME, as the process that runs it does."""
    plan, number = store.plan(NAME), len(store.trials(NAME))
    proposal = _proposal(plan, number, np.random.default_rng([number, 7]))
    store.start(NAME, proposal)
    found = Landscape().evaluation(proposal.recipe, "dev")
    store.record(NAME, number, found, measures=plan.measure_ids)


PARTS: dict[str, Callable[[str], Callable[[], object]]] = {
    "store.trials": _trials,
    "store.read": _read,
    "Results.read and front_json": _front,
    "expected gains": _prepared(lambda results: results.expected("dev")),
    "front": _prepared(lambda results: results.front),
    "choice": _prepared(lambda results: results.choice),
    "decision": _prepared(lambda results: results.decision),
    "trial_json of one trial": _prepared(lambda results: results.trial_json(100)),
    "trial_json of all trials": _prepared(_all_trials),
    "comparison with a baseline": _prepared(_compared),
    "prediction of one merge": _prepared(_foreseen),
    "figures of the report": _prepared(_figures),
    "first look of a watcher": _look,
    "look after one more trial": _looks,
}


def measured(url: str, part: str) -> dict[str, float]:
    """Run a part here; seconds, CPU seconds, and the largest memory of this process [MB]."""
    work = PARTS[part](url)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        work()
    except Exception as error:  # a part that refuses large studies is reported as such
        return {"error": type(error).__name__}
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(urls: dict[str, str], parts: list[str]) -> None:
    """Measure every part on every ledger, each in a process of its own, and print a table."""
    print(f"| seconds (peak MB) | {' | '.join(urls)} |\n|---|{'---|' * len(urls)}")
    for part in parts:
        cells = []
        for url in urls.values():
            command = [sys.executable, __file__, "--one", part, url]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            cells.append(found.get("error") or f"{found['wall']:.3f} ({found['memory']:.0f})")
        print(f"| {part} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one[1], asked.one[0])))
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        urls = {}
        for trials in asked.trials:
            for rechecked in (False, True):
                start = time.perf_counter()
                name = f"{trials}, {'complete' if rechecked else 'searching'}"
                urls[name] = large(Path(folder), trials, rechecked)
                print(f"built {name}: {time.perf_counter() - start:.0f} s")
        table(urls, asked.part)


if __name__ == "__main__":
    main()
