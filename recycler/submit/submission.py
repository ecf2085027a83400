"""Submission: from a study file to a plan in the ledger, by one path for every caller.

A study is registered once. The same file again resumes it and a larger budget extends it. Any
other change is refused and named. A study is replaced only on request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from importlib import import_module
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import Conflict, InvalidConfig
from recycler.evaluate.kinds import make_evaluator
from recycler.front.racing import require_items, settings_of
from recycler.front.stages import AHEAD
from recycler.nouns import space
from recycler.nouns.evaluation import Split
from recycler.nouns.layers import layer_count
from recycler.nouns.measure import Parts
from recycler.nouns.objectives import Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe, require_dtype
from recycler.nouns.trial import Trial
from recycler.search.samplers import Proposer, checked_sampler
from recycler.search.warm import Earlier, recipes
from recycler.submit.config import StudyFile, StudySource, read_document
from recycler.submit.references import reference_models, reference_specs, references_of
from recycler.submit.workspace import OnBytes, Workspace, executor_of, pool_name


def submit(
    workspace: Workspace,
    file: StudySource,
    on_bytes: OnBytes | None = None,
    *,
    replace: bool = False,
) -> Plan:
    """Register the study of a file, or resume it if its settings are the same.

    Args:
        workspace: the ledger.
        file: a study file, or its document.
        on_bytes: called with the bytes read while fingerprints are computed.
        replace: start a study of that name anew, whatever it holds.

    Raises:
        Conflict: a study of that name has other settings.
    """
    document = read_document(file)
    config, root = document.config, document.root
    pool = pool_of(workspace, config, root)
    plan = plan_of(workspace, pool, config, root, on_bytes)
    models = reference_models(config, root)
    return register(workspace, plan, pool, on_bytes, replace=replace, models=models)


def pool_of(workspace: Workspace, config: StudyFile, root: Path) -> Pool:
    """The pool of a study file: listed in it, registered under a name, or read from a YAML file."""
    if isinstance(config.pool, str):
        listed = config.pool.endswith((".yaml", ".yml"))
        return Pool.from_yaml(root / config.pool) if listed else workspace.pool(config.pool)
    return Pool.from_entries(config.study, config.pool_entries(), config.base_entry(), root)


def plan_of(
    workspace: Workspace,
    pool: Pool,
    config: StudyFile,
    root: Path,
    on_bytes: OnBytes | None = None,
) -> Plan:
    """The plan of a study file for a pool; everything that can be refused is refused here."""
    pool.require_mergeable()
    executor_of(config.execution)
    require_dtype(config.merge.dtype)
    checked_sampler(config.search.sampler, config.search.settings)
    racing = settings_of(config.search.racing)
    search, asked = config.search, config.asked_objectives()
    settings, varied = _merge_settings(pool, config), _space(pool, config)  # before tasks are read
    prints = [workspace.fingerprint(c, on_bytes) for c in pool.checkpoints]
    evaluator, items = config.evaluator_settings(root), config.items.model_dump()
    base = (pool.base.name, workspace.fingerprint(pool.base, on_bytes)) if pool.base else None
    measured = measures(asked, evaluator, items, pool, base[1] if base else "")
    if racing:
        require_items(asked, measured)
    made = Plan(
        name=config.study,
        ingredients=tuple(zip((c.name for c in pool.checkpoints), prints, strict=True)),
        objectives=asked.directed(measured),
        sampler=search.sampler,
        settings=search.settings,
        evaluations=search.evaluations,
        greedy=search.greedy,
        leave_one_out=search.leave_one_out,
        seed=search.seed,
        method=config.merge.method,
        merge_settings=settings,
        dtype=config.merge.dtype,
        base=base,
        items=items,
        evaluator=evaluator,
        finalists=search.finalists,
        failed_share=search.failed_share,
        racing=racing,
        fill=search.fill,
        space=varied,
        stop_gain=search.stop_gain,
        warm_start=tuple(search.warm_start),
        measures=measured,
    )
    Proposer(made)  # raises now if the search settings are wrong
    given = references_of(workspace, made, pool, config, root, on_bytes)
    return changed(made, references=given)


def register(
    workspace: Workspace,
    plan: Plan,
    pool: Pool,
    on_bytes: OnBytes | None = None,
    *,
    replace: bool = False,
    models: Sequence[Checkpoint] = (),
) -> Plan:
    """Write a plan and its pool into the ledger, or resume the same study.

    A larger budget extends the study, and the stop rule (`stop_gain`) and the references may change.
    Every other change is refused, even while nothing is scored yet. `models` are the folders of the
    references that are no merges.

    Raises:
        Conflict: a study of that name has other settings and `replace` is off, or it is to be
            replaced while a living process runs it.
    """
    store = workspace.store
    spec = workspace.spec(Pool(pool_name(plan.name), pool.checkpoints, pool.base), on_bytes)
    spec |= {"references": reference_specs(workspace, models)} if models else {}
    warm: tuple[Mapping[str, Any], ...] = ()
    if plan.warm_start and (replace or plan.name not in {row["name"] for row in store.studies()}):
        earlier = [_earlier(workspace, name) for name in plan.warm_start]
        warm = recipes(plan, earlier, lambda recipe: _scored(workspace, plan, recipe))

    def decide(old: Plan | None, trials: Sequence[Trial], alive: bool) -> tuple[Plan, bool]:
        if old is None or replace:
            if alive:
                raise Conflict(
                    f"study {plan.name!r} is being run, so it can't be replaced.",
                    hint="stop that run first.",
                )
            return changed(plan, warm=warm), True
        return resumed(old, plan, trials, store.where), False

    return store.submit(plan.name, decide, pool_name(plan.name), spec)


def measures(
    objectives: Objectives,
    evaluator: Mapping[str, Any],
    items: Mapping[str, Any],
    pool: Pool,
    base: str = "",
) -> dict[str, Parts]:
    """Objective -> the measure that its scores belong to (see `nouns.measure`).

    Args:
        objectives: all objectives of the study.
        evaluator: `kind`, `root` and the evaluator's own settings.
        items: sizes of the splits and their seed.
        pool: its first checkpoint gives the tokenizer.
        base: fingerprint of the base checkpoint, if there is one.
    """
    of_merge: dict[str, Parts] = {
        o.name: {"property of the merge": o.metric, "base": base} for o in objectives if o.of_merge
    }
    if len(of_merge) == len(objectives.all):
        return of_merge
    tokenizer = str(pool.checkpoints[0].path)
    made = make_evaluator(evaluator, objectives, items, tokenizer)
    return {**of_merge, **made.measures()}


def resumed(old: Plan, plan: Plan, trials: Sequence[Trial], where: str) -> Plan:
    """The plan to go on with: the stored one, or the stored one with a new budget."""
    plan = changed(plan, warm=old.warm, stop_after=old.stop_after)
    changes = old.changes(plan)
    before, after = changes.pop("evaluations", (plan.evaluations, plan.evaluations))
    for free in ("stop_gain", "references"):
        changes.pop(free, None)
    if changes or after < before:
        key, (there, here) = next(iter((changes or {"evaluations": (before, after)}).items()))
        raise Conflict(
            f"there is already a study {plan.name!r} with other settings: "
            f"{key} is {_brief(there)} in the ledger {where}, {_brief(here)} now.",
            hint="give the study another name, restore the setting to resume it, or start it anew "
            "with --replace.",
        )
    if after > before and plan.stop_gain:  # the new evaluations precede the stop rule
        made = sum(t.kind == "search" and not t.copied for t in trials)
        return changed(plan, stop_after=made + AHEAD)
    return plan


def _earlier(workspace: Workspace, study: str) -> Earlier:
    """An earlier study, as a source for a warm start."""
    store = workspace.store
    return store.plan(study), store.trials(study), store.status(study)["reference"]


def _scored(workspace: Workspace, plan: Plan, recipe: Recipe) -> bool:
    """Whether the ledger has a merge's dev scores under all searched measures."""
    ids, searched = plan.measure_ids, [o.name for o in plan.objectives.searched]
    if any(name not in ids for name in searched):
        return False
    wanted = {name: ids[name] for name in searched}
    return workspace.store.known(recipe.id, Split.DEV, wanted) == {*searched}


def _merge_settings(pool: Pool, config: StudyFile) -> dict[str, Any]:
    """Settings of the study's merge method, refused here and not in every candidate."""
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
    layers = layer_count(list(pool.checkpoints[0].tensors))
    return space.settings_of(config.search.space, config.merge.method, known, layers)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
