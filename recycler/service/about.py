"""What a study is, in a summary of its plan, and which pools and operations belong to it."""

from collections.abc import Mapping
from typing import Any

from recycler.nouns.operation import Operation
from recycler.nouns.plan import Plan
from recycler.service.config import ServiceConfig
from recycler.store.sql import SqlStore

OWN = "study:"  # prefix of the registry's entries that belong to one study


def study_json(store: SqlStore, config: ServiceConfig, name: str, plan: Plan) -> dict[str, Any]:
    """Plan, pools, tries that wait and last operation of a study.

    Returns:
        `{"created", "plan": see `plan_json`, "pools": registered pools with all its checkpoints,
        "queued": tries without a trial yet, "operation": the last one on it, or None}`.
    """
    operations = store.operations.listed(subject=name, limit=1)
    return {
        "created": store.version(name)[0],
        "plan": plan_json(plan, config),
        "pools": [pool for pool, spec in pools(store).items() if holds(spec, plan)],
        "queued": [
            {"name": p.name, "id": p.recipe.id, "weights": p.recipe.weights}
            for p in store.asked_for(name)
        ],
        "operation": brief(operations[0]) if operations else None,
    }


def plan_json(plan: Plan, config: ServiceConfig) -> dict[str, Any]:
    """The settings of a plan that people ask for; the folders of tasks stay on the server."""
    base = plan.base
    return {
        "checkpoints": [{"name": name, "fingerprint": print} for name, print in plan.ingredients],
        "base": {"name": base[0], "fingerprint": base[1]} if base else None,
        "objectives": [
            {
                "name": o.name,
                "task": o.task,
                "metric": o.metric,
                "direction": o.direction,
                "unit": o.unit,
                "held_out": o.held_out,
                "floor": o.floor,
                "weight": o.weight,
                "scale": o.scale,
            }
            for o in plan.objectives
        ],
        "references": [{"name": r.name, "model": r.recipe.is_model} for r in plan.references],
        "items": dict(plan.items),
        "evaluator": {
            "kind": plan.evaluator.get("kind", "function"),
            "name": config.evaluator_name(dict(plan.evaluator)),
        },
        "method": plan.method,
        "settings": dict(plan.merge_settings),
        "dtype": plan.dtype,
        "sampler": plan.sampler,
        "evaluations": plan.evaluations,
        "finalists": plan.finalists,
        "seed": plan.seed,
        "racing": dict(plan.racing),
        "space": dict(plan.space),
        "weights_from": plan.points.least,
        "stop_gain": plan.stop_gain,
        "warm_start": list(plan.warm_start),
    }


def pools(store: SqlStore) -> dict[str, Mapping[str, Any]]:
    """Name -> spec of each pool that people registered."""
    names = [name for name in store.catalog.pools() if not name.startswith(OWN)]
    return {name: store.catalog.pool(name) for name in names}


def holds(spec: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a pool has all checkpoints of a study, by their bytes."""
    known = {entry["fingerprint"] for entry in spec["checkpoints"]}
    return {fingerprint for _, fingerprint in plan.ingredients} <= known


def brief(operation: Operation) -> dict[str, Any]:
    """An operation without its arguments and its result."""
    table = operation.to_json()
    return {key: value for key, value in table.items() if key not in ("arguments", "result")}
