"""References of a study: models and recipes of the user's that the merges have to beat."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig, RecyclerError
from recycler.evaluate.kinds import make_evaluator
from recycler.evaluate.measure import model_digests
from recycler.nouns.plan import Plan, Reference
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.submit.config import StudyFile
from recycler.submit.workspace import OnBytes, Workspace


def reference_models(config: StudyFile, root: Path) -> list[Checkpoint]:
    """The folders of the references that are models, opened from their headers.

    Raises:
        NotFound, BrokenCheckpoint: a folder is missing or can't be read.
    """
    return [
        Checkpoint.open(root / Path(entry.path).expanduser(), entry.name)
        for entry in config.references
        if entry.path
    ]


def references_of(
    workspace: Workspace,
    plan: Plan,
    pool: Pool,
    config: StudyFile,
    root: Path,
    on_bytes: OnBytes | None = None,
) -> tuple[Reference, ...]:
    """The references of a study file; everything that can be refused is refused here.

    Args:
        workspace: the ledger, which knows fingerprints.
        plan: the study, without its references.
        pool: its checkpoints.
        config: the study file.
        root: folder that relative paths start from.
        on_bytes: called with the bytes read while fingerprints are computed.

    Raises:
        InvalidConfig: names or weights are wrong, or a recipe uses other checkpoints.
        Incompatible: transformers has no class for a model.
    """
    _require_names([entry.name for entry in config.references], pool)
    models = {model.name: model for model in reference_models(config, root)}
    made: list[Reference] = []
    for entry in config.references:
        if entry.weights:
            recipe = weighted(plan, entry.weights, f"reference {entry.name!r}")
        elif entry.recipe:
            file = root / Path(entry.recipe).expanduser()
            recipe = recipe_over(workspace, pool, file, on_bytes)
        else:
            recipe = _model(workspace, plan, models[entry.name], on_bytes)
        twin = next((one for one in made if one.recipe.id == recipe.id), None)
        if twin:
            raise InvalidConfig(
                f"references {twin.name!r} and {entry.name!r} are the same.",
                hint="list it once.",
            )
        made.append(Reference(entry.name, recipe))
    return tuple(made)


def weighted(plan: Plan, weights: Mapping[str, float], where: str) -> Recipe:
    """The merge of a study at the weights a user wrote; checkpoints left out have weight 0.

    Args:
        plan: the study, which gives merge method, settings and dtype.
        weights: checkpoint -> weight, unitless.
        where: what the weights belong to, in messages.

    Raises:
        InvalidConfig: a checkpoint is unknown, a weight is no number, or they do not sum to 1.
    """
    for name in weights:
        if name not in plan.names:
            near = get_close_matches(name, plan.names, n=1)
            raise InvalidConfig(
                f"{where}: the pool has no checkpoint {name!r}.",
                hint=(f"did you mean {near[0]!r}? " if near else "")
                + f"It has {', '.join(plan.names)}.",
            )
    total = math.fsum(weights.values())
    if not math.isfinite(total) or abs(total - 1.0) > 1e-6:
        raise InvalidConfig(
            f"{where}: the weights sum to {total:g}, expected 1.",
            hint="divide each by the sum; for other sums write a recipe file with the method's own "
            "settings.",
        )
    return plan.recipe([float(weights.get(name, 0.0)) for name in plan.names])


def recipe_over(
    workspace: Workspace, pool: Pool, file: Path, on_bytes: OnBytes | None = None
) -> Recipe:
    """The merge of a recipe file, recycler's or mergekit's, over checkpoints of a pool.

    Checkpoints are told by their bytes, so their names and paths in the file may be others.

    Raises:
        InvalidConfig: the file names a checkpoint that is not in the pool.
    """
    own = import_module("recycler.merge.recipes.own")
    found = own.read_recipe(
        file, lambda checkpoint, _: workspace.fingerprint(checkpoint, on_bytes)
    )
    names = {workspace.fingerprint(c, on_bytes): c.name for c in reversed(pool.everything)}

    def known(item: Ingredient) -> Ingredient:
        if item.fingerprint not in names:
            raise InvalidConfig(
                f"{file}: {item.name!r} at {found.pool[item.name].path} is no checkpoint of the "
                "study's pool.",
                hint=f"the pool has {', '.join(c.name for c in pool.everything)}; add it there, or "
                "merge it with `recycler merge` and list the folder as `path:`.",
            )
        return replace(item, name=names[item.fingerprint])

    recipe: Recipe = found.recipe
    return replace(
        recipe,
        ingredients=tuple(known(item) for item in recipe.ingredients),
        base=known(recipe.base) if recipe.base else None,
    )


def _model(
    workspace: Workspace, plan: Plan, model: Checkpoint, on_bytes: OnBytes | None
) -> Recipe:
    """The recipe of a model in a folder, once as much of it is checked as its headers tell."""
    where = f"reference {model.name!r}"
    distance = next((o for o in plan.objectives if o.metric == "merge.distance"), None)
    if distance:
        raise InvalidConfig(
            f"{where}: objective {distance.name!r} (merge.distance) is a property of merges, and "
            f"{model.path} is none.",
            hint="leave out the objective or the reference.",
        )
    if set(plan.measures) - {o.name for o in plan.objectives if o.of_merge}:
        _require_scorable(plan, model, where)
    return Recipe.of_model(
        model.name, workspace.fingerprint(model, on_bytes), model_digests(model.path)
    )


def _require_scorable(plan: Plan, model: Checkpoint, where: str) -> None:
    """Raise unless the study's evaluator takes the model, as far as its class and tokenizer tell."""
    try:
        made = make_evaluator(plan.evaluator, plan.objectives, plan.items, str(model.path))
        if made.takes == "model":
            import_module("recycler.merge.resident").require_class(model.path)
    except RecyclerError as error:
        raise type(error)(f"{where} at {model.path}: {error.message}", hint=error.hint) from error


def _require_names(names: Iterable[str], pool: Pool) -> None:
    seen = {checkpoint.name for checkpoint in pool.everything}
    for name in names:
        if name in seen:
            raise InvalidConfig(
                f"references: the name {name!r} is taken.",
                hint="checkpoints and references need names of their own.",
            )
        seen.add(name)


def reference_specs(workspace: Workspace, models: Iterable[Checkpoint]) -> list[dict[str, Any]]:
    """The models as the registry stores them with a study's pool."""
    return [
        {"name": m.name, "path": str(m.path), "fingerprint": workspace.fingerprint(m)}
        for m in models
    ]
