"""`search`: a whole study over any function of the weights, without models."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig
from recycler.evaluate.results import evaluation_of, read_values
from recycler.execute.inline import Inline
from recycler.front.front import Front
from recycler.front.racing import settings_of
from recycler.front.results import Results
from recycler.loop import Listener
from recycler.nouns.evaluation import Evaluation
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import WHOLE, Job
from recycler.protocols import Scorer
from recycler.runs import run_study
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore


def search(
    function: Callable[[Array], Any],
    n: int,
    directions: Sequence[str],
    *,
    sampler: str = "auto",
    evaluations: int = 50,
    seed: int = 0,
    names: Sequence[str] = (),
    store: str = "sqlite://",
    study: str = "search",
    greedy: bool = True,
    racing: bool | Mapping[str, Any] = False,
    settings: Mapping[str, Any] | None = None,
    listen: Listener = lambda progress: None,
) -> Front:
    """Search the weight simplex for the Pareto front of any function.

    Args:
        function: takes the (n,) weights, a one-dimensional array that sums to 1, and returns one
            entry per objective: a mean, a tuple (mean, stderr), or item values as a list or array
            (the same items in every call). With one direction, the bare mean or tuple will do.
        n: number of checkpoints.
        directions: `max` or `min` for each of the m objectives.
        sampler: name of a sampler.
        evaluations: budget, not counting the n singles (one-hot), uniform and merge-best.
        seed: random seed of the proposals.
        names: names of the checkpoints; `w0`, `w1`, … by default.
        store: database URL. A search in a file resumes where it was stopped.
        study: name of the study in the store.
        greedy: start with the greedy-soup path; it is part of the budget.
        racing: stop candidates early (see `racing`). The function is then also called with
            `part=(start, stop)`, shares of the ordered items, and returns the values of that part.
        settings: settings of the sampler.
        listen: called after each evaluation.

    Returns:
        The front by the scores that the search saw; `front.trials[i].recipe.vector(names)` has the
        weights. Its picks use expected gains (see `front.expectation`). With racing, membership uses
        them too, and the scores of members that were stopped early are estimates.
    """
    labels = tuple(names) or tuple(f"w{i}" for i in range(n))
    if len(labels) != n or n < 1 or not directions:
        raise InvalidConfig(
            f"{len(labels)} names for n = {n}, {len(directions)} directions.",
            hint="give one name per checkpoint and one direction per objective.",
        )
    objectives = Objectives(
        tuple(Objective(f"f{j}", "value", way) for j, way in enumerate(directions))
    )
    plan = Plan(
        name=study,
        ingredients=tuple((label, f"weight:{label}") for label in labels),
        objectives=objectives,
        sampler=sampler,
        settings=dict(settings or {}),
        evaluations=evaluations,
        greedy=greedy,
        seed=seed,
        racing=settings_of(racing),
        evaluator={"kind": "function"},
    )
    if plan.racing:
        _require_parts(function)
    proposer = Proposer(plan)
    ledger = SqlStore(store)
    _register(ledger, plan)
    inline = Inline(lambda: _scorer(function, plan))
    run_study(ledger.plan(study), ledger, proposer, lambda: inline, listen, phases=())
    return Results.read(ledger, plan.name).front


def _require_parts(function: Callable[..., Any]) -> None:
    """Raise InvalidConfig unless the function takes `part`."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # no signature, as for a function written in C: the first call decides
        return
    try:
        signature.bind(np.ones(1), part=WHOLE)
    except TypeError as error:
        raise InvalidConfig(
            f"racing calls the function with `part`, which it does not take: {error}.",
            hint="accept `part=(start, stop)`, shares of the ordered items, and return the values of "
            "these items.",
        ) from None


def _register(ledger: SqlStore, plan: Plan) -> None:
    if plan.name not in [row["name"] for row in ledger.studies()]:
        ledger.create_study(plan)
        return
    changes = ledger.plan(plan.name).changes(plan)
    changes.pop("evaluations", None)
    if changes:
        raise InvalidConfig(
            f"the store has a search {plan.name!r} with another {next(iter(changes))}.",
            hint="give it another name with `study=`.",
        )
    ledger.extend(plan.name, plan.evaluations)


def _scorer(function: Callable[..., Any], plan: Plan) -> Scorer:
    def score(job: Job) -> Evaluation:
        parted = {} if job.part == WHOLE else {"part": job.part}
        returned = function(np.array(job.recipe.vector(plan.names)), **parted)
        entries = _entries(returned, plan.objectives.m)
        values = {o.name: read_values(v) for o, v in zip(plan.objectives, entries, strict=True)}
        return evaluation_of(job, values, "", {})

    return score


def _entries(returned: Any, m: int) -> Sequence[Any]:
    """Return what the function returned as a sequence of one entry per objective."""
    alone = np.ndim(returned) == 0 if not isinstance(returned, Sequence) else False
    pair = isinstance(returned, tuple) and len(returned) == 2
    if m == 1 and (alone or pair):
        return [returned]
    if alone or len(returned) != m:
        raise InvalidConfig(
            f"the function returned {1 if alone else len(returned)} values for {m} objectives.",
            hint="return one entry per objective.",
        )
    entries: Sequence[Any] = returned
    return entries
