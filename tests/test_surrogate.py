"""The surrogate: its posterior against brute force, its scales, its proposals."""

from dataclasses import replace

import numpy as np
import pytest
from contracts.sampler import bowls, ended, opening, proceed, study_plan, vectors

from recycler.front.posterior import (
    CONSTANT,
    Posterior,
    Scales,
    Squeeze,
    _prior_draws,
    kernel,
)
from recycler.nouns.evaluation import Failure
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial
from recycler.registry import resolve
from recycler.search.optuna_box import ask, problem_of
from recycler.search.samplers import SAMPLERS, Proposer


def data(n: int = 5, k: int = 20, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Merges and the gains of a quadratic bowl whose best is at `target(n)`."""
    rng = np.random.default_rng(0)
    x = np.concatenate([np.eye(n), rng.dirichlet(np.full(n, 0.5), k - n)])
    return x, -((x - target(n)) ** 2).sum(1) + noise * rng.standard_normal(k)


def centre(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def target(n: int) -> np.ndarray:
    return np.arange(n) / np.arange(n).sum()


def test_the_kernel_is_that_of_its_explicit_features() -> None:
    """Constant, n linear and n² quadratic features; the smooth part left out."""
    x, _ = data()
    z = x - 1 / 5
    quadratic = np.einsum("ki,kj->kij", z, z).reshape(len(x), -1)
    features = np.hstack([np.full((len(x), 1), CONSTANT**0.5), 2**0.5 * z, 3**0.5 * quadratic])
    scales = Scales(linear=2.0, quadratic=3.0, smooth=0.0)
    np.testing.assert_allclose(kernel(scales, centre(5), x, x), features @ features.T, atol=1e-12)


def test_the_mean_is_that_of_the_textbook_formula() -> None:
    """K* (K + S)^-1 y on standardised values, by a dense inverse."""
    x, y = data(noise=0.02)
    variance = np.linspace(1e-4, 4e-4, len(x))
    posterior = Posterior(x, y, variance, centre(5))
    other = np.random.default_rng(1).dirichlet(np.ones(5), 7)
    noise = posterior.scales.noise * variance / y.var()
    gram = kernel(posterior.scales, centre(5), x, x) + np.diag(noise)
    expected = (
        kernel(posterior.scales, centre(5), other, x) @ np.linalg.inv(gram) @ (y - y.mean())
        + y.mean()
    )
    np.testing.assert_allclose(posterior.mean(other), expected, rtol=1e-4, atol=1e-5)
    across = kernel(posterior.scales, centre(5), other, x)
    prior = kernel(posterior.scales, centre(5), other, other)
    covariance = prior - across @ np.linalg.inv(gram) @ across.T
    spread = y.std() * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(posterior.deviation(other), spread, rtol=1e-3)


def test_draws_have_the_posteriors_mean_and_covariance() -> None:
    """Moments of 3000 draws against the closed form; five standard errors of slack."""
    x, y = data(n=3, k=8)
    posterior = Posterior(x, y, np.full(8, 1e-3), centre(3))
    s, rng = posterior.scales, np.random.default_rng(2)
    other = rng.dirichlet(np.ones(3), 3)
    draws = np.hstack([posterior.draws(rng, 2)(other) for _ in range(1500)]).T
    noise = s.noise * np.full(8, 1e-3) / y.var()
    cross = kernel(s, centre(3), other, x)
    gram = kernel(s, centre(3), x, x) + np.diag(noise)
    covariance = y.var() * (
        kernel(s, centre(3), other, other) - cross @ np.linalg.solve(gram, cross.T)
    )
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(0) - posterior.mean(other)) < 5 * spread / 3000**0.5).all()
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.1)


def test_prior_draws_have_the_kernels_covariance() -> None:
    rng = np.random.default_rng(3)
    x, scales = rng.dirichlet(np.ones(4), 3), Scales(0.5, 2.0, 1.0, 0.4)
    draws = np.hstack([_prior_draws(scales, centre(4), rng, 2)(x) for _ in range(3000)]).T
    wanted = kernel(scales, centre(4), x, x)
    np.testing.assert_allclose(np.cov(draws.T), wanted, atol=0.06 * wanted.max())


def test_a_known_quadratic_is_recovered_between_its_trials() -> None:
    x, y = data(n=4, k=30)
    other = np.random.default_rng(4).dirichlet(np.ones(4), 50)
    truth = -((other - target(4)) ** 2).sum(1)
    assert np.abs(Posterior(x, y, None, centre(4)).mean(other) - truth).max() < 0.02 * y.std()


def test_unknown_noise_is_estimated_not_taken_for_zero() -> None:
    """Noise of half the values' spread: believed zero, the mean would run through every value."""
    x, clean = data(n=4, k=60)
    noisy = clean + 0.5 * clean.std() * np.random.default_rng(5).standard_normal(60)
    posterior = Posterior(x, noisy, None, centre(x.shape[1]))
    assert posterior.scales.noise >= 0.03
    errors = posterior.mean(x) - clean
    assert np.sqrt((errors**2).mean()) < 0.75 * np.sqrt(((noisy - clean) ** 2).mean())


def test_values_far_below_the_floor_are_squeezed_and_those_above_stay() -> None:
    """By hand: 3 units below the floor become log(1 + 3) units, errors shrink by 1 / (1 + 3)."""
    squeeze, gains = Squeeze(floor=1.0, unit=2.0), np.array([2.0, 1.0, -5.0])
    values, factor = squeeze(gains)
    np.testing.assert_allclose(values, [2.0, 1.0, 1.0 - 2.0 * np.log(4)], rtol=1e-15)
    np.testing.assert_allclose(factor, [1.0, 1.0, 0.25], rtol=1e-15)
    np.testing.assert_allclose(squeeze.undone(values), gains, rtol=1e-15)


def test_the_squeeze_begins_three_spreads_below_the_median_or_at_the_corner() -> None:
    """By hand: median 8, best 10, so 8 - 3 · 2 = 2; a corner above that comes first."""
    values = np.array([0.0, 8.0, 10.0])
    assert Squeeze.of(values, -100.0) == Squeeze(floor=2.0, unit=8.0)
    assert Squeeze.of(values, 5.0) == Squeeze(floor=5.0, unit=5.0)


def test_a_broken_merge_does_not_blind_the_surrogate() -> None:
    """A single that is 10^6 worse than the others; the best of the rest is still found."""
    plan = study_plan("surrogate", 3, 1)
    bowl = bowls(3, 1)
    broken = lambda w: [-1e6] if w[0] > 0.9 else bowl(w)  # noqa: E731
    ledger = proceed(plan, opening(plan, broken), broken, 15)
    best = max(t.means("dev")["f0"] for t in ledger)
    assert best > -2e-3  # the best is 0


def test_proposals_can_be_sparse_and_are_bounded_where_asked() -> None:
    """Two of sixteen checkpoints are good, mixing any other one in costs."""
    cost = np.r_[0.0, 0.0, np.ones(14)]
    function = lambda w: [float(w[0] - cost @ w), float(w[1] - cost @ w)]  # noqa: E731
    plan = study_plan("surrogate", 16, 2)
    free = vectors(plan, proceed(plan, opening(plan, function), function, 12))
    assert np.median((free > 0).sum(1)) <= 4
    bound = replace(plan, settings={"max_nonzero": 3})
    function = bowls(16, 2)
    bounded = vectors(bound, proceed(bound, opening(bound, function), function, 6))
    assert (bounded > 0).sum(1).max() <= 3


@pytest.mark.parametrize("sampler", ["dirichlet", "nsga2", "cmaes", "tpe"])
def test_every_sampler_keeps_to_the_largest_number_of_ingredients(sampler: str) -> None:
    plan = study_plan(sampler, 6, 2, settings={"max_nonzero": 2})
    function = bowls(6, 2)
    drawn = vectors(plan, proceed(plan, opening(plan, function), function, 8))
    assert (drawn > 0).sum(1).max() <= 2
    assert np.abs(drawn.sum(1) - 1).max() <= 1e-12


def asked(plan: Plan, trials: list[Trial], seeds: range) -> np.ndarray:
    """The sampler's proposals for the same ledger, one a seed."""
    corner = Proposer(plan).reference(trials)
    problem = problem_of(plan, trials, corner)
    factory = resolve("sampler", plan.sampler, SAMPLERS)
    return np.array([ask(factory, problem, trials, seed)[0] for seed in seeds])


def test_merges_in_flight_turn_proposals_elsewhere() -> None:
    """The same seeds with and without them, and as a control with three that failed."""
    few = {"average": 0.0, "draws": 16, "rounds": 3}
    plan, function = study_plan("surrogate", 4, 2, settings=few), bowls(4, 2)
    ledger = proceed(plan, opening(plan, function), function, 6)
    first = asked(plan, ledger, range(3))
    fly = [
        Trial(number=90 + i, kind="search", name="x", recipe=plan.merge_at(point))
        for i, point in enumerate(first)
    ]
    lost = [replace(t, state="failed", failure=Failure("exception", "why")) for t in fly]

    def nearest(trials: list[Trial]) -> float:
        apart = np.abs(asked(plan, trials, range(3, 18))[:, None] - first).sum(2)
        return float(np.median(apart.min(1)))

    assert nearest([*ledger, *lost]) == nearest(ledger)
    assert nearest([*ledger, *fly]) > 1.5 * nearest(ledger)


def test_a_share_of_the_proposals_goes_for_the_best_average() -> None:
    """Each is that of one of the two aims, and three in ten are the average's."""
    function, few = bowls(4, 3), {"draws": 8, "rounds": 1}
    plan = study_plan("surrogate", 4, 3, settings=few)
    ledger = proceed(plan, opening(plan, function), function, 4)
    seeds = range(30)
    found = asked(plan, ledger, seeds)
    volume = asked(replace(plan, settings={**few, "average": 0.0}), ledger, seeds)
    average = asked(replace(plan, settings={**few, "average": 1.0}), ledger, seeds)
    for_average = (found == average).all(1)
    assert (for_average | (found == volume).all(1)).all()
    assert not (volume == average).all(1).any()
    assert 3 <= for_average.sum() <= 16  # binomial(30, 0.3): outside in 1 of 300

    def truth(points: np.ndarray) -> float:
        return float(np.mean([function(w) for w in points]))

    assert truth(average) > truth(volume)


def test_auto_is_the_surrogate_up_to_a_large_budget() -> None:
    function = bowls(4, 2)
    for budget, name in [(50, "surrogate"), (10_000, "nsga2")]:
        plan = study_plan("auto", 4, 2, evaluations=budget)
        ledger = opening(plan, function)
        corner = Proposer(plan).reference(ledger)
        other = Proposer(replace(plan, sampler=name))
        assert Proposer(plan).next(ledger, corner) == other.next(ledger, corner)


@pytest.mark.parametrize("n", [4, 16])
def test_the_surrogate_beats_random_draws_at_thirty_evaluations(n: int) -> None:
    """Mean gain of the best average; errors unknown, as of a function that returns means."""
    best = {}
    for sampler in ("surrogate", "dirichlet"):
        plan, function = study_plan(sampler, n, 2), bowls(n, 2)
        ledger = opening(plan, function)
        for _ in range(30):
            proposal = Proposer(plan).next(ledger, Proposer(plan).reference(ledger))
            trial = Trial(number=len(ledger), kind="search", name="s", recipe=proposal.recipe)
            ledger.append(ended(plan, trial, function, 2 * len(ledger), stderr=0.0))
        best[sampler] = max(np.mean(list(t.means("dev").values())) for t in ledger)
    assert best["surrogate"] > best["dirichlet"]
