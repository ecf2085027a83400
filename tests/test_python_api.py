"""What Python users hold: tables, figures, HTML of notebooks, Optuna's copy, the page of the API."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest
from studies import NAME, World, finished

import recycler
from recycler import Front, Pool, RecyclerError, Study
from recycler.errors import Conflict, MissingExtra
from recycler.front import pareto
from recycler.markup import ROWS, html_table
from recycler.nouns.trial import State
from recycler.report.progress import ProgressBar
from recycler.search import optuna_copy

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return finished(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def study(world) -> Study:
    return Study.load(NAME, world.store)


def test_the_table_of_trials_holds_what_the_json_holds(study):
    table, results = study.trials_dataframe(), study.results
    assert list(table["trial"]) == [t.number for t in results.trials]
    for _, row in table.iterrows():
        told = results.trial_json(row["trial"])
        assert (row["name"], row["kind"], row["state"]) == tuple(
            told[key] for key in ("name", "kind", "state")
        )
        for split in ("dev", "select", "test"):
            for objective in study.plan.objectives:
                score = told.get(split, {}).get(objective.name)
                column = f"{objective.name}.{split}"
                if score is None:
                    assert np.isnan(row[column])
                    continue
                assert row[column] == score["mean"]
                assert row[f"{column}.stderr"] == score["stderr"]
                assert row[f"{column}.items"] == score["items"]
        weights = {n: row[f"weight.{n}"] for n in study.plan.names if row[f"weight.{n}"]}
        assert weights == told["weights"]
    assert set(table["trial"][table["on_front"]]) == {t.number for t in study.front.trials}


def test_the_table_of_the_front_holds_what_the_json_holds(study):
    table, told = study.front.dataframe(), study.results.front_json()["members"]
    assert list(table["trial"]) == [member["trial"] for member in told]
    for (_, row), member in zip(table.iterrows(), told, strict=True):
        assert row["p_nondominated"] == member["p_nondominated"]
        assert row["text.test"] == member["test"]["text"]["mean"]
        assert row["text.test.stderr"] == member["test"]["text"]["stderr"]
        assert row["text.expected"] == pytest.approx(member["expected"]["text"])
        assert sum(value for key, value in row.items() if key.startswith("weight.")) == (
            pytest.approx(1.0)
        )


@pytest.mark.parametrize(
    "plot", ["front", "parallel", "weights", "roles", "hypervolume", "differences"]
)
def test_every_plot_is_a_plotly_figure_with_points(study, plot):
    figure = getattr(study, f"plot_{plot}")()
    assert isinstance(figure, go.Figure)
    assert any(part.x is not None and len(part.x) for part in figure.data)
    if plot == "hypervolume":
        assert len(figure.data[0].x) == sum(t.state == State.COMPLETE for t in study.trials)


def test_optunas_best_trials_are_the_pareto_set_on_dev_items(study):
    copied, trials = study.to_optuna(), study.trials
    gains = study.plan.objectives.gains([t.means("dev") for t in trials])
    best = {t.number for t, keep in zip(trials, pareto.nondominated(gains), strict=True) if keep}
    assert {t.number for t in copied.best_trials} == best
    assert copied.metric_names == ["text", "choice"]
    ways = [direction.name for direction in copied.directions]
    assert ways == ["MINIMIZE", "MAXIMIZE"]
    for mine, theirs in zip(trials, copied.trials, strict=True):
        assert tuple(theirs.params.values()) == mine.recipe.vector(study.plan.names)
        assert theirs.values == [mine.means("dev")["text"], mine.means("dev")["choice"]]
        assert theirs.user_attrs["name"] == mine.name
        error = mine.evaluations["dev"].scores["text"].stderr
        assert theirs.user_attrs["text.dev.stderr"] == error


def test_a_copy_in_a_database_is_opened_by_optuna_and_never_replaced(study, tmp_path):
    url, before = f"sqlite:///{tmp_path / 'optuna.db'}", study.results.event
    made = study.to_optuna(url)
    again = optuna.load_study(study_name=NAME, storage=url)
    assert [t.values for t in again.trials] == [t.values for t in made.trials]
    with pytest.raises(Conflict, match="has a study 'toy' already"):
        study.to_optuna(url)
    assert study.results.event == before


def test_the_dashboard_names_the_package_that_it_needs(monkeypatch):
    monkeypatch.setattr(optuna_copy, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        optuna_copy.require_dashboard()
    assert "pip install 'recycler[dashboard]'" in caught.value.hint


def test_values_in_notebooks_are_small_escaped_tables(study, drawer):
    pool = Pool.open(drawer)
    shown = pool._repr_html_()
    assert all(f"<td>{name}</td>" in shown for name in pool.names)
    front = study.front._repr_html_()
    assert front.count("<tr>") == 1 + min(len(study.front.members), ROWS)
    assert front in study._repr_html_()
    assert "Study toy: complete" in study._repr_html_()
    empty = Front(
        objectives=study.plan.objectives, members=(), basis="dev", certainty="dev", reference=None
    )
    assert "Front of 0 merges" in empty._repr_html_()
    assert "&lt;b&gt;" in html_table("t", ["<b>"], [["<b>"]])
    assert "<b>" not in html_table("<b>", ["<b>"], [["<b>"]])
    assert "… and 3 more" in html_table("t", ["a"], [[i] for i in range(ROWS + 3)])


def test_a_run_shows_progress_only_when_asked_outside_notebooks(world, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # other tests may have loaded it
    world.open().run()
    assert capsys.readouterr().err == ""
    heard = []
    world.open().run(listen=heard.append, progress=True)
    assert heard
    assert f"searching: {heard[0].done}/{heard[0].total}" in capsys.readouterr().err
    assert ProgressBar(quiet=True)._page is None


def test_the_page_of_the_api_is_made_from_the_docstrings():
    spec = importlib.util.spec_from_file_location("api_docs", BENCH / "api_docs.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    fresh = made.document()
    assert made.FILE.read_text(encoding="utf-8") == fresh, "run bench/api_docs.py --write"
    assert all(f"### {name}\n" in fresh for name in recycler.__all__)
    assert issubclass(RecyclerError, Exception)
    assert "0x" not in fresh  # no address of an object
    missing = [
        f"{name}.{label}"
        for name in recycler.__all__
        if isinstance(thing := getattr(recycler, name), type)
        for label, member in vars(thing).items()
        if callable(member) and not label.startswith("_") and not member.__doc__
    ]
    assert missing == []
