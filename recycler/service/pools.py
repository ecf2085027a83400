"""What a pool's studies say about its checkpoints: scores, rank correlations, lineage.

Letters: n checkpoints, m tasks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recycler.checkpoints.lineage import lineage, origins
from recycler.front import baselines
from recycler.front.tradeoffs import spearman
from recycler.nouns.objectives import Objective
from recycler.nouns.plan import Plan
from recycler.nouns.trial import State, Trial

FEWEST = 3  # checkpoints that a rank correlation needs


def scores_json(names: Sequence[str], studies: Sequence[tuple[Plan, Sequence[Trial]]]) -> Any:
    """The dev scores of single checkpoints over all studies of a pool; the newest study counts.

    Args:
        names: (n,) checkpoints of the pool.
        studies: plan and trials of each, the oldest first.

    Returns:
        `{"checkpoints": names, "tasks": (m,) {"name", "unit", "direction", "study"}, "scores":
        (n, m) {"mean", "stderr"} or None, "correlations": (m, m) rank correlations of gains or
        None}`.
    """
    tasks: dict[str, tuple[Objective, str]] = {}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for plan, trials in studies:
        for i, trial in baselines.singles(plan, trials).items():
            if trial.state != State.COMPLETE or "dev" not in trial.evaluations:
                continue
            for task, score in trial.evaluations["dev"].scores.items():
                tasks[task] = (plan.objectives[task], plan.name)
                found[plan.names[i], task] = {"mean": score.mean, "stderr": score.stderr}
    rows = [[found.get((name, task)) for task in tasks] for name in names]
    return {
        "checkpoints": [*names],
        "tasks": [
            {"name": name, "unit": o.unit, "direction": o.direction, "study": study}
            for name, (o, study) in tasks.items()
        ],
        "scores": rows,
        "correlations": _correlations([o for o, _ in tasks.values()], rows),
    }


def _correlations(
    tasks: Sequence[Objective], rows: Sequence[Sequence[dict[str, float] | None]]
) -> list[list[float | None]]:
    """(m, m) rank correlations over the checkpoints that have all scores."""
    whole = [[cell["mean"] for cell in row if cell] for row in rows if all(row)]
    if len(whole) < FEWEST or not tasks:
        return [[None] * len(tasks) for _ in tasks]
    signs = np.array([1.0 if task.direction == "max" else -1.0 for task in tasks])
    table = spearman(np.array(whole) * signs)
    return [[float(x) if np.isfinite(x) else None for x in row] for row in table]


def lineage_json(spec: dict[str, Any]) -> dict[str, Any]:
    """What each checkpoint of a pool was trained from, by its files.

    Returns:
        `{"nodes": [{"name", "parent": name of a node or of something outside, or None, "about"}]}`.
    """
    entries = [*spec["checkpoints"], *([spec["base"]] if spec["base"] else [])]
    folders = [Path(entry["path"]) for entry in entries]
    told = [lineage(folder) for folder in folders]
    named = {folder: entry["name"] for folder, entry in zip(folders, entries, strict=True)}
    nodes = []
    for entry, about, parent in zip(entries, told, origins(folders, told), strict=True):
        name = named.get(parent, parent.name) if isinstance(parent, Path) else parent
        base = spec["base"]["name"] if spec["base"] else None
        shown = name or (base if base != entry["name"] else None)
        nodes.append({"name": entry["name"], "parent": shown, "about": dict(about.about)})
    return {"nodes": nodes}
