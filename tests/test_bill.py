"""The bill of a study against the evaluations and items of a real run, and what it leaves alone."""

import hashlib
import json

import pytest
import toy
import yaml
from click.testing import CliRunner

from recycler.cli.main import cli
from recycler.errors import Conflict
from recycler.front.bill import Rates, bill
from recycler.front.results import Results
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan, Reference
from recycler.nouns.recipe import Recipe
from recycler.quote import quote
from recycler.scout import scout
from recycler.study import Study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

RATES = Rates(10.0, 1.0, 3.0, {"a": 0.1, "b": 0.01}, 1_000_000, 2.0)
SIZES = {"a": {"dev": 10, "select": 20, "test": 50}, "b": {"dev": 10, "select": 10, "test": 100}}


def plan(**changes):
    objectives = (
        Objective("x", "acc", task="a"),
        Objective("x2", "acc_norm", task="a"),  # the same items once more cost nothing
        Objective("size", "merge.nonzero"),
        Objective("y", "acc", task="b", held_out=True),
    )
    inside = tuple((f"c{i}", f"f{i}") for i in range(4))
    given = {"evaluations": 6, "finalists": 4, "greedy": False, **changes}
    return Plan(name="s", ingredients=inside, objectives=Objectives(objectives), **given)


def test_the_bill_by_hand():
    made = bill(plan(), SIZES, RATES, workers=2)
    singles, search, recheck, report = made.stages
    assert (singles.merges, singles.items) == ((4, 4), (40, 40))
    assert singles.seconds == (pytest.approx(4 * (1 + 10 * 0.1)),) * 2
    assert (search.merges, search.items) == ((7, 8), (70, 80))  # uniform, perhaps merge-best, six
    assert search.seconds == pytest.approx((7 * 4.0, 8 * 4.0))
    assert (recheck.merges, recheck.items) == ((5 + 2, 5 + 1 + 4), (140, 200))
    assert (report.merges, report.items) == ((5, 10), (5 * 150, 10 * 150))
    assert report.seconds[0] == pytest.approx(4 * 1 + 3 + 5 * (50 * 0.1 + 100 * 0.01))
    assert made.items == (40 + 70 + 140 + 750, 40 + 80 + 200 + 1500)
    most = sum(stage.seconds[1] for stage in made.stages)
    assert made.seconds[1] == pytest.approx(most / 2 + 10)
    assert (made.ledger_bytes, made.memory) == (1820 * 2, 2_000_000)


def test_references_are_on_the_bill_in_every_stage():
    model = Recipe.of_model("production", "p", {})
    own = plan().recipe((0.1, 0.2, 0.3, 0.4))
    more = plan(references=(Reference("production", model), Reference("mine", own)))
    without, found = bill(plan(), SIZES, RATES, 1), bill(more, SIZES, RATES, 1)
    extra = [
        b.seconds[0] - a.seconds[0] for a, b in zip(without.stages, found.stages, strict=True)
    ]
    loads = 1.0 + 3.0  # one model, one merge
    assert extra == pytest.approx([loads + 2 * 1, 0, loads + 2 * 2, loads + 2 * 6])


def test_racing_the_stop_rule_and_known_scores_lower_the_bill():
    raced = plan(racing={"blocks": [0.5, 1.0], "chance": 0.1, "gain": 0.1})
    search = bill(raced, SIZES, RATES, 1).stages[1]
    assert search.items == (10 + 6 * 5, 80)
    assert search.seconds == pytest.approx((4 + 6 * 3.5, 2 * 4 + 6 * 7.0))  # one more merge each
    assert bill(plan(stop_gain=0.1), SIZES, RATES, 1).stages[1].merges == (1, 8)
    study = plan()
    ids = [study.recipe([float(i == j) for j in range(4)]).id for i in range(2)]
    known = {(id_, "dev"): frozenset({"x", "x2"}) for id_ in ids}
    singles = bill(study, SIZES, RATES, 1, known=known).stages[0]
    assert (singles.merges, singles.free, singles.items) == ((2, 2), 2, (20, 20))


def counted(results, split):
    """Item evaluations and merges of a finished study on a split, and those of the singles."""
    scored = [t for t in results.trials if split in t.evaluations]
    items = [sum(s.items for s in t.evaluations[split].scores.values()) for t in scored]
    alone = sum(i for t, i in zip(scored, items, strict=True) if t.kind == "single")
    return len(scored), sum(items), alone


def test_a_real_run_costs_what_the_bill_said(tmp_path, drawer):
    file = toy.study_file(tmp_path, drawer, evaluations=6)
    ran = CliRunner().invoke(cli, ["run", str(file), "--plan", "--json"])
    assert ran.exit_code == 0, ran.output
    assert not (tmp_path / ".recycler").exists()  # no ledger was made
    told = json.loads(ran.stdout)
    stages = {stage["name"]: stage for stage in told["stages"]}
    measured = told["measured"]
    assert min(measured["item_seconds"].values()) > 0 < measured["merge_seconds"]
    assert told["ledger_bytes"] > 0 < told["memory_bytes"]
    workspace = Workspace()
    scout(workspace, file)
    ledger = tmp_path / ".recycler" / "ledger.db"
    workspace.store.close()
    before = hashlib.sha256(ledger.read_bytes()).digest()
    scouted = quote(file)  # the singles are paid for
    assert hashlib.sha256(ledger.read_bytes()).digest() == before
    assert (scouted.stages[0].merges, scouted.stages[0].free) == ((0, 0), 4)
    workspace = Workspace()
    assert [row["name"] for row in workspace.store.studies()] == ["toy-scout"]
    Study(submit(workspace, file).name, workspace).run()
    results = Results.read(workspace.store, "toy")
    merges, items, alone = counted(results, "dev")
    assert stages["singles"]["item_evaluations"] == [alone, alone]
    low, high = stages["search"]["item_evaluations"]
    assert low <= items - alone <= high
    assert high - low == 24  # merge-best on two tasks of twelve items
    for split, name in (("select", "re-check"), ("test", "report")):
        merges, items, _ = counted(results, split)
        (a, b), (low, high) = stages[name]["merges"], stages[name]["item_evaluations"]
        assert a <= merges <= b
        assert low <= items <= high
        assert (low // a, high // b) == (items // merges,) * 2
    assert quote(file).seconds == (0, 0)
    table = yaml.safe_load(file.read_text())
    table["search"]["evaluations"] = 8
    file.write_text(yaml.safe_dump(table))
    assert quote(file).stages[1].merges[0] == 2
    text = CliRunner().invoke(cli, ["run", str(file), "--plan"])
    assert "Nothing was changed" in text.output
    file.write_text(yaml.safe_dump(table | {"items": {"dev": 8}}))
    with pytest.raises(Conflict, match="other settings"):
        quote(file)
