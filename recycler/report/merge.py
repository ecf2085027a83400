"""One merge as the page shows it: what it is, its scores against its rivals, its recipe as files."""

from collections.abc import Sequence
from typing import Any

import yaml

from recycler.checkpoints.pool import Pool
from recycler.front import baselines
from recycler.front.paired import Difference, common_split, differences
from recycler.front.results import Results
from recycler.merge.recipes.mergekit import mergekit_recipe
from recycler.merge.recipes.own import own_recipe
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind, Trial
from recycler.report.decision import why
from recycler.report.forest import differences_figure


def shown(results: Results, trial: Trial) -> dict[str, Any]:
    """What is known of one trial, as JSON data.

    Returns:
        `trial` as `Results.trial_json` has it, `roles`, `p_nondominated`, `why`, `rivals`, `split`
        of the comparison, `differences` from each rival, and `figure`, plotly's JSON as text; the
        last three are empty if no rival is scored on the same items.
    """
    split, named = rivals(results, trial)
    others = [rival for _, rival in named]
    plan = results.plan
    found: Sequence[Difference] = ()
    if named:
        found = differences(trial, others, plan.objectives, split, results.outcomes, plan.seed)
    rows = [
        (f"{role}: {rival.name}", [d for d in found if d.rival == rival.number])
        for role, rival in named
    ]
    figure = differences_figure(trial.number, split, rows) if named else None
    members = {m.trial.number: m.p_nondominated for m in results.front.members}
    return {
        "trial": results.trial_json(trial.number),
        "roles": roles(results, trial),
        "p_nondominated": members.get(trial.number),
        "why": why(results, trial) if trial.evaluations else "",
        "split": split,
        "rivals": [
            {"role": role, "trial": rival.number, "name": rival.name} for role, rival in named
        ],
        "differences": [difference.to_json() for difference in found],
        "kept": _kept(results, trial),
        "figure": str(figure.update_layout(template=None, width=None).to_json()) if figure else "",
    }


def roles(results: Results, trial: Trial) -> list[str]:
    """What a trial is to the study: pick, member of the front, knee, greedy soup."""
    front, decision = results.front, results.decision
    soup = baselines.greedy_soup(results.plan, results.trials)
    known = [
        ("pick", decision is not None and decision.pick.number == trial.number),
        ("front", trial in front.trials),
        ("knee", bool(front.members) and front.knee().number == trial.number),
        ("greedy soup", soup is not None and soup.number == trial.number),
    ]
    return [name for name, holds in known if holds]


def rivals(results: Results, trial: Trial) -> tuple[str, list[tuple[str, Trial]]]:
    """The split of the comparison, and what the trial is compared with on it.

    That is the best single, the uniform merge, the greedy soup, the references, and the pick; those
    that are not scored on the trial's own last split are left out.
    """
    singles = [t for t in results.baselines if t.kind == Kind.SINGLE]
    uniform = [t for t in results.baselines if t.kind == Kind.UNIFORM]
    soup = baselines.greedy_soup(results.plan, results.trials)
    split = common_split([trial])
    known = [t for t in singles if split in t.evaluations]
    named: list[tuple[str, Trial]] = []
    if known:
        gains = results.plan.objectives.gains([t.means(_chosen_on(known, split)) for t in known])
        named.append(("best single", known[int((gains / results.scales).mean(axis=1).argmax())]))
    named += [("uniform", t) for t in uniform]
    named += [("greedy soup", soup)] if soup else []
    named += [("reference", t) for t in results.references]
    named += [("pick", results.decision.pick)] if results.decision else []
    found = {t.number: (role, t) for role, t in reversed(named) if split in t.evaluations}
    found.pop(trial.number, None)
    return split, [*reversed(found.values())]


def _chosen_on(singles: Sequence[Trial], split: str) -> str:
    """The items on which the best single is chosen: not those that are reported, if possible."""
    again = split == "test" and all("select" in t.evaluations for t in singles)
    return "select" if again else split


def _kept(results: Results, trial: Trial) -> dict[str, list[str]]:
    """Split -> objectives for which the trial's answers were kept."""
    names = [objective.name for objective in results.plan.objectives]
    return {
        split: [name for name in names if results.answers(trial, split, name) is not None]
        for split in trial.evaluations
    }


def recipe_files(recipe: Recipe, pool: Pool) -> dict[str, str]:
    """The recipe as YAML, in recycler's form, and in mergekit's if that can express it."""
    forms = {"recycler": own_recipe(recipe, pool), "mergekit": mergekit_recipe(recipe, pool)}
    return {name: yaml.safe_dump(form, sort_keys=False) for name, form in forms.items() if form}
