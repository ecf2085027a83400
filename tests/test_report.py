"""What people look at says what the ledger says."""

import moocore
import numpy as np
import pytest
from studies import World, finished

from recycler.report import text
from recycler.report.card import honest_split, model_card
from recycler.report.figures import front_figure, front_png, groups, trace, weights_figure
from recycler.report.page import html_page
from recycler.report.tables import front_table
from recycler.trial import COMPLETE


@pytest.fixture
def study(tmp_path_factory):
    world: World = finished(tmp_path_factory.getbasetemp())
    return world.open()


def test_the_hypervolume_trace_never_falls_and_ends_at_moocores_volume(study):
    values = trace(study)
    scored = [t for t in study.trials if t.state == COMPLETE]
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
    line = next(row for row in model_card(study, trial).splitlines() if row.startswith("| text"))
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
