"""A study's front and baselines as one table."""

import csv
import io
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recycler.front.results import Results
from recycler.nouns.trial import Trial

if TYPE_CHECKING:
    import pandas


def front_table(results: Results) -> "pandas.DataFrame":
    """One row for each front member and baseline: scores with errors on every split, weights.

    Columns: trial, name, kind, on_front, p_nondominated, `<objective>.<split>`,
    `<objective>.<split>.stderr`, `<objective>.regret` (of members, on the reported items),
    `weight.<checkpoint>`.
    """
    frame: pandas.DataFrame = import_module("pandas").DataFrame(front_rows(results))
    return frame


def front_csv(results: Results) -> str:
    """The same table as CSV; made without pandas."""
    rows, made = front_rows(results), io.StringIO()
    if rows:
        table = csv.DictWriter(made, [*rows[0]], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return made.getvalue() or "\n"


def front_rows(results: Results) -> list[dict[str, Any]]:
    """The rows of that table."""
    front = results.front
    rows = [
        _row(results, m.trial, m.p_nondominated, regret)
        for m, regret in zip(front.members, results.regrets, strict=True)
    ]
    on_front = {m.trial.number for m in front.members}
    rows += [_row(results, t) for t in results.baselines if t.number not in on_front]
    return rows


def trials_table(results: Results) -> "pandas.DataFrame":
    """One row for each trial of the ledger, in the order of the trials.

    Columns: trial, name, kind, state, method, on_front, p_nondominated (of members), attempts,
    failure (its kind), `<objective>.<split>` and `<objective>.<split>.stderr` in the unit of the
    objective, `<objective>.<split>.items`, and `weight.<checkpoint>`.
    """
    chances = {m.trial.number: m.p_nondominated for m in results.front.members}
    rows = []
    for trial in results.trials:
        row = _row(results, trial, chances.get(trial.number))
        scores = {k: v for k, v in row.items() if not k.endswith(".regret")}
        about: dict[str, Any] = {"state": str(trial.state), "method": trial.recipe.method}
        about |= {"attempts": trial.attempts, "failure": trial.failure and trial.failure.kind}
        for split, evaluation in trial.evaluations.items():
            for name, score in evaluation.scores.items():
                scores[f"{name}.{split}.items"] = score.items
        rows.append({"trial": 0, "name": "", "kind": "", **about, **scores})
    frame: pandas.DataFrame = import_module("pandas").DataFrame(rows)
    scored = [column for column in frame.columns if "." in column or column == "p_nondominated"]
    return frame.astype(dict.fromkeys(scored, "float64"))  # NaN, not None, where there is no score


def _row(
    results: Results,
    trial: Trial,
    p: float | None = None,
    regret: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number,
        "name": trial.name,
        "kind": str(trial.kind),
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
