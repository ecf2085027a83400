"""What is done otherwise for very many trials, against what is done for few."""

import numpy as np
import pytest

from recycler.front import inducing, pareto
from recycler.front.inducing import Inducing, inducing_rows
from recycler.front.posterior import Posterior
from recycler.front.resampling import CROWD, contenders
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.trial import Kind, State, Trial


def landscape(k, d=4, seed=0):
    """(k, d) weights, (k,) noisy gains and (k,) variances of a smooth function."""
    rng = np.random.default_rng(seed)
    x = rng.dirichlet(np.ones(d), k)
    truth = 1 - 2 * ((x - np.array([0.4, 0.3, 0.2, 0.1])[:d]) ** 2).sum(1)
    return x, truth + rng.normal(0, 0.05, k), np.full(k, 0.05**2), truth


def test_with_every_trial_as_an_inducing_point_it_is_the_exact_posterior():
    x, y, variance, _ = landscape(60)
    centre, queries = np.full(4, 0.25), landscape(20, seed=1)[0]
    exact = Posterior(x, y, variance, centre)
    short = Inducing(x, y, variance, centre, range(len(x)))
    assert short.scales == exact.scales
    np.testing.assert_allclose(short.mean(queries), exact.mean(queries), atol=2e-4)
    np.testing.assert_allclose(short.deviation(queries), exact.deviation(queries), atol=2e-4)
    np.testing.assert_allclose(short.at_trials(), exact.at_trials(), atol=2e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_through_few_points_it_stays_within_a_fraction_of_the_exact_uncertainty(seed):
    x, y, variance, _ = landscape(420, seed=seed)
    centre, queries = np.full(4, 0.25), landscape(50, seed=9)[0]
    exact = Posterior(x, y, variance, centre)
    short = Inducing(x, y, variance, centre, inducing_rows(y[:, None])[:200])
    off = np.abs(short.mean(queries) - exact.mean(queries)) / exact.deviation(queries)
    assert off.max() < 0.5


def test_more_trials_than_the_exact_posterior_takes_still_average_their_noise_out():
    x, y, variance, truth = landscape(inducing.EXACT + 200)
    rows = inducing_rows(y[:, None])
    assert len(rows) == inducing.INDUCED == len(set(rows))
    found = Inducing(x, y, variance, np.full(4, 0.25), rows).at_trials()
    assert np.abs(found - truth).mean() < 0.25 * np.abs(y - truth).mean()


def test_rows_by_rank_are_fronts_of_what_is_left():
    rng = np.random.default_rng(3)
    gains = rng.normal(size=(80, 3))
    gains[5] = np.nan
    order, left = pareto.by_rank(gains, 80), set(range(80)) - {5}
    assert sorted(order) == sorted(left)
    while left:
        front = {
            i
            for i in left
            if not any((gains[j] >= gains[i]).all() and (gains[j] > gains[i]).any() for j in left)
        }
        assert set(order[: len(front)]) == front
        order, left = order[len(front) :], left - front


def trials(count):
    rng = np.random.default_rng(0)
    made = []
    for number, row in enumerate(rng.normal(size=(count, 2))):
        scores = {name: Score(float(v), 0.1, 10) for name, v in zip("ab", row, strict=True)}
        evaluation = Evaluation(split="dev", scores=scores)
        made.append(
            Trial(
                number=number,
                kind=Kind.SEARCH,
                name=f"search {number}",
                recipe=None,
                state=State.COMPLETE,
                evaluations={"dev": evaluation},
            )
        )
    return made


def test_contenders_are_all_up_to_a_crowd_and_then_the_members_and_the_best_ranks():
    objectives = Objectives((Objective("a", "acc"), Objective("b", "acc")))
    few = trials(CROWD)
    assert contenders(few, few[:3], objectives, "dev") == few
    many = trials(CROWD + 300)
    gains = objectives.gains([t.means("dev") for t in many])
    worst = many[int(gains.sum(1).argmin())]
    found = contenders(many, [worst], objectives, "dev")
    assert len(found) == CROWD
    assert worst in found
    front = [t for t, best in zip(many, pareto.nondominated(gains), strict=True) if best]
    assert all(trial in found for trial in front)
