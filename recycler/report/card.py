"""The model card of an exported merge."""

from recycler.front.results import Results
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.trial import Kind, Trial
from recycler.report.decision import as_markdown, plain, row


def model_card(results: Results, trial: Trial) -> str:
    """README.md of an export: weights, scores with errors against the baselines, how to verify it."""
    split = honest_split(trial)
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [merge, recycler]",
            "---",
            "",
            f"# {results.name}, trial {trial.number}",
            "",
            _what(results, trial),
            "",
            *as_markdown(results, trial),
            "![front](front.png)",
            "",
            "## Weights",
            "",
            "| checkpoint | weight |",
            "|---|---|",
            *(row((name, f"{weight:.4f}")) for name, weight in trial.recipe.weights.items()),
            "",
            f"## Scores on {split} items",
            "",
            *_score_table(results, trial, split),
            "",
            _warning(split),
            "",
            "## Proof",
            "",
            f"Digest of the weights: `{trial.digest}`. `recycler verify FOLDER` hashes every tensor "
            "and compares it with `recycler.json`, which also holds the recipe, the fingerprints of "
            "the ingredients and the ids of the items behind each score.",
            "",
        ]
    )


def _what(results: Results, trial: Trial) -> str:
    """What the folder holds, in one sentence."""
    parts = trial.recipe.ingredients
    asked = ", ".join(o.name for o in results.plan.objectives.searched)
    if trial.kind == Kind.SINGLE:
        name = plain(parts[0].name)
        return f"Checkpoint {name}, as it was; recycler compared it with merges on {asked}."
    on_front = trial in results.front.trials
    found = "found by recycler on the Pareto front of" if on_front else "scored by recycler on"
    many = f"{len(parts)} checkpoint{'s' if len(parts) > 1 else ''}"
    return f"A {trial.recipe.method} merge of {many}, {found} {asked}."


def honest_split(trial: Trial) -> str:
    """The split least used by the search on which the trial was scored."""
    return next(split for split in reversed(SPLITS) if split in trial.evaluations)


def _score_table(results: Results, trial: Trial, split: str) -> list[str]:
    rivals = [t for t in results.baselines if split in t.evaluations and t.number != trial.number]
    head = ["objective", f"trial {trial.number}", "best other", ""]
    lines = [row(head), "|" + "---|" * len(head)]
    for objective in results.plan.objectives:
        score = trial.evaluations[split].scores.get(objective.name)
        if score is None:
            continue
        known = [t for t in rivals if objective.name in t.evaluations[split].scores]
        best = max(
            known,
            key=lambda t: objective.sign * t.evaluations[split].scores[objective.name].mean,
            default=None,
        )
        note = "held out" if objective.held_out else ""
        rival = (
            f"{best.evaluations[split].scores[objective.name].mean:.4g} ({best.name})"
            if best
            else "-"
        )
        way = "↑" if objective.direction == "max" else "↓"
        error = f" ± {score.stderr:.2g}" if score.stderr else ""
        items = f" ({score.items} items)" if score.items else ""
        named = f"{objective.name} [{objective.unit}] {way}"
        lines.append(row((named, f"{score.mean:.4g}{error}{items}", rival, note)))
    return lines


def _warning(split: str) -> str:
    if split == "test":
        return "These items were never seen by the search nor by the choice of the front."
    return f"**Optimistic:** only {split} items were scored, which the search or the choice used."
