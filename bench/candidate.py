"""Overhead of one candidate besides merge and forward passes, against merge-to-disk + simple_evaluate.

Both run on the demo's pool and its three objectives on dev items, in one process on one thread. All means
must agree; then both are timed. Run: `python bench/candidate.py`.
"""

import statistics
import tempfile
import time
from pathlib import Path

from recycler.environment import prepare

prepare()

import lm_eval  # noqa: E402
import numpy as np  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from machine import machine  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from recycler.checkpoints.pool import Pool  # noqa: E402
from recycler.demo.walkthrough import HERE, STUDY  # noqa: E402
from recycler.evaluate.tasks import load_tasks  # noqa: E402
from recycler.export import write_folder  # noqa: E402
from recycler.nouns.trial import Job  # noqa: E402
from recycler.study import Study  # noqa: E402
from recycler.submit.config import read_study  # noqa: E402
from recycler.submit.submission import plan_of, register  # noqa: E402
from recycler.submit.workspace import Workspace  # noqa: E402

ROUNDS = 5


def main() -> None:
    """Check that both agree, then time them."""
    folder = Path(tempfile.mkdtemp(prefix="recycler-bench-"))
    workspace = Workspace(str(folder / "ledger.db"))
    config, pool = read_study(STUDY), Pool.from_yaml(HERE / "pool.yaml")
    plan = register(workspace, plan_of(workspace, pool, config, HERE), pool)
    scorer = Study(plan.name, workspace).scorer_factory()()
    names = tuple(o.name for o in plan.objectives.searched)
    forward = 0.0

    def before(*_):
        nonlocal forward
        forward -= time.perf_counter()

    def after(*_):
        nonlocal forward
        forward += time.perf_counter()

    model = scorer._resident.model
    model.register_forward_pre_hook(before)
    model.register_forward_hook(after)
    rng = np.random.default_rng(0)
    ours, overhead, theirs = [], [], []
    for number in range(ROUNDS + 1):
        recipe = plan.recipe(tuple(rng.dirichlet(np.ones(plan.n))))
        forward, start = 0.0, time.perf_counter()
        evaluation = scorer(Job(number, recipe, "dev", names))
        spent = time.perf_counter() - start
        start = time.perf_counter()
        results = naive(recipe, pool, plan, scorer, folder / f"merge-{number}", names)
        if number:  # the first round builds the requests
            ours.append(spent)
            overhead.append(spent - forward - evaluation.seconds["merge"])
            theirs.append(time.perf_counter() - start)
        for name in names:
            assert abs(results[name] - evaluation.scores[name].mean) < 1e-6, (
                name,
                results,
                evaluation.scores,
            )
    print(f"recycler: {statistics.median(ours):.2f} s per candidate; merge to disk + simple_evaluate: "
          f"{statistics.median(theirs):.2f} s ({statistics.median(theirs) / statistics.median(ours):.1f} x)")  # fmt: skip
    print(f"outside merge and forward passes: {1000 * statistics.median(overhead):.0f} ms, of which tokenizing, "
          "batching and scoring inside lm-eval is the most")  # fmt: skip
    print(f"Measured on: {machine()}")


def naive(recipe, pool, plan, scorer, out: Path, names) -> dict[str, float]:
    """The plain way: write the merge, load it, build the tasks and call simple_evaluate."""
    write_folder(recipe, pool, pool.checkpoints[0], out)
    wanted = {plan.objectives[name].task: plan.objectives[name] for name in names}
    root = Path(plan.evaluator["root"])
    tasks = load_tasks(wanted, root / plan.evaluator["tasks"], root, allow_unsafe=False)
    evaluator = scorer._evaluator
    model = AutoModelForCausalLM.from_pretrained(out)
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(out), device="cpu",
              batch_size=plan.evaluator["batch_size"], max_length=plan.evaluator["max_length"])  # fmt: skip
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[tasks[task].task for task in wanted],
        samples={task: sorted(evaluator._splits[task]["dev"]) for task in wanted},
        task_manager=TaskManager(include_defaults=False),
    )
    return {o.name: results["results"][task][f"{o.metric},none"] for task, o in wanted.items()}


if __name__ == "__main__":
    main()
