"""References of a study: models and recipes of the user's that the merges have to beat."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig, RecyclerError
from recycler.evaluate.kinds import make_evaluator
from recycler.evaluate.measure import model_digests
from recycler.nouns.plan import Plan, Reference
from recycler.nouns.recipe import Recipe
from recycler.submit.config import StudyFile
from recycler.submit.recipes import recipe_of
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
        if entry.name in models:
            recipe = _model(workspace, plan, models[entry.name], on_bytes)
        else:
            wish = entry.weights or root / Path(str(entry.recipe)).expanduser()
            recipe = recipe_of(workspace, plan, wish, f"reference {entry.name!r}: ", on_bytes)
        twin = next((one for one in made if one.recipe.id == recipe.id), None)
        if twin:
            raise InvalidConfig(
                f"references {twin.name!r} and {entry.name!r} are the same.",
                hint="list it once.",
            )
        made.append(Reference(entry.name, recipe))
    return tuple(made)


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
