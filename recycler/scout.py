"""Scouting: the single checkpoints on all tasks of a study file, before any merge is paid for.

The scores are those of the study itself: same recipes, measures and items. So `recycler run` of the
same file does not pay for them again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recycler.checkpoints.pool import Pool
from recycler.errors import Conflict, InvalidConfig
from recycler.evaluate.kinds import make_evaluator
from recycler.front import baselines
from recycler.front.results import Results
from recycler.front.scouting import Scouting, scouting
from recycler.front.stages import Expected
from recycler.loop import Listener, Progress
from recycler.nouns.objectives import Array, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Proposal, Trial
from recycler.protocols import Executor
from recycler.runs import run_study
from recycler.study import Study
from recycler.submit.config import ExecutionSection, StudyFile, StudySource, read_document
from recycler.submit.submission import measures, plan_of, pool_of, register
from recycler.submit.workspace import OnBytes, Workspace

SUFFIX = "-scout"  # the scores of study NAME's singles are kept as study NAME-scout


class Singles:
    """The source of proposals that yields only the single checkpoints (see `loop.Source`)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def next(self, trials: Sequence[Trial], reference: Sequence[float] | None) -> Proposal | None:
        """Return the next single that is not in the ledger; None after the last."""
        known = {trial.recipe.id for trial in trials}
        listed = zip(range(self.plan.n), baselines.proposals(self.plan, ()), strict=False)
        return next((p for _, p in listed if p.recipe.id not in known), None)

    def reference(self, trials: Sequence[Trial]) -> Array | None:
        return None

    def references(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        return baselines.scored(self.plan, trials)

    def expected(self, trials: Sequence[Trial], reference: Sequence[float]) -> Expected:
        return {}

    def predicted(
        self, trials: Sequence[Trial], reference: Sequence[float], recipe: Recipe
    ) -> tuple[Array, Array] | None:
        return None


def scout(
    workspace: Workspace,
    file: StudySource,
    execution: ExecutionSection | None = None,
    listen: Listener = lambda progress: None,
    on_bytes: OnBytes | None = None,
) -> Scouting:
    """Score the single checkpoints on the dev items of all tasks of a study file, and analyse them.

    Scores that the ledger has are not computed again.

    Args:
        workspace: the ledger.
        file: a study file or its document; `objectives`, `held_out` and `candidates` are scored.
        execution: where to run; default: as the file says.
        listen: called after each event.
        on_bytes: called with the bytes read while fingerprints are computed.

    Raises:
        InvalidConfig: one checkpoint, no task, or a candidate that changes the items of another.
        Conflict: the study `NAME-scout` holds something else, or a living process runs it.
        Incompatible: the checkpoints can't be merged.
        StudyFailed: fewer than two checkpoints could be scored.
    """
    document = read_document(file)
    config, root = document.config, document.root
    pool = pool_of(workspace, config, root)
    if pool.n < 2:
        raise InvalidConfig(
            f"the pool of study {config.study!r} has one checkpoint, {pool.names[0]!r}: there is "
            "nothing to compare.",
            hint="list at least two under `pool:`; rank correlations need three.",
        )
    _require_tasks(config)
    plan = _plan(workspace, pool, config, root, on_bytes)
    again = _replaceable(workspace, plan)
    plan = register(workspace, plan, pool, on_bytes, replace=again)
    study, run_on = Study(plan.name, workspace), execution or config.execution

    def executor() -> Executor:
        return workspace.executor(study.scorer_factory(run_on.device), run_on)

    def tell(progress: Progress) -> None:
        listen(replace(progress, total=plan.n))

    run_study(plan, workspace.store, Singles(plan), executor, tell, phases=())
    chances = _chances(plan, str(pool.checkpoints[0].path))
    found = scouting(Results.read(workspace.store, plan.name), config.roles, chances)
    return replace(found, study=config.study)


def _require_tasks(config: StudyFile) -> None:
    every = [*config.objectives, *config.held_out, *config.candidates]
    if all(entry.metric.startswith("merge.") for entry in every):
        raise InvalidConfig(
            f"study {config.study!r} has no task: all objectives are properties of the merge.",
            hint="list tasks under `objectives:`, `held_out:` or `candidates:`.",
        )


def _plan(
    workspace: Workspace, pool: Pool, config: StudyFile, root: Path, on_bytes: OnBytes | None
) -> Plan:
    """The plan of the singles on all tasks, with the measures of the study itself."""
    every = [*config.objectives, *config.held_out, *config.candidates]
    search = {"racing": False, "space": {}, "warm_start": [], "evaluations": 0, "stop_gain": 0.0}
    singles = config.model_copy(
        update={
            "study": config.study + SUFFIX,
            "objectives": [entry.model_copy(update={"floor": None}) for entry in every],
            "held_out": [],
            "references": [],
            "search": config.search.model_copy(update=search),
        }
    )
    plan = plan_of(workspace, pool, singles, root, on_bytes)
    if config.candidates:
        base = plan.base[1] if plan.base else ""
        own = measures(config.asked_objectives(), plan.evaluator, plan.items, pool, base)
        _require_equal(plan, own, [entry.name for entry in config.candidates])
    return plan


def _require_equal(
    plan: Plan, own: Mapping[str, Mapping[str, Any]], candidates: list[str]
) -> None:
    """Raise InvalidConfig if a candidate changes what another objective is scored on."""
    for name, parts in own.items():
        if parts != plan.measures[name]:
            task = plan.objectives[name].task
            same = [c for c in candidates if plan.objectives[c].task == task]
            raise InvalidConfig(
                f"candidate {(same or candidates)[0]!r} changes the items of objective {name!r}: "
                f"both are metrics of task {task!r}, with different settings.",
                hint=f"give both the same `cluster`, or leave {(same or candidates)[0]!r} out.",
            )


def _replaceable(workspace: Workspace, plan: Plan) -> bool:
    """Whether an earlier scouting of other tasks is in the way; its scores stay in the ledger.

    Raises:
        Conflict: the study of that name is no scouting.
    """
    store = workspace.store
    if plan.name not in {row["name"] for row in store.studies()}:
        return False
    old = store.plan(plan.name)
    if old.evaluations or any(trial.kind != "single" for trial in store.trials(plan.name)):
        raise Conflict(
            f"there is already a study {plan.name!r}, and it holds merges; the scores of the single "
            "checkpoints are kept under this name.",
            hint="give the study file another name with `study:`.",
        )
    return bool(old.changes(plan))


def _chances(plan: Plan, tokenizer: str) -> Mapping[str, float]:
    """Objective -> score of guessing, if the evaluator knows it."""
    measured = Objectives(tuple(o for o in plan.objectives if not o.of_merge))
    evaluator = make_evaluator(plan.evaluator, measured, plan.items, tokenizer)
    known = getattr(evaluator, "chances", None)
    return known() if known else {}
