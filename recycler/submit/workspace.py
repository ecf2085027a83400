"""The composition root: one folder with its ledger, and who plays each part of a study.

Everything that needs to know concrete stores, samplers, executors and evaluators is here.
May import: all of recycler but study, cli, service, demo.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import Conflict, InvalidConfig, Mismatch
from recycler.front.racing import settings_of
from recycler.front.stages import AHEAD
from recycler.nouns import space
from recycler.nouns.layers import places
from recycler.nouns.plan import Plan
from recycler.protocols import Executor, ScorerFactory
from recycler.registry import resolve
from recycler.search.samplers import SAMPLERS
from recycler.search.warm import Earlier, recipes
from recycler.settings import checked
from recycler.store.sql import SqlStore
from recycler.submit.config import ExecutionSection, StudyFile, read_study
from recycler.submit.ledger import find_ledger

EXECUTORS = {
    "inline": "recycler.execute.inline:Inline",
    "ray": "recycler.execute.ray_workers:RayWorkers",
}
# Called with (name of the checkpoint, bytes just read, bytes in all) while fingerprints are made.
OnBytes = Callable[[str, int, int], object]


class Workspace:
    """Pools and studies behind one ledger.

    The ledger is that of the argument, else of RECYCLER_STORE, else `.recycler/ledger.db` in this
    folder or the nearest parent of the user's that has one, else a new one in this folder.
    """

    def __init__(self, url: str = "", *, create: bool = True) -> None:
        """Open or make the ledger.

        Args:
            url: database URL, or a path to an SQLite file.
            create: whether a missing ledger is made; if not, it is NotFound.
        """
        self.url = find_ledger(url, create)
        self.store = SqlStore(self.url)

    # --- pools ---

    def add_pool(self, pool: Pool, on_bytes: OnBytes | None = None, replace: bool = False) -> None:
        """Check a pool, take its fingerprints and register it."""
        pool.require_mergeable()
        spec = {
            "checkpoints": [self._spec(c, on_bytes) for c in pool.checkpoints],
            "base": self._spec(pool.base, on_bytes) if pool.base else None,
        }
        self.store.add_pool(pool.name, spec, replace)

    def pool(self, name: str) -> Pool:
        """A registered pool, its folders opened anew."""
        spec = self.store.pool(name)
        return Pool.from_entries(
            name,
            [_entry(entry) for entry in spec["checkpoints"]],
            spec["base"] and _entry(spec["base"]),
        )

    def fingerprint(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> str:
        """The checkpoint's fingerprint, read from the ledger unless a file was touched since."""
        stamp = checkpoint.stamp()
        known = self.store.fingerprint(stamp)
        if known is None:
            tell = on_bytes or (lambda name, count, total: None)
            known = checkpoint.fingerprint(
                lambda count: tell(checkpoint.name, count, checkpoint.nbytes)
            )
            self.store.remember_fingerprint(stamp, known)
        return known

    # --- studies ---

    def plan(
        self, pool: Pool, config: StudyFile, root: Path, on_bytes: OnBytes | None = None
    ) -> Plan:
        """The plan that a study file means for a pool."""
        pool.require_mergeable()
        executor_of(config.execution)
        settings = _merge_settings(pool, config)
        resolve("sampler", config.search.sampler, SAMPLERS)
        search = config.search
        return Plan(
            name=config.study,
            ingredients=tuple((c.name, self.fingerprint(c, on_bytes)) for c in pool.checkpoints),
            objectives=config.all_objectives(),
            sampler=search.sampler,
            settings=search.settings,
            evaluations=search.evaluations,
            greedy=search.greedy,
            leave_one_out=search.leave_one_out,
            seed=search.seed,
            method=config.merge.method,
            merge_settings=settings,
            dtype=config.merge.dtype or pool.checkpoints[0].dtype,
            base=(pool.base.name, self.fingerprint(pool.base, on_bytes)) if pool.base else None,
            items=config.items.model_dump(),
            evaluator=config.evaluator_settings(root),
            finalists=search.finalists,
            failed_share=search.failed_share,
            racing=settings_of(search.racing),
            fill=search.fill,
            space=_space(pool, config),
            stop_gain=search.stop_gain,
            warm_start=tuple(search.warm_start),
        )

    def pool_of(self, config: StudyFile, root: Path) -> Pool:
        """The pool a study file lists, names (a registered one) or points to (a YAML file)."""
        if isinstance(config.pool, str):
            listed = config.pool.endswith((".yaml", ".yml"))
            return Pool.from_yaml(root / config.pool) if listed else self.pool(config.pool)
        return Pool.from_entries(config.study, config.pool_entries(), config.base_entry(), root)

    def submit(self, file: str | os.PathLike[str], on_bytes: OnBytes | None = None) -> Plan:
        """Register the study of a file, or find it again: same settings resume, others refuse.

        Raises:
            Conflict: the name is taken by a study with other settings.
        """
        config, root = read_study(file), Path(file).absolute().parent
        pool = self.pool_of(config, root)
        return self.register(self.plan(pool, config, root, on_bytes), pool, on_bytes)

    def register(self, plan: Plan, pool: Pool, on_bytes: OnBytes | None = None) -> Plan:
        """Write a plan and its pool into the ledger, or resume the same one.

        A larger budget of evaluations extends the study, and it may stop sooner or later than it was
        to (`stop_gain`); any other change is refused. A study in
        which nothing was scored yet is begun anew, so that a mistake in it can be mended.
        """
        named = Pool(_pool_name(plan.name), pool.checkpoints, pool.base)
        known = {study["name"]: study for study in self.store.studies()}
        if plan.name in known and not known[plan.name]["complete"]:
            with self.store.hold(plan.name):
                self.store.delete_study(plan.name)
            del known[plan.name]
        if plan.name not in known:
            plan = replace(plan, warm=recipes(plan, [self._earlier(n) for n in plan.warm_start]))
            self.add_pool(named, on_bytes, replace=True)
            self.store.create_study(plan)
            return plan
        old_plan = self.store.plan(plan.name)
        plan = replace(plan, warm=old_plan.warm, stop_after=old_plan.stop_after)
        changes = old_plan.changes(plan)
        before, after = changes.pop("evaluations", (plan.evaluations, plan.evaluations))
        patience = changes.pop("stop_gain", None)
        if changes or after < before:
            key, (old, new) = next(iter((changes or {"evaluations": (before, after)}).items()))
            raise Conflict(
                f"there is already a study {plan.name!r} with other settings: {key} is {_brief(old)} "
                f"in the ledger {self.store.where}, {_brief(new)} now.",
                hint="give the study another name, or restore the setting to resume it.",
            )
        if after > before or patience:
            if (
                after > before and plan.stop_gain
            ):  # who gives more wants more of the sampler's evaluations
                made = [t for t in self.store.trials(plan.name) if t.kind == "search"]
                plan = replace(plan, stop_after=sum(not t.copied for t in made) + AHEAD)
            self.store.extend(plan.name, after, plan.stop_gain, plan.stop_after)
        self.add_pool(named, on_bytes, replace=True)
        return plan

    def _earlier(self, study: str) -> Earlier:
        """An earlier study, for a warm start."""
        store = self.store
        return store.plan(study), store.trials(study), store.status(study)["reference"]

    def study_pool(self, study: str) -> Pool:
        """The pool a study was submitted with, whose files must still be the same.

        Raises:
            Mismatch: a checkpoint's bytes changed since.
        """
        plan, pool = self.store.plan(study), self.pool(_pool_name(study))
        wanted = dict(plan.ingredients)
        for checkpoint in pool.checkpoints:
            if self.fingerprint(checkpoint) != wanted.get(checkpoint.name):
                raise Mismatch(
                    f"checkpoint {checkpoint.name!r} at {checkpoint.path} is not the one that study "
                    f"{study!r} was made with.",
                    hint="restore the folder, or start a study with another name.",
                )
        return pool

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


def _merge_settings(pool: Pool, config: StudyFile) -> dict[str, Any]:
    """The settings of the study's merge method, refused here rather than in every candidate."""
    method = import_module("recycler.merge.parts").find_method(config.merge.method)
    if method.needs_base and pool.base is None:
        raise InvalidConfig(
            f"study {config.study!r}: merge method {config.merge.method} needs a base checkpoint.",
            hint="name the common ancestor: `base: runs/base`, or in the pool's file.",
        )
    files = import_module("recycler.merge.recipes.settings")
    made: dict[str, Any] = files.checked_settings(
        config.merge.settings, method, Path(f"study {config.study}: merge.settings")
    )
    return made


def _space(pool: Pool, config: StudyFile) -> dict[str, Any]:
    """What the study searches besides the weights, checked against its method and its layers."""
    method = import_module("recycler.merge.parts").find_method(config.merge.method)
    known = tuple(getattr(method, "defaults", {}))
    names = list(pool.checkpoints[0].tensors)
    layers = max((place.layers for place in places(names).values()), default=0)
    return space.settings_of(config.search.space, config.merge.method, known, layers)


def _entry(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": spec["name"], "path": spec["path"], **spec["about"]}


def _pool_name(study: str) -> str:
    return f"study:{study}"


def executor_of(execution: ExecutionSection) -> tuple[Any, Any]:
    """The class of the executor and its settings; Ray where more than one worker here is asked for.

    Raises:
        InvalidConfig: no such executor, or a setting that it does not take.
    """
    own = execution.own()
    name = execution.executor or ("inline" if own == {"workers": 1} else "ray")
    make = resolve("executor", name, EXECUTORS)
    return make, checked(make.Settings, own, f"execution (executor {name})")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
