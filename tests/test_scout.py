"""Scouting: correlations against scipy, simulated pools of known truth, singles scored once."""

import json
from itertools import combinations

import numpy as np
import pytest
import toy
import yaml
from click.testing import CliRunner
from scipy.stats import spearmanr

from recycler.cli.main import cli
from recycler.errors import Conflict, InvalidConfig
from recycler.evaluate.harness import LmEval
from recycler.front import scouting as scouting_of
from recycler.front import tradeoffs
from recycler.nouns.evaluation import Outcomes
from recycler.nouns.objectives import Objective, Objectives
from recycler.report import scouting as report
from recycler.scout import scout
from recycler.study import Study
from recycler.submit.config import read_study
from recycler.submit.rewriting import write_objectives
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace


def simulated(shares, items=400, seed=0, paired=0.8):
    """Outcomes of n checkpoints with given shares of right answers, on the same items."""
    rng = np.random.default_rng(seed)
    rows = [{} for _ in shares]
    for j, column in enumerate(np.transpose(shares)):
        hard, own = rng.random(items), rng.random((len(shares), items))
        same = rng.random((len(shares), items)) < paired
        right = np.where(same, hard, own) < np.asarray(column)[:, None]
        for row, values in zip(rows, right, strict=True):
            row[f"t{j}"] = Outcomes(tuple(range(items)), tuple(map(float, values)))
    return rows


def analysed(rows, directions=(), chances=None, measures=None):
    names = list(rows[0])
    ways = directions or ["max"] * len(names)
    objectives = Objectives(
        tuple(Objective(n, "acc", w) for n, w in zip(names, ways, strict=True))
    )
    scores = [{name: outcomes.score() for name, outcomes in row.items()} for row in rows]
    labels = tuple(f"c{i}" for i in range(len(rows)))
    return scouting_of.analysed(
        "s", labels, objectives, scores, rows, {}, chances or {}, measures or {}
    )


# --- arrays ---


def test_rank_correlations_are_scipys_with_ties_and_in_stacks():
    rng = np.random.default_rng(0)
    gains = rng.integers(0, 4, (5, 9, 3)).astype(float)
    found = tradeoffs.spearman(gains)
    for draw, matrix in zip(gains, found, strict=True):
        assert np.allclose(matrix, spearmanr(draw).statistic)
    flat = tradeoffs.spearman(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    assert flat[0, 0] == pytest.approx(1)
    assert np.isnan(flat[0, 1])


def test_a_simulated_trade_off_is_found_and_one_that_is_noise_is_not():
    up = np.linspace(0.35, 0.65, 9)
    level = np.full(9, 0.5)  # t3 ranks the checkpoints by luck alone
    shares = np.stack([up, up[::-1], up, level], axis=1)
    found = analysed(simulated(shares))
    by = {t.tasks: t for t in found.tradeoffs}
    assert set(by) == {*combinations(("t0", "t1", "t2"), 2), ("t0", "t1", "t2")}
    for tasks in (("t0", "t1"), ("t1", "t2")):
        assert by[tasks].real
        assert by[tasks].low <= -0.95
        assert by[tasks].high < -0.5
    assert by["t0", "t2"].probability == 0
    # the middle of -1, -1 and +1: t0 and t2 agree, and both disagree with t1
    assert by["t0", "t1", "t2"].real
    assert found.proposal == by["t0", "t1", "t2"]
    assert not found.tasks[3].resolution.tells
    scipys = spearmanr(found.gains).statistic
    assert np.allclose(found.correlations, scipys)


def test_intervals_hold_the_true_correlation_of_noisy_scores():
    rng, held, plain = np.random.default_rng(1), [], []
    for seed in range(8):
        z = rng.multivariate_normal([0, 0], [[1, -0.8], [-0.8, 1]], size=13)
        shares = np.clip(0.5 + 0.04 * z, 0.05, 0.95)  # as far apart as 150 items can't tell
        found, true = analysed(simulated(shares, 150, seed)), tradeoffs.spearman(shares)[0, 1]
        held.append(found.low[0, 1] <= true <= found.high[0, 1])
        plain.append(found.correlations[0, 1] - true)
    assert np.mean(plain) > 0.15  # noise pulls the plain correlation towards 0
    assert np.mean(held) >= 0.75


def test_spread_and_error_are_those_of_equal_checkpoints_and_items_needed_follow():
    level, wide = simulated(np.full((8, 1), 0.5)), simulated(np.linspace(0.3, 0.7, 8)[:, None])
    same, apart = (analysed(rows).tasks[0] for rows in (level, wide))
    assert apart.resolution.tells
    assert apart.needed is None
    assert not same.resolution.tells
    assert 0.3 < same.resolution.spread / same.resolution.error < 1.6
    assert same.needed > same.items == 400
    # so many items do show a real spread of that size
    spread = same.resolution.spread * np.sqrt(8 / 7)
    z = np.linspace(-1, 1, 8)
    shares = (0.5 + z / z.std(ddof=1) * spread)[:, None]
    assert analysed(simulated(shares, same.needed * 2, seed=3)).tasks[0].resolution.tells


def test_saturated_tasks_and_tasks_at_chance_are_named():
    shares = [[0.99, 0.25], [0.98, 0.26], [0.97, 0.24], [0.5, 0.25]]
    found = analysed(simulated(shares, 300), chances={"t0": 0.25, "t1": 0.25})
    assert [t.saturated for t in found.tasks] == [True, False]
    assert [t.at_chance for t in found.tasks] == [False, True]
    assert not any(task.useful for task in found.tasks)
    said = "\n".join(report.remarks(found))
    assert "t0: saturated" in said
    assert "t1: at chance" in said
    assert "0.25" in said


def test_near_duplicates_dominated_ones_and_one_that_all_beat():
    up = np.linspace(0.3, 0.6, 5)
    rows = simulated(np.stack([up, up[::-1]], axis=1))
    copy = {name: Outcomes(o.ids, (1 - o.values[0], *o.values[1:])) for name, o in rows[2].items()}
    bad = simulated([[0.02, 0.02]], seed=5)[0]
    found = analysed([*rows, copy, bad])
    assert [(a, b) for a, b, _ in found.duplicates] == [("c2", "c5")]
    assert found.left_out == ["c6"]
    assert found.dominated == {"c6": [f"c{i}" for i in range(6)]}
    assert found.correlations[0, 1] == pytest.approx(spearmanr(found.gains[:6]).statistic)
    better = (found.gains[None] > found.gains[:, None]).all(axis=2)
    assert np.all((found.dominance > 0.95) <= better)


def test_too_few_checkpoints_and_no_spread_are_said():
    two = analysed(simulated([[0.3, 0.7], [0.7, 0.3]]))
    assert np.isnan(two.correlations).all()
    assert two.proposal is None
    flat = [
        {"t0": Outcomes((0, 1), (1.0, 0.0)), "t1": o["t1"]}
        for o in simulated([[0, p] for p in (0.2, 0.5, 0.8)])
    ]
    found = analysed(flat)
    assert np.isnan(found.correlations[0, 1])
    assert not found.tradeoffs
    assert any("t0: no spread" in line for line in report.remarks(found))
    nothing = [{**row, "t0": Outcomes((0, 1), (0.0, 0.0))} for row in flat]
    lines = report.remarks(analysed(nothing))
    assert any("t0: every checkpoint scores 0" in line for line in lines)
    assert not any("t0: no spread" in line for line in lines)


# --- real studies ---


def study_file(root, drawer, **changes):
    file = toy.study_file(root, drawer, greedy=False, evaluations=1)
    table = yaml.safe_load(file.read_text())
    table |= {"candidates": table.pop("held_out"), "held_out": []} | changes
    file.write_text(yaml.safe_dump(table))
    return file


def test_scouted_singles_are_not_scored_again_by_the_study(tmp_path, drawer, monkeypatch):
    file = study_file(tmp_path, drawer)
    calls = []
    evaluate = LmEval.evaluate

    def counted(self, model, objectives, split, *rest):
        calls.append((split, tuple(o.name for o in objectives)))
        return evaluate(self, model, objectives, split, *rest)

    monkeypatch.setattr(LmEval, "evaluate", counted)
    ran = CliRunner().invoke(
        cli, ["scout", str(file), "--json", "--png", "a.png", "--html", "a.html"]
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert calls == [("dev", ("text", "choice", "word"))] * 4
    assert [(t["name"], t["role"]) for t in found["tasks"]] == [
        ("text", "searched"),
        ("choice", "searched"),
        ("word", "candidate"),
    ]
    assert found["tasks"][1]["chance"] == 0.25
    assert found["tasks"][1]["items_available"] == 40
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "rank correlation" in (tmp_path / "a.html").read_text().lower()
    calls.clear()
    workspace = Workspace()
    study = Study(submit(workspace, file).name, workspace).run()
    singles = [t for t in study.trials if t.kind == "single"]
    made = sum(t.kind != "single" for t in study.trials)
    assert len(singles) == 4
    assert calls.count(("dev", ("text", "choice"))) == made
    again = scout(workspace, file)  # everything is known
    assert again.scores.tolist() == [
        [t["scores"][n]["mean"] for t in found["tasks"]] for n in again.names
    ]
    rows = {row["name"]: row for row in workspace.store.studies()}
    row = rows["toy-scout"]
    assert (row["status"], row["complete"]) == ("complete", 4)
    assert (row["progress"]["done"], row["progress"]["total"]) == (4, 4)
    # other candidates: a new scouting under the same name, at the price of the new task alone
    calls.clear()
    scout(workspace, study_file(tmp_path, drawer, candidates=[]))
    assert calls == []


def test_bad_input_is_refused_before_anything_is_scored(tmp_path, drawer):
    workspace = Workspace()
    with pytest.raises(InvalidConfig, match="one checkpoint"):
        scout(workspace, study_file(tmp_path, drawer[:1]))
    other = [{"name": "choice2", "task": "choice", "metric": "acc", "cluster": "group"}]
    with pytest.raises(InvalidConfig, match="'choice2' changes the items of objective 'choice'"):
        scout(workspace, study_file(tmp_path, drawer, candidates=other))
    assert workspace.store.studies() == []
    file = study_file(tmp_path, drawer, study="toy-scout")
    submit(workspace, file)
    with pytest.raises(Conflict, match="another name"):
        scout(workspace, study_file(tmp_path, drawer))


# --- the proposal in the study file ---

FILE = """# my study
study: s
pool: [a, b]
objectives: # searched
  # the best task
  - { name: code, metric: bits_per_byte } # in bits
  - name: chat
    metric: acc
    floor: 0.2

  - { name: size, metric: merge.nonzero }
  - { name: facts, metric: acc }
# between
held_out:
- {name: prose, metric: bits_per_byte}   # no indent
candidates: [{ name: maths, metric: acc }, { name: law, metric: acc }] # perhaps
items: { dev: 10 } # few
"""


def test_the_proposal_is_written_with_all_comments_and_nothing_else_changed(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(FILE)
    copy = write_objectives(file, ["maths", "prose"])
    text = file.read_text()
    assert copy.read_text() == FILE
    made = read_study(file)
    assert [e.name for e in made.objectives] == ["chat", "size", "prose", "maths"]
    assert [e.name for e in made.held_out] == ["code", "facts"]
    assert [e.name for e in made.candidates] == ["law"]
    for comment in ("# my study", "# searched", "# the best task", "# in bits", "# between"):
        assert comment in text
    for comment in ("# no indent", "# perhaps", "# few"):
        assert comment in text
    assert write_objectives(file, ["maths", "prose"]).name == "s.yaml.before-scout-2"
    assert file.read_text() == text
    write_objectives(file, ["code", "law"])  # candidates are used up
    assert [e.name for e in read_study(file).candidates] == []


def test_a_file_that_can_not_be_edited_cleanly_is_left_as_it_is(tmp_path):
    file = tmp_path / "s.yaml"
    for bad in (
        FILE.replace("[{ name: maths", "[ # two\n  { name: maths"),
        FILE.replace("- {name: prose", "- &p {name: prose") + "# *p\n",
    ):
        file.write_text(bad)
        if "&p" in bad:
            write_objectives(file, ["prose"])  # an anchor alone does no harm
            assert [e.name for e in read_study(file).objectives][-1] == "prose"
            continue
        with pytest.raises(Conflict, match="unchanged"):
            write_objectives(file, ["maths"])
        assert file.read_text() == bad
        assert sorted(p.name for p in tmp_path.iterdir()) == ["s.yaml"]
    with pytest.raises(InvalidConfig, match="no task 'x'"):
        write_objectives(file, ["x"])
