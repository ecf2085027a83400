"""A workspace: one ledger with its pools and fingerprints, and the executors of its runs."""

from collections.abc import Callable, Mapping
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import Conflict, Mismatch, NotFound
from recycler.evaluate.measure import model_digests
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import State
from recycler.protocols import Executor, ScorerFactory
from recycler.registry import resolve
from recycler.settings import checked
from recycler.store.sql import SqlStore
from recycler.submit.config import ExecutionSection
from recycler.submit.ledger import find_ledger

EXECUTORS = {
    "inline": "recycler.execute.inline:Inline",
    "ray": "recycler.execute.ray_workers:RayWorkers",
}
# Called with (checkpoint name, bytes just read, total bytes) while fingerprints are computed.
OnBytes = Callable[[str, int, int], object]


class Workspace:
    """Pools and studies behind one ledger.

    The ledger is the one given, else RECYCLER_STORE, else `.recycler/ledger.db` in this folder or
    the nearest parent of the user's that has one, else a new one in this folder.
    """

    def __init__(
        self, url: str = "", *, create: bool = True, store: SqlStore | None = None
    ) -> None:
        """Open or make the ledger.

        Args:
            url: database URL, or a path to an SQLite file.
            create: whether a missing ledger is created; if not, NotFound is raised.
            store: the ledger, if it is open already.
        """
        self.url = find_ledger(url, create)
        self.store = store or SqlStore(self.url)

    # --- pools ---

    def add_pool(self, pool: Pool, on_bytes: OnBytes | None = None, replace: bool = False) -> None:
        """Check a pool, compute its fingerprints and register it."""
        pool.require_mergeable()
        self.store.catalog.add_pool(pool.name, self.spec(pool, on_bytes), replace)

    def spec(self, pool: Pool, on_bytes: OnBytes | None = None) -> dict[str, Any]:
        """A pool as the registry stores it: paths, fingerprints and metadata of each checkpoint."""
        return {
            "checkpoints": [self._spec(c, on_bytes) for c in pool.checkpoints],
            "base": self._spec(pool.base, on_bytes) if pool.base else None,
        }

    def pool(self, name: str) -> Pool:
        """A registered pool, with its folders opened again."""
        spec = self.store.catalog.pool(name)
        return Pool.from_entries(
            name,
            [_entry(entry) for entry in spec["checkpoints"]],
            spec["base"] and _entry(spec["base"]),
        )

    def remove_pool(self, name: str) -> None:
        """Remove a pool from the registry; its folders stay.

        Raises:
            NotFound: there is no such pool.
            Conflict: a study of this ledger searches these checkpoints.
        """
        spec = self.store.catalog.pool(name)
        found = {(entry["name"], entry["fingerprint"]) for entry in spec["checkpoints"]}
        for row in self.store.studies():
            study = row["name"]
            if name == pool_name(study) or {*self.store.plan(study).ingredients} == found:
                raise Conflict(
                    f"pool {name!r} is in use by study {study!r}.",
                    hint=f"delete the study first: `recycler rm {study}`.",
                )
        self.store.catalog.remove_pool(name)

    def fingerprint(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> str:
        """The checkpoint's fingerprint, from the ledger unless a file was touched since."""
        stamp = checkpoint.stamp()
        known = self.store.catalog.fingerprint(stamp)
        if known is None:
            tell = on_bytes or (lambda name, count, total: None)
            known = checkpoint.fingerprint(
                lambda count: tell(checkpoint.name, count, checkpoint.nbytes)
            )
            self.store.catalog.remember_fingerprint(stamp, known)
        return known

    # --- studies ---

    def remove_study(self, study: str) -> dict[str, Any]:
        """Delete a study and its pool's entry; its evaluations stay for other studies.

        Returns:
            `{"study", "trials": number of trials deleted}`.

        Raises:
            NotFound: there is no such study.
            Conflict: a living process runs it.
        """
        deleted = self.trial_count(study)
        self.store.delete_study(study)
        self.store.catalog.remove_pool(pool_name(study))
        return {"study": study, "trials": deleted}

    def trial_count(self, study: str) -> int:
        """Number of trials of a study, in any state; Conflict if a living process runs it."""
        status = self.store.status(study)
        if status["alive"]:
            raise Conflict(
                f"study {study!r} is being run by {status['holder']}.",
                hint=f"stop it first: `recycler stop {study}`.",
            )
        return sum(status[str(state)] for state in State)

    def study_pool(self, study: str) -> Pool:
        """The pool that a study was submitted with; its files must still be the same.

        Raises:
            Mismatch: a checkpoint's bytes changed since.
        """
        plan, pool = self.store.plan(study), self.pool(pool_name(study))
        wanted = dict([*plan.ingredients, *([plan.base] if plan.base else [])])
        for checkpoint in pool.everything:
            if self.fingerprint(checkpoint) != wanted.get(checkpoint.name):
                raise Mismatch(
                    f"checkpoint {checkpoint.name!r} at {checkpoint.path} is not the one that study "
                    f"{study!r} was made with.",
                    hint="restore the folder, or start a study with another name.",
                )
        return pool

    def study_models(self, study: str) -> dict[str, Checkpoint]:
        """Recipe id -> folder of each reference of a study that is a model.

        Raises:
            Mismatch: its weights, config or tokenizer changed since the study was submitted.
        """
        wanted = {r.name: r.recipe for r in self.store.plan(study).references if r.recipe.is_model}
        found = {}
        for spec in self.store.catalog.pool(pool_name(study)).get("references", ()):
            if spec["name"] not in wanted:
                continue
            model = Checkpoint.open(spec["path"], spec["name"])
            now = Recipe.of_model(model.name, self.fingerprint(model), model_digests(model.path))
            if now.id != wanted[model.name].id:
                raise Mismatch(
                    f"reference {model.name!r} at {model.path} is not the one that study {study!r} "
                    "was made with.",
                    hint="restore the folder, or run the study file again: it takes the new one as "
                    "another reference.",
                )
            found[now.id] = model
        for name in wanted.keys() - {model.name for model in found.values()}:
            raise NotFound(
                f"the ledger does not know the folder of reference {name!r} of study {study!r}.",
                hint="run the study file once more: it registers the folder.",
            )
        return found

    def executor(self, factory: ScorerFactory, execution: ExecutionSection) -> Executor:
        """The executor that runs a study's jobs."""
        make, settings = executor_of(execution)
        made: Executor = make(factory, settings)
        return made

    def _spec(self, checkpoint: Checkpoint, on_bytes: OnBytes | None) -> dict[str, Any]:
        return {
            "name": checkpoint.name,
            "path": str(checkpoint.path),
            "fingerprint": self.fingerprint(checkpoint, on_bytes),
            "about": dict(checkpoint.about),
        }


def _entry(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": spec["name"], "path": spec["path"], **spec["about"]}


def pool_name(study: str) -> str:
    """Name under which the registry keeps the pool of a study."""
    return f"study:{study}"


def executor_of(execution: ExecutionSection) -> tuple[Any, Any]:
    """The executor class and its settings; Ray if more than one local worker is asked for.

    Raises:
        InvalidConfig: there is no such executor, or it does not take one of the settings.
    """
    own = execution.own()
    name = execution.executor or ("inline" if own == {"workers": 1} else "ray")
    make = resolve("executor", name, EXECUTORS)
    return make, checked(make.Settings, own, f"execution (executor {name})")
