"""Large studies: what is cut short for them, that it says nearly the same, and that small ones keep all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contracts.sampler import bowls, study_plan
from test_expectation import LUCK, drawer, expected_gains, rms, with_scores
from test_watch import advance

from recycler.evaluate.results import evaluation_of
from recycler.execute.inline import Inline
from recycler.front import expectation, inducing, pareto, resampling
from recycler.front.inducing import Inducing, affordable, inducing_rows
from recycler.front.posterior import Posterior
from recycler.front.prediction import Forecaster
from recycler.front.resampling import contenders, probabilities
from recycler.front.results import Results
from recycler.loop import run
from recycler.nouns.evaluation import Evaluation, Outcomes
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.status import Wanted
from recycler.nouns.trial import State, Trial
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore

# --- the surrogate ---


def observed(k: int, d: int = 4) -> tuple[Any, ...]:
    """Points of a simplex, noisy values of a bowl, their variances and the centre."""
    rng = np.random.default_rng(k)
    x = rng.dirichlet(np.ones(d), k)
    noise = rng.uniform(0.02, 0.08, k)
    values = -((x - x[0]) ** 2).sum(1) + noise * rng.standard_normal(k)
    return x, values, noise**2, np.full(d, 1 / d)


def test_with_every_trial_as_inducing_point_the_posterior_is_the_exact_one() -> None:
    given = observed(60)
    exact, through = Posterior(*given), Inducing(*given, rows=range(60))
    asked = np.random.default_rng(1).dirichlet(np.ones(4), 9)
    assert through.scales == exact.scales
    np.testing.assert_allclose(through.mean(asked), exact.mean(asked), atol=1e-5)
    np.testing.assert_allclose(through.at_trials(), exact.at_trials(), atol=1e-5)
    np.testing.assert_allclose(through.deviation(asked), exact.deviation(asked), atol=1e-4)
    np.testing.assert_allclose(through.covariance(asked), exact.covariance(asked), atol=1e-6)
    for found, known in zip(through.left_out(), exact.left_out(), strict=True):
        np.testing.assert_allclose(found, known, atol=1e-4)


def test_few_inducing_points_lose_little_and_say_so() -> None:
    """A third of 300 trials: nearly the same means, and deviations that are not smaller."""
    given = observed(300)
    exact, through = Posterior(*given), Inducing(*given, rows=range(0, 300, 3))
    asked = np.random.default_rng(1).dirichlet(np.ones(4), 50)
    spread = exact.deviation(asked)
    assert rms((through.mean(asked) - exact.mean(asked)) / spread) < 0.3
    assert (through.deviation(asked) > 0.95 * spread).all()
    drawn = through.draws(np.random.default_rng(2), 400)(asked)
    np.testing.assert_allclose(drawn.mean(1), through.mean(asked), atol=5 * spread.max() / 20)


def test_a_trial_between_the_inducing_points_is_still_believed() -> None:
    """A narrow peak that only one exact trial has seen, far from all inducing points."""
    x, values, _, centre = observed(80)
    values = values.copy()
    values[79] += 0.5
    exact = np.full(80, 1e-8)
    found = Inducing(x, values, exact, centre, rows=range(20)).at_trials()
    assert abs(found[79] - values[79]) < 0.05


def test_up_to_the_limit_the_posterior_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inducing, "EXACT", 40)
    plan = study_plan("dirichlet", 4, 1)
    for k, kind in ((40, Posterior), (41, Inducing)):
        x, values, variance, _ = observed(k)
        errors = np.sqrt(variance)[:, None]
        models = affordable(plan.points, np.array([-9.0]), x, values[:, None], errors)
        assert [type(model) for model, _ in models] == [kind]


def test_inducing_points_are_those_asked_for_the_best_and_others_evenly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inducing, "INDUCED", 40)
    y = np.random.default_rng(0).standard_normal((500, 2))
    rows = inducing_rows(y, first=[3, 499])
    assert {3, 499, *pareto.by_rank(y, 20)} <= {*rows}
    assert len(rows) == len({*rows}) == 40
    assert len(inducing_rows(y, first=range(500))) == 40
    others = [row for row in rows if row not in {3, 499, *pareto.by_rank(y, 20)}]
    assert max(np.diff(others)) < 2 * 500 / len(others)


def test_among_very_many_trials_what_is_expected_is_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, trials, truth = drawer()
    again = [
        with_scores(t, "select", truth[t.number] + 1.0, LUCK) if t.number > 30 else t
        for t in trials
    ]
    reference = Proposer(plan).reference(trials)
    assert reference is not None
    recipe = plan.recipe((0.3, 0.3, 0.2, 0.1, 0.1))

    def all_three() -> tuple[Any, ...]:
        ahead = expectation.predicted(plan, trials, reference, recipe)
        return expected_gains(plan, trials), expected_gains(plan, again, "select"), *ahead

    exact = all_three()
    monkeypatch.setattr(inducing, "EXACT", 20)
    monkeypatch.setattr(inducing, "INDUCED", 30)
    for found, known in zip(all_three(), exact, strict=True):
        assert found.shape == known.shape
        assert 0 < rms(found - known) < 0.15 * LUCK
    scores = plan.objectives.gains([t.means("dev") for t in trials])
    assert rms(expected_gains(plan, trials) - truth) < 0.75 * rms(scores - truth)


def test_no_matrix_grows_with_the_cube_of_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    root = np.linalg.cholesky
    monkeypatch.setattr(np.linalg, "cholesky", lambda a: sizes.append(len(a)) or root(a))
    plan = study_plan("dirichlet", 4, 1)
    for k in (300, 1000, 3000):
        x, values, variance, _ = observed(k)
        errors = np.sqrt(variance)[:, None]
        corner = np.array([-9.0])
        expectation.shrunk(plan, corner, x, values[:, None], errors)
    assert max(sizes) <= inducing.EXACT


# --- probabilities ---

TWO = Objectives((Objective("a"), Objective("b", "loss", "min")))


def crowd(k: int, items: int = 60) -> list[Trial]:
    """Trials with outcomes whose items are hard or easy for all of them alike."""
    rng, plan = np.random.default_rng(0), study_plan("dirichlet", 4, 2)
    hard = rng.standard_normal((2, items))
    trials = []
    for number in range(k):
        skill = rng.standard_normal(2) * 0.4
        at = skill[:, None] + hard + 0.3 * rng.standard_normal((2, items))
        outcomes = {
            "a": Outcomes(tuple(range(items)), tuple((at[0] > 0).astype(float).tolist())),
            "b": Outcomes(tuple(range(items)), tuple((-at[1]).tolist())),
        }
        scores = {name: o.score() for name, o in outcomes.items()}
        recipe = plan.recipe(tuple(rng.dirichlet(np.ones(4)).tolist()))
        trials.append(
            Trial(
                number=number,
                kind="search",  # type: ignore[arg-type]
                name=f"search {number}",
                recipe=recipe,
                state=State.COMPLETE,
                evaluations={"dev": Evaluation(split="dev", scores=scores, outcomes=outcomes)},
            )
        )
    return trials


def chances(trials: list[Trial]) -> dict[int, float]:
    found = [t.evaluations["dev"] for t in trials]
    shares = probabilities([e.outcomes for e in found], [e.scores for e in found], TWO)
    return dict(zip([t.number for t in trials], shares.tolist(), strict=True))


def test_a_crowd_is_judged_by_those_who_can_dominate(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = crowd(300)
    gains = TWO.gains([t.means("dev") for t in trials])
    members = [trials[row] for row in np.flatnonzero(pareto.nondominated(gains))]
    assert contenders(trials, members, TWO, "dev") == trials
    exact = chances(trials)
    monkeypatch.setattr(resampling, "CROWD", 100)
    few = contenders(trials, members, TWO, "dev")
    assert len(few) == 100
    assert [t.number for t in few] == sorted(t.number for t in few)
    assert {t.number for t in members} <= {t.number for t in few}
    found = chances(few)
    added = np.array([found[t.number] - exact[t.number] for t in members])
    assert (added >= 0).all()  # nobody else's luck can make a member dominated
    assert added.max() < 0.02
    last = [trials[number] for number in range(0, 300, 7)]  # members by another rule stay
    assert {t.number for t in last} <= {t.number for t in contenders(trials, last, TWO, "dev")}


def test_more_members_than_a_crowd_have_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = crowd(120, items=20)
    monkeypatch.setattr(resampling, "CROWD", 60)
    assert len(contenders(trials, trials, TWO, "dev")) == 120
    drawn = []
    counts = pareto.draw_counts
    monkeypatch.setattr(
        pareto, "draw_counts", lambda c, draws, rng: drawn.append(draws) or counts(c, draws, rng)
    )
    chances(trials)
    chances(trials[:60])
    assert drawn == [1000, 1000, 2000, 2000]
    monkeypatch.setattr(resampling, "CROWD", 1)
    chances(trials)
    assert drawn[-1] == resampling.FEWEST


def test_ranks_are_the_fronts_of_what_is_left() -> None:
    gains = np.round(np.random.default_rng(0).standard_normal((80, 2)), 1)
    gains[7] = np.nan
    rows = pareto.by_rank(gains, 1000)
    assert sorted(rows) == [row for row in range(80) if row != 7]
    left = np.ones(80, dtype=bool)
    while rows:
        front = np.flatnonzero(left)[pareto.nondominated(gains[left])].tolist()
        assert {*rows[: len(front)]} == {*front}
        average = (gains / np.ptp(np.delete(gains, 7, axis=0), axis=0)).mean(1)
        assert (np.diff(average[rows[: len(front)]]) <= 0).all()
        rows, left[front] = rows[len(front) :], False
    assert pareto.by_rank(gains, 5) == pareto.by_rank(gains, 1000)[:5]
    assert pareto.by_rank(np.empty((0, 3)), 5) == []


# --- readings ---


def test_a_large_study_unpacks_the_outcomes_of_a_crowd_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "CROWD", 40)
    monkeypatch.setattr(inducing, "EXACT", 50)
    monkeypatch.setattr(inducing, "INDUCED", 30)
    plan = study_plan("dirichlet", 4, 2, evaluations=150)
    store = SqlStore("sqlite://")
    store.create_study(plan)
    bowl, hard = bowls(4, 2), np.random.default_rng(0).normal(0, 0.3, (2, 50))

    def score(job: Any) -> Evaluation:
        gains = np.array(bowl(np.array(job.recipe.vector(plan.names))))
        noise = hard + np.random.default_rng(job.trial).normal(0, 0.2, (2, 50))
        values = (gains[:, None] + noise).tolist()
        rows = {f"f{j}": Outcomes(tuple(range(50)), tuple(values[j])) for j in range(2)}
        return evaluation_of(job, rows, "", {})

    left = iter([Wanted.RUN] * 120)
    how = {"wanted": lambda: next(left, Wanted.STOP)}
    run(plan, store, Proposer(plan), Inline(lambda: score), **how)
    reading = store.read(plan.name)
    asked = []

    def counted(number: int, split: str) -> Any:
        asked.append((number, split))
        return reading.outcomes(number, split)

    results = Results(replace(reading, outcomes=counted))
    table = results.front_json()
    assert len({number for number, _ in asked}) <= 40 + len(results.baselines)
    assert all(0 < member["p_nondominated"] <= 1 for member in table["members"])
    assert all(member["expected"] for member in table["members"])
    assert Forecaster(results).at(plan.recipe((0.4, 0.3, 0.2, 0.1))).forecasts


def test_whether_a_study_is_rechecked_is_what_its_due_trials_say() -> None:
    """The answer is often known without asking who is due: it must be the same."""
    plan = study_plan("auto", 4, 2, evaluations=8, greedy=True)
    store = SqlStore("sqlite://")
    store.create_study(plan)
    seen = set()
    while True:
        results = Results.read(store, plan.name)
        for split in ("select", "test"):
            done, wanted = results.rechecks[split]
            over = results.status["status"] == "complete" and done > 0
            assert results.is_rechecked(split) == (over or 0 < wanted == done)
            seen.add((split, results.is_rechecked(split)))
        if results.status["status"] == "complete":
            break
        advance(plan, store, 3)
    assert len(seen) == 4


def test_memory_holds_the_texts_of_a_ledger_once(file: str) -> None:
    plan, store = study_plan("dirichlet", 3, 2, evaluations=6), SqlStore(file)
    store.create_study(plan)
    advance(plan, store, 9)
    trials = SqlStore(file).trials(plan.name)
    texts: dict[str, set[int]] = {}
    for trial in trials:
        for item in trial.recipe.ingredients:
            texts.setdefault(item.fingerprint, set()).add(id(item.fingerprint))
            texts.setdefault(item.name, set()).add(id(item.name))
        for name in trial.evaluations["dev"].scores:
            texts.setdefault(name, set()).add(id(name))
    assert len(texts) == 3 + 3 + 2
    assert all(len(objects) == 1 for objects in texts.values())


def test_scores_become_gains_by_name_and_direction() -> None:
    rows = [{"b": 2.0, "a": 1.0}, {"a": 3.0}, {}]
    found = TWO.gains(rows)
    np.testing.assert_array_equal(found, [[1.0, -2.0], [3.0, np.nan], [np.nan, np.nan]])
    assert found.flags.c_contiguous
    assert TWO.gains([]).shape == (0, 2)
