"""Warm starts: which recipes of an earlier study come first, and whose scores are taken over."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import toy
from contracts.sampler import study_plan
from test_loop import finish, quadratic

from recycler.errors import InvalidConfig, NotFound
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Job
from recycler.search.samplers import Proposer
from recycler.search.warm import recipes
from recycler.store.sql import SqlStore
from recycler.study import Study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

MEASURES = {"f0": {"function": "bowls"}, "f1": {"function": "bowls", "column": 1}}


def measured(n: int = 3, **changes: Any) -> Plan:
    """A plan whose scores are for every study that measures the same."""
    return replace(study_plan("dirichlet", n, 2, **changes), measures=MEASURES)


def earlier(n: int = 3, **changes: Any) -> tuple[Plan, SqlStore]:
    """A finished study over n checkpoints, in a ledger of its own."""
    plan = measured(n, evaluations=12, name="old", **changes)
    return plan, finish(plan, quadratic(plan))


def never(recipe: Recipe) -> bool:
    return False


def read(plan: Plan, store: SqlStore) -> tuple[Any, ...]:
    return plan, store.trials(plan.name), store.status(plan.name)["reference"]


def warmed(plan: Plan, store: SqlStore, old: Plan) -> Plan:
    made = replace(plan, warm_start=(old.name,))
    return replace(made, warm=recipes(made, [read(old, store)], scored(made, store)))


def scored(plan: Plan, store: SqlStore) -> Callable[[Recipe], bool]:
    """Whether a ledger has a merge's dev scores under the plan's measures."""
    ids = plan.measure_ids
    return lambda recipe: bool(ids) and store.known(recipe.id, "dev", ids) == {*ids}


def test_the_best_merges_come_first_at_most_a_third_of_the_budget() -> None:
    old, store = earlier()
    plan = study_plan("dirichlet", 3, 2, evaluations=13)
    entries = recipes(plan, [read(old, store)], never)
    assert len(entries) == 4
    gains = {t.number: old.objectives.gains([t.means("dev")])[0] for t in store.trials("old")}
    corner = np.array(store.status("old")["reference"])
    searched = [t.number for t in store.trials("old") if t.kind == "search"]
    first = max(searched, key=lambda i: float(np.prod(np.maximum(gains[i] - corner, 0))))
    assert entries[0]["trial"] == first  # of one point, the volume is a product
    assert all(entry["study"] == "old" for entry in entries)
    assert {e["trial"] for e in entries} <= set(searched)  # the references come anyway
    assert recipes(replace(plan, evaluations=2), [read(old, store)], never) == ()


def test_studies_take_turns() -> None:
    (old, store), plan = earlier(), study_plan("dirichlet", 3, 2, evaluations=18)
    other = replace(old, name="other", seed=9)
    finish(other, quadratic(other), store=store)
    found = recipes(plan, [read(old, store), read(other, store)], never)
    assert [entry["study"] for entry in found] == ["old", "other"] * 3


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((0.25, 0.75, 0.0), (0.0, 0.25, 0.75)),  # the same checkpoints in other places
        ((0.3, 0.5, 0.2), (0.0, 0.375, 0.625)),  # a fifth is not here: shared out
        ((0.3, 0.45, 0.25), None),  # more is not here
        ((0.0, 0.5, 0.5), None),
    ],
)
def test_weights_follow_the_fingerprints_into_the_new_pool(weights: tuple, expected: Any) -> None:
    old, store = earlier()
    trial = next(t for t in store.trials("old") if t.kind == "search")
    trial = replace(trial, recipe=old.recipe(weights))
    prints = dict(old.ingredients)
    plan = replace(
        study_plan("dirichlet", 3, 2, evaluations=30),
        ingredients=(("new", "sha256:new"), ("a", prints["w0"]), ("b", prints["w1"])),
    )
    found = recipes(plan, [(old, [trial], None)], never)
    assert [entry["weights"] for entry in found] == (
        [pytest.approx(list(expected))] if expected else []
    )


def test_plain_averages_are_left_to_the_greedy_path_and_kept_without_it() -> None:
    old, store = earlier()
    trial = replace(store.trials("old")[-1], recipe=old.recipe((0.5, 0.5, 0.0)))
    plan = study_plan("dirichlet", 3, 2, evaluations=30, greedy=True)
    assert recipes(plan, [(old, [trial], None)], never) == ()
    assert len(recipes(replace(plan, greedy=False), [(old, [trial], None)], never)) == 1


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({}, True),
        ({"seed": 5, "evaluations": 40, "sampler": "nsga2"}, True),
        ({"measures": {**MEASURES, "f1": {"function": "bowls", "column": 2}}}, False),
        ({"measures": {}}, False),
        ({"dtype": "bfloat16"}, False),
        (
            {
                "objectives": Objectives((Objective("f0", "value", "max"),)),
                "measures": {"f0": MEASURES["f0"]},
            },
            True,  # fewer
        ),
    ],
)
def test_scores_are_taken_over_where_the_same_was_measured(changes: dict, alike: bool) -> None:
    old, store = earlier()
    plan = replace(measured(evaluations=12), **changes)
    entries = recipes(plan, [read(old, store)], scored(plan, store))
    assert entries
    assert {entry["copy"] for entry in entries} == {alike}


def test_copied_scores_cost_nothing_and_are_those_of_the_earlier_study() -> None:
    old, store = earlier()
    plan = warmed(measured(evaluations=12, seed=1), store, old)
    jobs: list[Job] = []

    def counting(job: Job, w: np.ndarray) -> dict[str, float]:
        jobs.append(job)
        return quadratic(plan)(job, w)

    heard: list[Any] = []
    finish(plan, counting, store=store, listen=heard.append)
    trials = store.trials("study")
    copied = [t for t in trials if t.copied]
    assert [t.name for t in copied] == [
        f"warm {i} (old trial {e['trial']})" for i, e in enumerate(plan.warm, 1)
    ]
    assert len(copied) == 4
    for trial, entry in zip(copied, plan.warm, strict=True):
        source = store.trials("old")[entry["trial"]]
        assert trial.evaluations["dev"].scores == source.evaluations["dev"].scores
        assert (trial.recipe, trial.digest) == (source.recipe, source.digest)
    dev = [job.trial for job in jobs if job.split == "dev"]
    assert not {t.number for t in copied} & set(dev)
    assert sum(t.kind == "search" for t in trials) == 12 + 4  # the budget is whole
    searching = [p for p in heard if p.phase == "search"]
    assert [p.done for p in searching] == list(range(searching[-1].total + 1))


def test_other_measurements_are_made_anew_inside_the_budget() -> None:
    old, store = earlier()
    plan = warmed(study_plan("dirichlet", 3, 2, evaluations=12), store, old)
    finish(plan, quadratic(plan), store=store)
    searched = [t.name for t in store.trials("study") if t.kind == "search"]
    assert [name.split()[0] for name in searched] == ["warm"] * 4 + ["search"] * 8


def test_the_new_study_goes_on_without_the_earlier_one() -> None:
    old, store = earlier()
    plan = warmed(study_plan("dirichlet", 3, 2, evaluations=12), store, old)
    store.create_study(plan)
    store.delete_study("old")
    finish(store.plan("study"), quadratic(plan), store=store)
    warm = [t for t in store.trials("study") if t.name.startswith("warm")]
    assert [t.recipe for t in warm] == [plan.recipe(entry["weights"]) for entry in plan.warm]
    assert {t.state for t in warm} == {"complete"}


def test_a_kill_between_proposal_and_copy_is_mended_by_the_next_run() -> None:
    old, store = earlier()
    plan = warmed(measured(evaluations=6), store, old)
    whole = finish(plan, quadratic(plan), store=store).trials("study")
    store.delete_study("study")
    store.create_study(plan)
    proposer = Proposer(plan)
    for trial in whole[:5]:  # the references, as they were
        proposal = proposer.next(store.trials("study"), None)
        assert proposal.recipe == trial.recipe
        store.start("study", proposal)
        store.record("study", trial.number, trial.evaluations["dev"])
    corner = proposer.reference(store.trials("study"))
    store.set_reference("study", corner)
    store.start("study", proposer.next(store.trials("study"), corner))  # and killed here
    again = finish(plan, quadratic(plan), store=store).trials("study")
    assert [(t.recipe, t.name, t.evaluations) for t in again] == [
        (t.recipe, t.name, t.evaluations) for t in whole
    ]
    assert again[5].attempts == 2


def test_a_study_file_names_earlier_studies_which_are_read_once(drawer: list, tmp_path) -> None:
    file = toy.study_file(tmp_path, drawer[:2], evaluations=3)
    workspace = Workspace()
    Study(submit(workspace, file).name, workspace).run()
    text = file.read_text()
    new = tmp_path / "new.yaml"
    new.write_text(
        text.replace("study: toy", "study: new").replace(
            "sampler: dirichlet", "sampler: dirichlet\n  warm_start: [toy]"
        )
    )
    plan = submit(workspace, new)
    assert plan.warm_start == ("toy",)
    assert [entry["copy"] for entry in plan.warm] == [True]
    Study("new", workspace).run()
    (copied,) = [t for t in workspace.store.trials("new") if t.copied]
    assert copied.digest.startswith("sha256:")
    source = workspace.store.outcomes("toy", plan.warm[0]["trial"], "dev")
    assert workspace.store.outcomes("new", copied.number, "dev") == source
    workspace.store.delete_study("toy")
    assert submit(workspace, new).warm == plan.warm  # resumed: the earlier study is not needed
    new.write_text(new.read_text().replace("study: new", "study: third"))
    with pytest.raises(NotFound, match="no study 'toy'"):
        submit(workspace, new)


def test_a_study_cannot_start_from_itself() -> None:
    with pytest.raises(InvalidConfig, match="'study' lists itself"):
        study_plan("dirichlet", 3, 2, warm_start=("study",))
