"""What people look at says what the ledger says."""

import html

import moocore
import numpy as np
import pytest
from studies import World, finished

from recycler.checkpoints.pool import Pool
from recycler.loop import Progress as Step
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import State
from recycler.report import text
from recycler.report.card import honest_split, model_card
from recycler.report.figures import front_figure, front_png, groups, trace, weights_figure
from recycler.report.page import html_page
from recycler.report.progress import ProgressBar
from recycler.report.tables import front_table
from recycler.study import Study
from recycler.submit.workspace import Workspace


@pytest.fixture
def study(tmp_path_factory):
    world: World = finished(tmp_path_factory.getbasetemp())
    return world.open().results


def test_the_hypervolume_trace_never_falls_and_ends_at_moocores_volume(study):
    values = trace(study)
    scored = [t for t in study.trials if t.state == State.COMPLETE]
    assert len(values) == len(scored)
    assert values == sorted(values)
    gains = study.plan.objectives.gains([t.means("dev") for t in scored])
    exact = moocore.hypervolume(gains, ref=np.asarray(study.reference), maximise=True)
    assert values[-1] == pytest.approx(exact, rel=1e-12)
    assert values[-1] > 0


def test_the_card_names_every_weight_the_split_and_the_digest(study):
    trial = next(t for t in study.trials if t.kind == "uniform")
    card = model_card(study, trial)
    for name, weight in trial.recipe.weights.items():
        assert f"| {name} | {weight:.4f} |" in card
    assert honest_split(trial) == "test"
    assert "## Scores on test items" in card
    assert "never seen by the search" in card
    assert trial.digest in card
    for name, score in trial.evaluations["test"].scores.items():
        assert f"| {name} [" in card
        assert f"{score.mean:.4g} ± {score.stderr:.2g} ({score.items} items)" in card


def test_the_card_of_a_trial_seen_by_the_search_alone_warns(study):
    trial = next(t for t in study.trials if "test" not in t.evaluations)
    card = model_card(study, trial)
    assert "**Optimistic:**" in card
    assert f"## Scores on {honest_split(trial)} items" in card


def test_the_cards_best_baseline_is_the_best_by_its_direction(study):
    trial = next(t for t in study.trials if t.kind == "uniform")
    rivals = [t for t in study.baselines if t.number != trial.number]
    best = min(rivals, key=lambda t: t.means("test")["text"])  # bits per byte: lower is better
    scores = model_card(study, trial).partition("## Scores on")[2]
    line = next(row for row in scores.splitlines() if row.startswith("| text"))
    assert f"{best.means('test')['text']:.4g} ({best.name})" in line


def test_figures_show_every_trial_of_the_split_once(study):
    shown = [t.number for trials in groups(study, "test").values() for t in trials]
    scored = [t.number for t in study.trials if "test" in t.evaluations]
    assert sorted(shown) == scored
    points = sum(len(part.x) for part in front_figure(study).data)
    assert points == len(scored)  # two objectives: one panel


def test_the_weights_figure_rows_are_the_members_weights(study):
    grid = np.array(weights_figure(study).data[0].z)
    assert grid.sum(axis=1) == pytest.approx(np.ones(len(study.front.trials)))
    for row, trial in zip(grid, study.front.trials, strict=True):
        assert tuple(row) == trial.recipe.vector(study.plan.names)


def test_the_picture_is_a_png_and_rings_the_chosen_trial(study):
    plain, ringed = front_png(study), front_png(study, highlight=study.front.knee().number)
    assert plain.startswith(b"\x89PNG\r\n\x1a\n")
    assert plain != ringed


def test_the_page_shows_the_front_the_baselines_and_the_knee(study):
    page = html_page(study)
    assert page.startswith("<!doctype html>")
    knee = study.front.knee()
    assert f"{knee.name} (knee)" in page
    for trial in (*study.front.trials, *study.baselines):
        assert f"<td>{trial.number}</td><td>{trial.name}" in page
    assert page.count('<tr class="front') == len(study.front.trials)


def test_the_table_holds_scores_and_weights_of_members_and_baselines(study):
    table = front_table(study).set_index("trial")
    members = {t.number for t in study.front.trials}
    assert set(table.index) == members | {t.number for t in study.baselines}
    assert set(table.index[table["on_front"]]) == members
    for number, row in table.iterrows():
        trial = study.trial(number)
        assert row["text.test"] == trial.means("test")["text"]
        assert row["choice.dev.stderr"] == trial.evaluations["dev"].scores["choice"].stderr
        weights = [row[f"weight.{name}"] for name in study.plan.names]
        assert tuple(weights) == trial.recipe.vector(study.plan.names)


def test_the_terminal_shows_front_and_held_out_scores(study, capsys):
    text.front(study)
    said = capsys.readouterr().out
    assert "on test items" in said
    assert "held out, never seen by the search" in said
    assert "Hypervolume on test items" in said
    assert "Optimistic" not in said


def test_the_verdict_is_said_wherever_the_front_is_shown(study, capsys):
    sentence = study.verdict().sentence
    text.front(study)
    said = " ".join(capsys.readouterr().out.split())
    assert sentence in " ".join(said.replace("│", " ").split())
    assert html.escape(sentence) in html_page(study)
    assert study.decision.title in said
    assert html.escape(study.decision.title) in html_page(study)
    trial = next(t for t in study.trials if t.kind == "uniform")
    own = study.verdict(trial)
    assert own.trial == trial.number
    assert own.sentence in model_card(study, trial)


def test_regrets_stand_in_the_table_and_on_the_page(study):
    table, page = front_table(study).set_index("trial"), html_page(study)
    for member, regret in zip(study.front.members, study.regrets, strict=True):
        row = table.loc[member.trial.number]
        for name, value in regret.items():
            assert row[f"{name}.regret"] == value >= 0
            small = "best" if value == 0 else f"{value:.3f} behind"
            assert f"<small>{small}</small>" in page
    alone = table[~table["on_front"]]
    assert alone["text.regret"].isna().all()


def test_a_front_on_which_nobody_meets_the_floors_says_so_loudly(drawer, tmp_path, capsys):
    workspace, pool = Workspace(), Pool.open(drawer[:3])
    (tmp_path / "norms.py").write_text(
        "def score(model, tokenizer, split):\n"
        "    norms = [float(p.detach().norm()) for p in model.parameters()]\n"
        "    return {'big': norms, 'small': norms}\n"
    )
    options = {
        "evaluator": {"kind": "python", "function": "norms:score"},
        "sampler": "dirichlet",
        "evaluations": 2,
        "root": tmp_path,
        "workspace": workspace,
    }

    def made(name, floor):
        objectives = [
            Objective("big", "value", "max", floor=floor),
            Objective("small", "value", "min"),
        ]
        return Study.create(name, pool, objectives, **options).run().results

    hopeless, easy = made("hopeless", "best-single * 9"), made("easy", "best-single * 0.1")
    text.front(hopeless)
    said = " ".join(capsys.readouterr().out.split())
    assert "NO MERGE MEETS THE FLOORS (big best-single * 9) on select items" in said
    assert "(below floor)" in said
    assert '<p class="bad">NO MERGE MEETS THE FLOORS' in html_page(hopeless)
    table = hopeless.front_json()
    assert not table["feasible"]
    assert table["members"]
    best = max(t.means("test")["big"] for t in hopeless.trials if t.kind == "single")
    assert table["floors"]["test"] == {"big": pytest.approx(9 * best)}
    assert not any(member["meets_floors"] for member in table["members"])
    text.front(easy)
    assert "NO MERGE" not in capsys.readouterr().out
    page = html_page(easy)
    assert "Dashed: the floors, big best-single * 0.1" in page
    assert easy.front_json()["feasible"]


def test_progress_tells_what_the_next_evaluations_are_expected_to_add(study, capsys):
    with ProgressBar() as bar:
        bar.step(Step("search", 3, 3, study.trials[0], 0.0042))
    said = capsys.readouterr().err
    assert "searching: 3/3" in said
    assert "next 10 evaluations: +0.4% expected" in said
