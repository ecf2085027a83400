"""The bill of a study file before it runs; nothing is registered and no ledger is made."""

from collections.abc import Callable
from importlib import import_module as lazy

from recycler.checkpoints.folder import Checkpoint
from recycler.errors import NotFound
from recycler.front.bill import Bill, bill
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.plan import Plan
from recycler.nouns.status import Status
from recycler.nouns.trial import Trial
from recycler.store.sql import SqlStore
from recycler.submit.config import ExecutionSection, StudySource, read_document
from recycler.submit.submission import plan_of, pool_of, resumed
from recycler.submit.workspace import OnBytes, Workspace


class Unwritten(Workspace):
    """A workspace that is only read; an empty one in memory if there is no ledger.

    A checkpoint whose fingerprint the ledger does not know gets a stand-in: no scores of it are known
    either, and reading it in full is left to the run.
    """

    def __init__(self, url: str = "") -> None:
        try:
            super().__init__(url, create=False)
        except NotFound:
            self.url, self.store = "sqlite://", SqlStore("sqlite://")

    def fingerprint(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> str:
        stamp = checkpoint.stamp()
        return self.store.catalog.fingerprint(stamp) or f"unread:{stamp}"


def quote(
    file: StudySource,
    execution: ExecutionSection | None = None,
    url: str = "",
    *,
    replace: bool = False,
    tell: Callable[[int, int], object] = lambda done, all_: None,
) -> Bill:
    """Time one merge and some items on this machine, and add up what the study has left to pay.

    Args:
        file: a study file, or its document.
        execution: where the study is to run; its workers and device count.
        url: the ledger; default: the one that `recycler run` would use.
        replace: as for a study that is started anew.
        tell: called with the number of finished measurements and that of all.

    Raises:
        Conflict: the ledger has a study of that name with other settings, as `recycler run` says.
    """
    document = read_document(file)
    config, root = document.config, document.root
    run_on = execution or config.execution
    workspace = Unwritten(url)
    try:
        pool = pool_of(workspace, config, root)
        plan = plan_of(workspace, pool, config, root)
        trials, complete = ([], False) if replace else _progress(workspace, plan)
        factory = lazy("recycler.execute.scorer").MergeScorerFactory(
            pool=pool,
            objectives=plan.objectives,
            evaluator=plan.evaluator,
            items=plan.items,
            dtype=plan.dtype,
            device=run_on.device,
        )
        rates, sizes = lazy("recycler.execute.timing").timed(factory, plan, tell)
        known = _known(workspace, plan)
        return bill(plan, sizes, rates, run_on.workers, trials, known, complete)
    finally:
        workspace.store.close()


def _progress(workspace: Workspace, plan: Plan) -> tuple[list[Trial], bool]:
    """Trials of the study so far, and whether it is complete with this budget.

    Raises:
        Conflict: `recycler run` would refuse the file, because the study has other settings.
    """
    store = workspace.store
    status = {row["name"]: row["status"] for row in store.studies()}.get(plan.name)
    if status is None:
        return [], False
    old, trials = store.plan(plan.name), list(store.trials(plan.name))
    resumed(old, plan, trials, store.where)
    return trials, status == Status.COMPLETE and old.evaluations == plan.evaluations


def _known(workspace: Workspace, plan: Plan) -> dict[tuple[str, str], frozenset[str]]:
    """(recipe id, split) -> objectives with known scores, for singles, uniform and references."""
    n = plan.n
    corners = [[float(i == j) for j in range(n)] for i in range(n)] + [[1 / n] * n]
    ids = [plan.recipe(weights).id for weights in corners]
    ids += [entry.recipe.id for entry in plan.references]
    measures = plan.measure_ids
    return {
        (id_, split): workspace.store.known(id_, split, measures)
        for id_ in ids
        for split in SPLITS
    }
