"""A finished study as programs read it, checked from its own numbers."""

import json

import moocore
import numpy as np
import pytest
import studies
import toy

from recycler import Objective, Pool, Study, Workspace
from recycler.errors import Conflict, Mismatch, NotFound
from recycler.front.results import Results
from recycler.submit.submission import submit


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return studies.finished(tmp_path_factory.getbasetemp()).open()


@pytest.fixture(scope="module")
def results(study: Study) -> Results:
    return study.results


@pytest.fixture(scope="module")
def table(results: Results) -> dict:
    """The front as a program gets it."""
    return json.loads(json.dumps(results.front_json(), allow_nan=False))


def test_the_front_has_the_documented_shape(study: Study, table: dict) -> None:
    assert list(table) == [
        "study",
        "event",
        "status",
        "objectives",
        "held_out",
        "reference",
        "steps",
        "hypervolume",
        "baseline_hypervolume",
        "evaluations",
        "basis",
        "members",
        "baselines",
        "references",
        "decision",
        "feasible",
        "floors",
        "gaps",
        "looked_at",
        "counts",
        "item_share",
        "remaining_gain",
    ]
    assert (table["study"], table["status"], table["basis"]) == ("toy", "complete", "select")
    assert table["objectives"] == [
        {"name": "text", "metric": "bits_per_byte", "direction": "min", "unit": "bits/byte"},
        {"name": "choice", "metric": "acc", "direction": "max", "unit": "share"},
    ]
    assert [o["name"] for o in table["held_out"]] == ["word"]
    assert table["evaluations"] == study.plan.evaluations == 4
    for row in (*table["members"], *table["baselines"]):
        assert sum(row["weights"].values()) == pytest.approx(1, abs=1e-9)
        assert row["method"] == "linear"
        assert set(row["dev"]) == {"text", "choice"}
        assert set(row["test"]) == {"text", "choice", "word"}  # held out: test items alone
        for split, items in (("dev", 12), ("test", 16)):
            for score in row[split].values():
                assert set(score) == {"mean", "stderr", "items"}
                assert score["items"] == items
    for member in table["members"]:
        assert 0 <= member["p_nondominated"] <= 1
        assert set(member["select"]) == {"text", "choice"}


def test_regret_is_the_distance_to_the_best_of_front_and_baselines(table: dict) -> None:
    rows = [*table["members"], *table["baselines"]]
    for name, best in (("text", min), ("choice", max), ("word", max)):
        top = best(row["test"][name]["mean"] for row in rows)
        for member in table["members"]:
            expected = abs(top - member["test"][name]["mean"])
            assert member["regret"][name] == pytest.approx(expected, abs=1e-12)


def test_the_decision_follows_from_the_json_alone(study: Study, table: dict) -> None:
    told = table["decision"]
    rows = {row["trial"]: row for row in (*table["baselines"], *table["members"])}
    singles = [row for row in table["baselines"] if row["kind"] == "single"]
    steps = table["steps"]

    def average(scores: dict) -> float:
        return (scores["choice"] / steps[1] - scores["text"] / steps[0]) / 2

    def means(row: dict, split: str) -> dict:
        return {name: score["mean"] for name, score in row[split].items()}

    merges = [row for row in table["members"] if row["kind"] != "single"]
    foreseen = {row["trial"]: average(row["expected"]) for row in merges}
    assert told["best_merge"] == max(foreseen, key=foreseen.__getitem__)
    verdict = told["verdict"]
    assert verdict["trial"] == told["pick"]
    assert verdict["split"] == "test"
    if not told["kept"]:
        assert told["pick"] == told["best_merge"]
    best = max(singles, key=lambda row: average(means(row, "select")))["trial"]
    for found in verdict["comparisons"]:
        if found["role"] == "best single":
            assert found["trial"] == best
        pair = [means(rows[number], "test") for number in (told["pick"], found["trial"])]
        lead = average(pair[0]) - average(pair[1])
        assert found["difference"] == pytest.approx(lead)
        assert found["interval"][0] <= lead <= found["interval"][1]
        for apart in found["objectives"]:
            sign = -1.0 if apart["direction"] == "min" else 1.0
            name = apart["objective"]
            assert apart["difference"] == pytest.approx(sign * (pair[0][name] - pair[1][name]))
        assert [a["objective"] for a in found["objectives"]] == ["text", "choice", "word"]
    assert verdict["sentence"].endswith("on 16 test items per task.")


def test_gaps_are_the_steps_along_the_front(results: Results, table: dict) -> None:
    """With two objectives, neighbours on test items' gains of nondominated members follow."""
    gains = results.front.gains("test") / results.scales
    numbers = [member["trial"] for member in table["members"]]
    for gap in table["gaps"]:
        a, b = (gains[numbers.index(number)] for number in gap["between"])
        assert gap["gap"] == pytest.approx(float(np.hypot(*(a - b))))
    assert [g["gap"] for g in table["gaps"]] == sorted(g["gap"] for g in table["gaps"])[::-1]
    assert len(table["gaps"]) >= len(numbers) - 1  # it hangs together


def test_without_racing_and_failures_all_items_were_evaluated(study: Study, table: dict) -> None:
    assert table["counts"] == {"complete": len(study.trials), "pruned": 0, "failed": 0}
    assert table["item_share"] == 1.0
    assert (table["floors"], table["feasible"]) == ({"dev": {}, "select": {}, "test": {}}, True)
    assert table["remaining_gain"] is None  # 4 evaluations are too few to tell
    assert all(member["meets_floors"] for member in table["members"])


def test_the_baselines_are_the_references_and_the_greedy_soup(study: Study, table: dict) -> None:
    kinds = [row["kind"] for row in table["baselines"]]
    assert kinds[:4] == ["single", "single", "single", "uniform"]
    assert set(kinds[4:]) <= {"merge-best", "greedy"}
    assert kinds.count("greedy") == 1
    names = [f"single:{name}" for name in study.plan.names]
    assert [row["name"] for row in table["baselines"]][:4] == [*names, "uniform"]


def _points(rows: list[dict], table: dict, split: str) -> np.ndarray:
    names = [objective["name"] for objective in table["objectives"]]
    return np.array([[row[split][name]["mean"] for name in names] for row in rows])


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("rows", "key"), [("members", "hypervolume"), ("baselines", "baseline_hypervolume")]
)
def test_hypervolumes_follow_from_the_json_alone(
    table: dict, rows: str, key: str, split: str
) -> None:
    up = [objective["direction"] == "max" for objective in table["objectives"]]
    points = _points(table[rows], table, split)
    volume = moocore.hypervolume(points, ref=table["reference"], maximise=up)
    assert table[key][split] == pytest.approx(volume, rel=1e-12)


def test_the_members_are_nondominated_among_all_that_were_checked(
    study: Study, table: dict
) -> None:
    """By brute force on select items: smaller text, larger choice."""
    checked = {t.number: t.means("select") for t in study.trials if "select" in t.evaluations}
    front = {
        number
        for number, a in checked.items()
        if not any(
            b["text"] <= a["text"] and b["choice"] >= a["choice"] and b != a
            for b in checked.values()
        )
    }
    assert {member["trial"] for member in table["members"]} == front
    order = [member["select"]["text"]["mean"] for member in table["members"]]
    assert order == sorted(order)  # best first in the first objective


def test_the_reference_is_worse_than_every_nondominated_single(table: dict) -> None:
    singles = [row for row in table["baselines"] if row["kind"] == "single"]
    points = _points(singles, table, "dev")
    up = [objective["direction"] == "max" for objective in table["objectives"]]
    best = points[moocore.is_nondominated(points, maximise=up)]
    best = best if len(best) > 1 else points
    assert (best[:, 0] < table["reference"][0]).all()
    assert (best[:, 1] > table["reference"][1]).all()


def test_a_trial_tells_everything_that_is_known_of_it(results: Results) -> None:
    for trial in results.trials:
        told = json.loads(json.dumps(results.trial_json(trial.number), allow_nan=False))
        assert (told["trial"], told["kind"], told["state"]) == (
            trial.number,
            trial.kind,
            "complete",
        )
        assert (told["id"], told["digest"]) == (trial.recipe.id, trial.digest)
        assert told["digest"]
        assert told["weights"] == told["recipe"]["weights"] == trial.recipe.weights
        assert told["failure"] is None
        assert all(s["merge"] > 0 and s["evaluate"] > 0 for s in told["seconds"].values())


@pytest.mark.parametrize("number", [-1, 1000])
def test_a_trial_that_does_not_exist_is_not_found(study: Study, number: int) -> None:
    with pytest.raises(NotFound, match=f"no trial {number}") as caught:
        study.trial(number)
    assert f"0 to {len(study.trials) - 1}" in caught.value.hint


def test_running_a_finished_study_again_evaluates_nothing(study: Study) -> None:
    before = study.trials
    assert study.run().trials == before


SCORER = """
import torch

def score(model, tokenizer, split):
    norms = torch.stack([p.detach().double().norm() for p in model.parameters()])
    return {"big": [float(x) for x in norms], "small": (float(norms.sum()), 0.1)}
"""


def test_a_study_made_in_python_runs_resumes_and_extends(drawer: list, tmp_path) -> None:
    (tmp_path / "toy_scorer.py").write_text(SCORER, encoding="utf-8")
    pool = Pool.open(drawer[:3])
    objectives = [Objective("big", "value", "max"), Objective("small", "value", "min")]
    options = {
        "evaluator": {"kind": "python", "function": "toy_scorer:score"},
        "sampler": "dirichlet",
        "root": tmp_path,
    }

    def create(**changes) -> Study:
        return Study.create("py", pool, objectives, **{**options, "evaluations": 3, **changes})

    study = create()
    assert study.status["status"] == "new"
    assert study.front.members == ()
    assert study.results.reference is None
    with pytest.raises(NotFound, match="front is empty"):
        study.front.knee()
    study.run()
    first = study.trials
    assert study.front.basis == "select"
    assert create().run().trials == first

    before = study.results
    shown, event = before.front_json(), study.results.event
    longer = create(evaluations=5).run()
    assert (before.front_json(), before.event) == (shown, event)  # a reading never changes
    assert longer.results.event > before.event
    assert len(longer.trials) == len(first) + 2
    assert [t.recipe for t in longer.trials[: len(first)]] == [t.recipe for t in first]
    with pytest.raises(Conflict, match=r"seed is 0 in the ledger .*, 1 now"):
        create(evaluations=5, seed=1)
    assert Study("py", Workspace(create=False)).trials == longer.trials


def test_a_study_whose_checkpoint_changed_since_is_not_run(tmp_path) -> None:
    folders = toy.drawer(tmp_path / "pool", 2)
    workspace = Workspace()
    plan = submit(workspace, toy.study_file(tmp_path, folders, evaluations=1))
    toy.checkpoint(folders[1], seed=77)
    with pytest.raises(Mismatch, match=r"'ckpt-1'.*is not the one"):
        Study(plan.name, workspace).run()
    assert workspace.store.trials("toy") == []


def test_a_study_of_ties_searches_factor_densities_and_groups_and_exports_what_it_scored(
    drawer: list, tmp_path
) -> None:
    (tmp_path / "wide_scorer.py").write_text(SCORER, encoding="utf-8")
    space = {"lambda": [0.5, 1.5], "density": {"each": [0.3, 0.9]}, "layer_groups": 2}
    study = Study.create(
        "wide",
        Pool.open(drawer[:3], base=drawer[3]),
        [Objective("big", "value", "max"), Objective("small", "value", "min")],
        evaluator={"kind": "python", "function": "wide_scorer:score"},
        merge={"method": "ties"},
        space=space,
        evaluations=6,
        greedy=False,
        root=tmp_path,
    ).run()
    found = [trial for trial in study.trials if trial.kind == "search"]
    assert len(found) == 6
    for trial in found:
        assert 0.5 <= trial.recipe.settings["lambda"] <= 1.5
        assert all(0.3 <= i.settings["density"] <= 0.9 for i in trial.recipe.ingredients)
        assert all(len(i.settings["weight"]) == 2 for i in trial.recipe.ingredients)
    assert len({trial.digest for trial in study.trials}) == len(study.trials)
    done = study.export(found[-1].number, tmp_path / "out")
    assert done["digest"] == found[-1].digest
