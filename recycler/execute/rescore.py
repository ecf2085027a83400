"""Scores again what the ledger has: an exported folder, or merges whose answers were not kept."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recycler.conditions import conditions, differing
from recycler.errors import Mismatch
from recycler.front.results import Results
from recycler.merge.resident import load_model, quiet_transformers
from recycler.nouns.trial import Job, State, Trial
from recycler.protocols import Evaluator, Scorer, Store


def rescore(results: Results, evaluator: Evaluator, folder: Path) -> list[dict[str, Any]]:
    """Evaluate the folder on every split on which its trial has scores of all items.

    Returns:
        One row for each split and objective: `{"split", "objective", "ledger", "again"}`.

    Raises:
        Mismatch: a mean differs from the ledger's, in any digit.
    """
    claimed = json.loads((folder / "recycler.json").read_text(encoding="utf-8"))
    trial = results.trial(claimed["trial"])
    torch.set_num_threads(1)
    quiet_transformers()
    model = load_model(folder).eval()
    rows = []
    for split, evaluation in trial.evaluations.items():
        if split == "dev" and trial.state == State.PRUNED:  # estimates from some of the items
            continue
        scored = [results.plan.objectives[name] for name in evaluation.scores]
        objectives = [objective for objective in scored if not objective.of_merge]
        for name, outcomes in evaluator.evaluate(model, objectives, split).items():
            again = getattr(outcomes, "score", lambda found=outcomes: found)().mean
            ledger = evaluation.scores[name].mean
            rows.append({"split": split, "objective": name, "ledger": ledger, "again": again})
            if again != ledger:
                raise Mismatch(
                    f"{name} on {split} items is {again!r} now and {ledger!r} in the ledger.",
                    hint=_reason(claimed, results, evaluator) + "; the digest proves the bytes.",
                )
    return rows


def answer_again(
    results: Results, store: Store, scorer: Scorer, trials: Sequence[Trial], split: str, name: str
) -> None:
    """Score merges again whose answers were not kept, and keep them.

    Args:
        results: the study.
        store: its ledger.
        scorer: merges in memory and evaluates.
        trials: the merges.
        split: which items.
        name: the objective.

    Raises:
        Mismatch: an outcome is another than the ledger's, so these are not the answers it came from.
    """
    for trial in trials:
        found = scorer(Job(trial.number, trial.recipe, split, (name,), answers=True))
        if found.outcomes.get(name) != results.outcomes(trial, split).get(name):
            raise Mismatch(
                f"{name} of trial {trial.number} on {split} items has other outcomes now than in the "
                "ledger.",
                hint="libraries, processor or tasks changed since; the answers are not kept.",
            )
        store.keep_answers(trial.recipe.id, found, results.plan.measure_ids)


def _reason(claimed: Mapping[str, Any], results: Results, evaluator: Evaluator) -> str:
    """Why scores differ, as far as recorded: which conditions changed since."""
    found = differing(claimed.get("conditions", {}), conditions())
    if dict(claimed["evaluator"]) != json.loads(json.dumps(dict(results.plan.evaluator))):
        found.append("the settings of the evaluator are others in this ledger")
    for name, parts in evaluator.measures().items():
        then = results.plan.measures.get(name, {})
        found += [
            f"{part!r} of objective {name!r} is another"
            for part in parts
            if part in then and then[part] != parts[part]
        ]
    return "; ".join(found) or (
        "libraries, evaluator, items, processor and threads are those of the export: these scores "
        "can't be reproduced on this machine"
    )
