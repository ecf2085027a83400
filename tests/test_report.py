"""What people look at says what the ledger says."""

import html
from dataclasses import replace

import moocore
import numpy as np
import pytest
from studies import World, finished

from recycler import search
from recycler.checkpoints.pool import Pool
from recycler.front import pareto
from recycler.front.results import Results
from recycler.loop import Progress as Step
from recycler.nouns.evaluation import Outcomes, error_correlation
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import State
from recycler.report import text
from recycler.report.axes import axes, ellipses, outside
from recycler.report.card import honest_split, model_card
from recycler.report.figures import caption_of, front_figure, parallel_figure
from recycler.report.forest import MARKS, forest_figure
from recycler.report.groups import groups
from recycler.report.page import html_page
from recycler.report.picture import front_png
from recycler.report.progress import ProgressBar
from recycler.report.tables import front_table
from recycler.report.volume import trace, trace_figure
from recycler.report.weights import effective_number, roles_figure, weights_figure
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
    drawn = [tuple(row) for part in front_figure(study).data for row in part.customdata or ()]
    means = [study.trial(number).means("test") for number in shown]
    assert drawn == [(mean["text"], mean["choice"]) for mean in means]  # two objectives: one panel


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
    pick = study.decision.pick
    marks = "(pick) (knee)" if pick.number == knee.number else "(knee)"
    assert f"<td>{knee.name} {marks}</td>" in page
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


# --- axes, errors, captions ---


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Seven checkpoints, one of them broken: twenty times worse in both objectives."""
    store = f"sqlite:///{tmp_path_factory.mktemp('broken') / 'ledger.db'}"
    skill = np.random.default_rng(0).uniform(0.4, 0.6, (2, 7))
    noise = np.random.default_rng(1).normal(0, 0.05, (2, 50))

    def function(w):
        good = skill @ w - 20.0 * max(0.0, w[0] - 0.9)
        return [good[0] + noise[0], 1.0 - good[1] + noise[1]]

    search(function, 7, ["max", "min"], evaluations=6, sampler="sobol", greedy=False, store=store)
    return Results.read(Workspace(store).store, "search")


def test_one_broken_checkpoint_squashes_no_axis(broken):
    ranges = axes(broken, "dev")
    singles = [t for t in broken.trials if t.kind == "single"]
    best = pareto.nondominated(broken.plan.objectives.gains([t.means("dev") for t in singles]))
    core = [*broken.front.trials, *(t for t, keep in zip(singles, best, strict=True) if keep)]
    for objective in broken.plan.objectives:
        scores = [t.means("dev")[objective.name] for t in core]
        axis = ranges[objective.name]
        assert all(map(axis.shows, scores))
        assert axis.high - axis.low < 3 * np.ptp(scores)
        ruined = broken.trial(0).means("dev")[objective.name]
        assert not axis.shows(ruined)
        assert axis.low < axis.inside([ruined])[0] < axis.high
        assert axis.share([axis.ends[1]]) == [1.0]
    up, down = ranges["f0"], ranges["f1"]
    assert up.ends[0] < up.ends[1]
    assert down.ends[0] > down.ends[1]  # smaller is better: the axis runs backwards
    figure = front_figure(broken)
    hidden = outside(ranges, broken.trials, "dev")
    assert hidden[0].name == "single:w0"
    assert (
        f"{len(hidden)} points lie outside the axes and are drawn open, at the border: single:w0"
        in (caption_of(figure))
    )
    drawn = [p for p in figure.data if p.customdata is not None]
    open_ones = [s for part in drawn for s in part.marker.symbol if s.endswith("-open")]
    assert len(open_ones) == len(hidden)
    assert html.escape(caption_of(figure)) in html_page(broken)


def test_ellipses_have_the_covariance_of_a_paired_bootstrap():
    rng = np.random.default_rng(3)
    first = rng.normal(size=400)
    one = Outcomes(tuple(range(400)), tuple(first), tuple(rng.uniform(1, 3, 400)))
    other = Outcomes(one.ids, tuple(-0.8 * first + rng.normal(size=400)), (), one.ids[::2] * 2)
    counts = pareto.draw_counts(400, 4000, rng)
    drawn = pareto.bootstrap_means(
        np.array([one.values, other.values]),
        np.stack([one.arrays()[1], other.arrays()[1]]),
        np.arange(400),
        counts,
    )
    assert error_correlation(one, other) == pytest.approx(np.corrcoef(drawn.T)[0, 1], abs=0.03)
    assert error_correlation(one, one) == pytest.approx(1.0)
    assert error_correlation(one, replace(other, ids=tuple(range(1, 401)))) == 0.0
    assert error_correlation(None, other) == 0.0


def test_ellipses_reach_one_standard_error_along_each_axis(study):
    text_, choice = study.plan.objectives.searched
    for trial, ring in zip(
        study.front.trials, ellipses(study, study.front.trials, text_, choice, "test"), strict=True
    ):
        scores = trial.evaluations["test"].scores
        for column, objective in enumerate((text_, choice)):
            score = scores[objective.name]
            reach = ring[:, column].max() - score.mean
            assert reach == pytest.approx(score.stderr, rel=0.01)


def test_the_volume_is_a_multiple_of_the_baselines(study):
    unit = study.front_json()["baseline_hypervolume"]["dev"]
    assert list(trace_figure(study).data[0].y) == pytest.approx([v / unit for v in trace(study)])
    table = study.front_json()
    multiple = table["hypervolume"]["test"] / table["baseline_hypervolume"]["test"]
    assert f"{multiple:.3f} times that of singles and baselines" in html_page(study)


def test_the_effective_number_of_checkpoints():
    assert effective_number([0.0, 1.0, 0.0]) == 1.0
    assert effective_number([0.25] * 4) == pytest.approx(4.0)
    assert effective_number([1.0, -1.0]) == pytest.approx(2.0)
    assert effective_number([0.5, 0.25, 0.25]) == pytest.approx(8 / 3)


def test_every_line_of_the_parallel_coordinates_is_a_trial(study):
    lines = parallel_figure(study).data
    columns = len(study.plan.objectives.all)
    assert sum(y is None for part in lines for y in part.y) == sum(
        "test" in t.evaluations for t in study.trials
    )
    assert {len([y for y in part.y if y is not None]) % columns for part in lines} == {0}
    assert all(0 <= y <= 1 for part in lines for y in part.y if y is not None)
    assert "word*" in lines_labels(parallel_figure(study))  # held out


def lines_labels(figure):
    return list(figure.layout.xaxis.ticktext)


def test_the_roles_figure_sets_mean_weights_against_single_scores(study):
    figure = roles_figure(study)
    assert len(figure.data) == study.plan.objectives.m
    weights = np.mean([t.recipe.vector(study.plan.names) for t in study.front.trials], axis=0)
    singles = {t.name: t for t in study.trials if t.kind == "single"}
    for part, objective in zip(figure.data, study.plan.objectives.searched, strict=True):
        assert list(part.y) == pytest.approx(list(weights))
        for name, score in part.customdata:
            assert score == singles[f"single:{name}"].means("test")[objective.name]


def test_the_forest_draws_the_paired_differences(study):
    verdict = study.decision.verdict
    figure = forest_figure(verdict)
    searched = [o.name for o in study.plan.objectives]
    found = [
        row
        for name in searched
        for rival in verdict.comparisons
        for row in rival.objectives
        if row.objective.name == name
    ]
    assert len(found) == 3 * len(verdict.comparisons)
    assert [x for part in figure.data for x in part.x] == [row.difference for row in found]
    marks = [mark for part in figure.data for mark in part.marker.symbol]
    assert marks == [MARKS[row.word][1] for row in found]
    ends = [row.interval[1] - row.difference for row in found]
    assert [up for part in figure.data for up in part.error_x.array] == pytest.approx(ends)
    assert html.escape(caption_of(figure)) in html_page(study)


def test_every_figure_of_the_page_has_a_caption(study):
    page = html_page(study)
    assert page.count("<figcaption>") == page.count("<figure>") == 6
    assert "<figcaption></figcaption>" not in page
    assert "@media print" in page
