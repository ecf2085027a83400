"""A study's front and baselines as one table."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from recycler.front.results import Results
from recycler.nouns.trial import Trial


def front_table(results: Results) -> pd.DataFrame:
    """One row for each front member and baseline: scores with errors on every split, weights.

    Columns: trial, name, kind, on_front, p_nondominated, `<objective>.<split>`,
    `<objective>.<split>.stderr`, `<objective>.regret` (of members, on the reported items),
    `weight.<checkpoint>`.
    """
    front = results.front
    rows = [
        _row(results, m.trial, m.p_nondominated, regret)
        for m, regret in zip(front.members, results.regrets, strict=True)
    ]
    on_front = {m.trial.number for m in front.members}
    rows += [_row(results, t) for t in results.baselines if t.number not in on_front]
    return pd.DataFrame(rows)


def _row(
    results: Results,
    trial: Trial,
    p: float | None = None,
    regret: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number,
        "name": trial.name,
        "kind": trial.kind,
        "on_front": p is not None,
        "p_nondominated": p,
    }
    for objective in results.plan.objectives:
        for split in ("dev", "select", "test"):
            evaluation = trial.evaluations.get(split)
            score = evaluation.scores.get(objective.name) if evaluation else None
            row[f"{objective.name}.{split}"] = score.mean if score else None
            row[f"{objective.name}.{split}.stderr"] = score.stderr if score else None
        row[f"{objective.name}.regret"] = (regret or {}).get(objective.name)
    for name, weight in zip(
        results.plan.names, trial.recipe.vector(results.plan.names), strict=True
    ):
        row[f"weight.{name}"] = weight
    return row
