"""Merges of one's own in a study: queued, scored, re-checked, outside the budget."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stopping
import toy
import yaml
from click.testing import CliRunner
from contracts.sampler import bowls, study_plan
from studies import World, finished
from test_lease import driver

from recycler.cli.main import cli
from recycler.errors import InvalidConfig
from recycler.evaluate.results import evaluation_of, read_values
from recycler.execute.inline import Inline
from recycler.front.asked import weighted
from recycler.front.expectation import expected
from recycler.front.results import Results
from recycler.front.stages import spent
from recycler.loop import run, run_tries
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore
from recycler.study import Study
from recycler.submit.recipes import require_allowed
from recycler.submit.workspace import Workspace


def scorer(plan: Plan) -> Any:
    function = bowls(plan.n, plan.objectives.m)

    def score(job: Any) -> Any:
        values = function(np.array(job.recipe.vector(plan.names)))
        names = [o.name for o in plan.objectives]
        found = {k: read_values(v) for k, v in zip(names, values, strict=True)}
        return evaluation_of(job, {k: found[k] for k in job.objectives}, "", {})

    return lambda: score


def finish(plan: Plan, store: SqlStore, how: Any = run) -> None:
    how(plan, store, Proposer(plan), Inline(scorer(plan)))


def foreign(plan: Plan, weights: tuple[float, ...]) -> Recipe:
    """A merge of the pool that has no point: its weights sum to 2."""
    return plan.recipe([2 * weight for weight in weights])


# --- the run ---


def test_a_try_is_scored_after_the_singles_and_before_the_sampler_and_costs_no_budget() -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=4), SqlStore("sqlite://")
    store.create_study(plan)
    mine = weighted(plan, {"w0": 0.25, "w2": 0.75})
    store.ask_for(plan.name, mine)
    finish(plan, store)
    trials = store.trials(plan.name)
    kinds = [trial.kind for trial in trials]
    assert kinds.index(Kind.TRY) < kinds.index(Kind.SEARCH)
    assert kinds.count(Kind.SEARCH) == spent(trials) == 4
    (found,) = [trial for trial in trials if trial.kind == Kind.TRY]
    assert found.recipe == mine
    assert {*found.evaluations} == {"dev", "select", "test"}
    assert store.status(plan.name)["progress"] is None  # in memory nobody else looks


def test_a_try_in_a_complete_study_is_also_rechecked_and_the_search_does_not_go_on() -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=4), SqlStore("sqlite://")
    store.create_study(plan)
    finish(plan, store)
    before, status = store.trials(plan.name), store.status(plan.name)
    worst = foreign(plan, (1.0, 0.0, 0.0))  # dominated, and no point of the space
    store.ask_for(plan.name, worst)
    finish(replace(plan, evaluations=4), store, run_tries)
    after = store.trials(plan.name)
    assert after[: len(before)] == before
    (found,) = after[len(before) :]
    assert {*found.evaluations} == {"dev", "select", "test"}
    results = Results.read(store, plan.name)
    assert found.number not in [t.number for t in results.front.trials]
    assert (results.basis, results.certainty) == ("select", "test")
    same = ("status", "message")
    assert [store.status(plan.name)[key] for key in same] == [status[key] for key in same]


def test_a_try_in_a_stopped_study_leaves_the_rest_as_it_was() -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=0), SqlStore("sqlite://")
    store.create_study(plan)
    store.ask_for(plan.name, weighted(plan, {"w0": 0.4, "w1": 0.6}))
    finish(plan, store, run_tries)
    assert store.trials(plan.name) == []  # nothing before the singles
    run(plan, store, Proposer(plan), Inline(scorer(plan)), phases=())
    store.ask_for(plan.name, weighted(plan, {"w0": 0.3, "w1": 0.7}))
    store.set_status(plan.name, "stopped", "by me")
    finish(plan, store, run_tries)
    tries = [t for t in store.trials(plan.name) if t.kind == Kind.TRY]
    assert [{*t.evaluations} for t in tries] == [{"dev"}, {"dev"}]
    status = store.status(plan.name)
    assert (status["status"], status["message"]) == ("stopped", "by me")


@pytest.mark.parametrize("sampler", ["auto", "paper"])
def test_a_study_with_tries_makes_the_same_proposals_after_every_stop(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, create = stopping.plan(sampler, 12), SqlStore.create_study
    mine = weighted(made, {"c0": 0.25, "c3": 0.75})
    strange = foreign(made, (0.5, 0.5, 0.0, 0.0, 0.0))

    def and_ask(store: SqlStore, plan: Plan) -> None:
        create(store, plan)
        store.ask_for(plan.name, mine)
        store.ask_for(plan.name, strange)

    monkeypatch.setattr(SqlStore, "create_study", and_ask)
    whole = stopping.undisturbed(made, tmp_path / "whole.db")
    found, _ = stopping.stopped_after_every_event(made, tmp_path / "stopped.db")
    assert found == whole
    assert {mine.id, strange.id} <= {trial["id"] for trial in found}


# --- which tries the model of the search learns from ---


def test_a_merge_has_a_point_exactly_if_the_space_reaches_it() -> None:
    plain = study_plan("auto", 3, 2)
    assert plain.reaches(plain.recipe((0.1, 0.2, 0.7)))
    assert plain.reaches(plain.recipe((1 / 3, 1 / 3, 1 / 3)))
    assert not plain.reaches(foreign(plain, (0.1, 0.2, 0.7)))
    assert not plain.reaches(plain.recipe((-0.1, 0.4, 0.7)))
    assert not plain.reaches(replace(plain.recipe((0.1, 0.2, 0.7)), dtype="float16"))
    assert not plain.reaches(replace(plain.recipe((0.1, 0.2, 0.7)), method="ties"))
    wider = replace(plain, space={"least_weight": -0.2})
    assert wider.reaches(plain.recipe((-0.1, 0.4, 0.7)))
    assert not wider.reaches(plain.recipe((-0.3, 0.6, 0.7)))
    grouped = replace(plain, space={"layer_groups": [[0, 2], [2, 4]]})
    point = np.array([0.1, 0.2, 0.7, 0.5, 0.5, 0.0])
    assert grouped.reaches(grouped.merge_at(point))
    assert grouped.reaches(plain.recipe((0.1, 0.2, 0.7)))
    assert not plain.reaches(grouped.merge_at(point))
    ranged = replace(plain, method="ties", base=("b", "sha256:b"), space={"lambda": [0.2, 0.8]})
    inside = ranged.merge_at(np.array([0.1, 0.2, 0.7, 0.5]))
    assert ranged.reaches(inside)
    assert not ranged.reaches(replace(inside, settings={"lambda": 0.9}))
    assert not ranged.reaches(replace(inside, settings={"lambda": [0.3, 0.5]}))


def test_a_merge_without_a_point_keeps_its_scores_and_teaches_nothing() -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=6), SqlStore("sqlite://")
    store.create_study(plan)
    finish(plan, store)
    reference = store.status(plan.name)["reference"]
    before = {
        split: expected(plan, store.trials(plan.name), reference, split)
        for split in ("dev", "select")
    }
    store.ask_for(plan.name, foreign(plan, (0.2, 0.3, 0.5)))
    finish(plan, store, run_tries)
    trials = store.trials(plan.name)
    for split, old in before.items():
        new = dict(expected(plan, trials, reference, split))
        own = new.pop(trials[-1].number)
        assert own == pytest.approx([*trials[-1].means(split).values()])
        assert {*new} >= {*old}
        for number, gains in old.items():
            np.testing.assert_array_equal(new[number], gains)


# --- weights ---


def allowed(plan: Plan, weights: dict[str, float]) -> Recipe:
    recipe = weighted(plan, weights)
    require_allowed(plan, weights)
    return recipe


@pytest.mark.parametrize(
    ("weights", "said", "hint"),
    [
        ({"w0": 0.5, "w1": 0.4}, "sum to 0.9", "w0=0.55555556,w1=0.44444444"),
        ({"w0": 1.1, "w1": -0.1}, "is 1.1; this study allows 0 to 1", "--recipe"),
        ({"w0": float("nan"), "w1": 1.0}, "sum to nan", ""),
        ({"w0": 0.0}, "sum to 0", "divide"),
        ({"w5": 1.0}, "has no checkpoint 'w5'", "nearest: w"),
        ({"code": 1.0}, "has no checkpoint 'code'", "it has w0, w1, w2"),
    ],
)
def test_weights_that_are_not_allowed_are_refused(weights: Any, said: str, hint: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        allowed(study_plan("auto", 3, 2), weights)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_negative_weights_are_taken_where_the_space_has_them() -> None:
    plan = replace(study_plan("auto", 3, 2), space={"least_weight": -0.1})
    assert allowed(plan, {"w0": 1.1, "w1": -0.1}).weights == {"w0": 1.1, "w1": -0.1}
    with pytest.raises(InvalidConfig, match=r"allows -0.1 to 1.2"):
        allowed(plan, {"w0": 1.25, "w1": -0.25})


# --- with models ---


def call(store: str, *arguments: Any) -> str:
    done = CliRunner().invoke(
        cli, ["--store", store, *map(str, arguments)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A complete study of models, in a ledger of our own."""
    made = finished(tmp_path_factory.getbasetemp())
    with sqlite3.connect(made.store) as source, sqlite3.connect(tmp_path / "own.db") as target:
        source.backup(target)
    return replace(made, store=str(tmp_path / "own.db"))


def test_the_merge_of_a_mergekit_file_becomes_a_trial_of_a_complete_study(
    world: World, tmp_path: Path
) -> None:
    before = world.open().trials
    table = {
        "merge_method": "linear",
        "models": [
            {"model": str(folder), "parameters": {"weight": weight}}
            for folder, weight in zip(world.folders, (3, 2, 1), strict=False)
        ],
        "dtype": "bfloat16",
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    found = json.loads(call(world.store, "try", "toy", "--recipe", file, "--json"))
    assert (found["trial"], found["known"], found["state"]) == (len(before), False, "complete")
    assert found["name"] == "try 1"
    assert {"dev", "select", "test"} <= {*found}
    assert found["recipe"]["dtype"] == "bfloat16"
    study = world.open()
    assert study.status["status"] == "complete"
    assert study.trials[: len(before)] == before
    said = call(world.store, "try", "toy", "--recipe", file)
    assert f"already has this merge, as trial {len(before)}" in said
    said = call(world.store, "try", "toy", "--weights", "ckpt-0=1")
    assert "already has this merge, as trial 0" in said
    assert len(world.open().trials) == len(before) + 1


def test_a_recipe_of_other_checkpoints_is_refused_and_nothing_is_queued(
    world: World, tmp_path: Path
) -> None:
    other = toy.checkpoint(tmp_path / "other", seed=9)
    listed = [{"path": str(world.folders[0]), "weight": 0.5}, {"path": str(other), "weight": 0.5}]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"method": "linear", "checkpoints": listed}), encoding="utf-8")
    study = world.open()
    with pytest.raises(InvalidConfig, match="'other' is none of the checkpoints of study 'toy'"):
        study.try_merge(file)
    assert study.workspace.store.asked_for("toy") == []


# --- while another process runs the study ---


@pytest.mark.system
def test_a_living_run_takes_a_try_up_next(file: str) -> None:
    store = SqlStore(file)
    store.create_study(study_plan("dirichlet", 3, 2, evaluations=200))
    study = Study("study", Workspace(file))
    queued = study.try_merge({"w0": 0.5, "w1": 0.5})
    assert (queued["state"], queued["trial"], queued["ready"]) == ("queued", None, False)
    process = driver(file, 0.1)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        found = study.try_merge({"w0": 0.25, "w1": 0.75}, wait=True)
        assert (found["state"], found["known"], found["name"]) == ("complete", False, "try 2")
        assert f"process {process.pid} on" in found["holder"]
        assert store.status("study")["alive"]
        first = [t.name for t in store.trials("study") if t.kind == Kind.TRY]
        assert first == ["try 1", "try 2"]
    finally:
        process.kill()
        process.communicate()
