"""Samplers: the contract on each, the paper's search against its own package, and who wins."""

from dataclasses import replace

import numpy as np
import pytest
from cmaes import CMA
from contracts.sampler import (
    SamplerContract,
    bowls,
    ended,
    opening,
    proceed,
    study_plan,
    vectors,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recycler.errors import InvalidConfig, StudyFailed
from recycler.front import pareto
from recycler.front.stages import spent
from recycler.nouns.evaluation import Failure
from recycler.nouns.space import normalised
from recycler.nouns.trial import State, Trial
from recycler.search.samplers import SAMPLERS, Proposer, derived_seed

QUICK = {"samples": 8, "raw": 8, "maxiter": 3, "restarts": 1}


class TestAuto(SamplerContract):
    sampler = "auto"


class TestSurrogate(SamplerContract):
    sampler = "surrogate"


class TestCmaes(SamplerContract):
    sampler = "cmaes"
    draws = 14


class TestNsga3(SamplerContract):
    sampler = "nsga3"
    draws = 14


class TestTpe(SamplerContract):
    sampler = "tpe"
    draws = 14


class TestGp(SamplerContract):
    sampler = "gp"
    draws = 2


class TestSobol(SamplerContract):
    sampler = "sobol"
    draws = 14


class TestDirichlet(SamplerContract):
    sampler = "dirichlet"
    draws = 14


class TestPaper(SamplerContract):
    sampler = "paper"
    draws = 14


class TestNsga2(SamplerContract):
    sampler = "nsga2"
    draws = 14


class TestNehvi(SamplerContract):
    sampler = "nehvi"
    settings = QUICK
    draws = 2


def test_every_sampler_is_held_to_the_contract() -> None:
    assert {cls.sampler for cls in SamplerContract.__subclasses__()} >= set(SAMPLERS)


def test_an_unknown_sampler_is_told_before_any_work_with_the_nearest_name() -> None:
    with pytest.raises(InvalidConfig, match="nevhi") as caught:
        Proposer(study_plan("nevhi", 3, 2))
    assert "did you mean 'nehvi'" in caught.value.hint


# --- the paper's search ---


def _direct(n: int, seed: int, population: int) -> CMA:
    return CMA(
        mean=np.full(n, 1 / n),
        sigma=1.0,
        bounds=np.tile([0.0, 1.0], (n, 1)),
        seed=seed,
        population_size=population,
        n_max_resampling=10 * n,
    )


def test_the_papers_first_generation_is_that_of_the_cmaes_package_divided_by_its_sum() -> None:
    plan = study_plan("paper", 16, 2, seed=5)
    function = bowls(16, 2)
    ledger = proceed(plan, opening(plan, function), function, 12)
    cma = _direct(16, seed=5, population=12)  # 4 + floor(3 ln 16)
    raw = np.array([cma.ask() for _ in range(12)])
    np.testing.assert_array_equal(vectors(plan, ledger), raw / raw.sum(axis=1, keepdims=True))


def test_the_papers_next_generations_are_those_of_a_direct_loop() -> None:
    plan = study_plan("paper", 16, 2, seed=5)
    function = bowls(16, 2)
    ledger = proceed(plan, opening(plan, function), function, 29)
    cma, wanted = _direct(16, seed=5, population=12), []
    while len(wanted) < 29:
        told = []
        for _ in range(12):
            raw = cma.ask()
            wanted.append(raw / raw.sum())
            told.append((raw, -float(np.mean(function(wanted[-1])))))
        cma.tell(told)
    np.testing.assert_array_equal(vectors(plan, ledger), np.array(wanted[:29]))


def test_the_paper_tells_a_generation_of_those_that_finished_first() -> None:
    """As with six workers and a population of four: what was drawn last comes back first."""
    plan = study_plan("paper", 16, 1, seed=2, settings={"population": 4})
    function = bowls(16, 1)
    start = opening(plan, function)
    flying = _in_flight(plan, start, 6)
    landed = [ended(plan, t, function, 1000 - t.number) for t in flying]
    (following,) = _in_flight(plan, [*start, *landed], 1)
    cma = _direct(16, seed=2, population=4)
    raw = [cma.ask() for _ in range(6)]
    cma.tell([(x, -function(x / x.sum())[0]) for x in raw[2:]])
    expected = cma.ask()
    np.testing.assert_array_equal(following.recipe.vector(plan.names), expected / expected.sum())


def _in_flight(plan, trials, count: int) -> list[Trial]:
    ledger = list(trials)
    for _ in range(count):
        proposal = Proposer(plan).next(ledger, [-10.0] * plan.objectives.m)
        ledger.append(
            Trial(
                number=len(ledger),
                kind=proposal.kind,
                name=proposal.name,
                recipe=proposal.recipe,
                notes=proposal.notes,
            )
        )
    return ledger[len(trials) :]


@pytest.mark.parametrize("n", [2, 3])
def test_the_paper_goes_on_after_a_clipped_draw_repeats_a_single(n: int) -> None:
    """With seed 3 a corner of the box is drawn in the first generation."""
    plan, function = study_plan("paper", n, 2, seed=3), bowls(n, 2)
    cma = _direct(n, seed=3, population=4 + int(3 * np.log(n)))
    first = [normalised(cma.ask()) for _ in range(4 + int(3 * np.log(n)))]
    assert any(np.count_nonzero(w) == 1 for w in first)  # else this test shows nothing
    ledger = proceed(plan, opening(plan, function), function, 20)
    own = [t for t in ledger if t.kind == "search"]
    assert all(t.notes for t in own)  # each was drawn by the search, none by its stand-in
    assert max(t.notes["paper:generation"] for t in own) >= 2


# --- the others ---


def test_nsga2_breeds_from_the_front_after_generation_zero() -> None:
    plan, function = study_plan("nsga2", 3, 2), bowls(3, 2)
    ledger = proceed(plan, opening(plan, function), function, 40)
    generations = [v for t in ledger for k, v in t.notes.items() if "generation" in k]
    assert max(generations) >= 3
    assert generations == sorted(generations)


def _volume(sampler: str, seed: int, evaluations: int) -> float:
    plan, function = study_plan(sampler, 4, 2, seed=seed, settings=_lean(sampler)), bowls(4, 2)
    ledger = opening(plan, function)
    corner = Proposer(plan).reference(ledger)
    assert corner is not None
    ledger = proceed(plan, ledger, function, evaluations)
    return pareto.hypervolume(plan.objectives.gains([t.means("dev") for t in ledger]), corner)


_LEAN = {"samples": 16, "raw": 16, "maxiter": 8, "restarts": 1}


def _lean(sampler: str) -> dict[str, int]:
    return _LEAN if sampler == "nehvi" else {}


def test_nehvi_beats_random_draws_at_thirty_evaluations() -> None:
    searched = [_volume("nehvi", seed, 30) for seed in range(3)]
    drawn = [_volume("dirichlet", seed, 30) for seed in range(3)]
    assert np.median(searched) > np.median(drawn)


def test_nehvi_finds_the_best_of_a_single_objective() -> None:
    plan, function = study_plan("nehvi", 3, 1, settings=_LEAN), bowls(3, 1)
    ledger = proceed(plan, opening(plan, function), function, 10)
    own = plan.objectives.gains([t.means("dev") for t in ledger])[:, 0]
    drawn = replace(plan, sampler="dirichlet", settings={})
    other = proceed(drawn, opening(drawn, function), function, 10)
    assert own.max() > plan.objectives.gains([t.means("dev") for t in other])[:, 0].max()
    assert own.max() > -1e-3  # the best is 0


@pytest.mark.parametrize("sampler", ["nehvi", "surrogate"])
def test_five_objectives_of_unknown_noise_are_searched(sampler: str) -> None:
    """A function that returns means has no errors; they must not be taken for zero or fail."""
    plan, function = study_plan(sampler, 4, 5, settings=_lean(sampler)), bowls(4, 5)
    ledger = opening(plan, function)
    bare = [ended(plan, t, function, 2 * t.number, stderr=0.0) for t in ledger]
    proposal = Proposer(plan).next(bare, Proposer(plan).reference(bare))
    assert proposal is not None
    assert abs(sum(proposal.recipe.vector(plan.names)) - 1) <= 1e-9
    assert proposal == Proposer(plan).next(bare, Proposer(plan).reference(bare))


# --- the simplex and the proposer ---


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e6, 1e6)))
def test_normalised_weights_lie_on_the_simplex_and_stay_put(raw: np.ndarray) -> None:
    weights = normalised(raw)
    assert (weights >= 0).all()
    assert abs(weights.sum() - 1) <= 1e-12
    np.testing.assert_array_equal(normalised(weights), weights)
    assert ((raw > 0) >= (weights > 0)).all() or not (raw > 0).any()


def test_nothing_positive_is_the_uniform_soup() -> None:
    np.testing.assert_array_equal(normalised(np.array([0.0, -1.0, 0.0, -3.0])), [0.25] * 4)


def test_seeds_of_proposals_differ_by_study_number_and_attempt() -> None:
    seeds = {derived_seed(s, k, a) for s in range(3) for k in range(30) for a in range(3)}
    assert len(seeds) == 3 * 30 * 3


def test_references_come_first_then_the_greedy_path_then_the_sampler() -> None:
    """By hand: the path is w0, w0+w1, all three, and all of these are references already."""
    plan = study_plan("dirichlet", 3, 2, greedy=True, evaluations=4)
    table = {
        (1.0, 0.0, 0.0): (3.0, 0.0),
        (0.0, 1.0, 0.0): (0.0, 2.0),
        (0.0, 0.0, 1.0): (0.5, 0.5),
        (0.5, 0.5, 0.0): (2.0, 2.0),
    }
    ledger = proceed(plan, [], lambda w: table.get(tuple(w), (0.1, 0.1)), 5 + 4 - 1)
    third = 1 / 3
    assert [(t.kind, t.recipe.vector(plan.names)) for t in ledger[:5]] == [
        ("single", (1.0, 0.0, 0.0)),
        ("single", (0.0, 1.0, 0.0)),
        ("single", (0.0, 0.0, 1.0)),
        ("uniform", (third, third, third)),
        ("merge-best", (0.5, 0.5, 0.0)),
    ]
    # both steps of the path are merges that the references scored: nothing is left of it
    assert [t.kind for t in ledger[5:]] == ["search"] * 3
    assert spent(ledger) == 3


def test_the_greedy_path_keeps_what_raises_the_average() -> None:
    """By hand: order w0 (0.9), w2 (0.6), w1 (0.3), w3 (0.1); w2 is refused, w1 taken, w3 refused."""
    plan = study_plan("dirichlet", 4, 1, greedy=True)
    third = 1 / 3
    table = {
        (1.0, 0.0, 0.0, 0.0): 0.9,
        (0.0, 1.0, 0.0, 0.0): 0.3,
        (0.0, 0.0, 1.0, 0.0): 0.6,
        (0.0, 0.0, 0.0, 1.0): 0.1,
        (0.5, 0.0, 0.5, 0.0): 0.9,  # no better: not kept
        (0.5, 0.5, 0.0, 0.0): 0.95,
        (third, third, 0.0, third): 0.2,
    }
    ledger = proceed(plan, [], lambda w: [table.get(tuple(w), 0.0)], 9)
    path = [t for t in ledger if t.kind == "greedy"]
    assert [t.recipe.vector(plan.names) for t in path] == [
        (0.5, 0.0, 0.5, 0.0),
        (0.5, 0.5, 0.0, 0.0),
        (third, third, 0.0, third),
    ]
    soup = Proposer(plan).references(ledger)[-1]
    assert soup.recipe.vector(plan.names) == (0.5, 0.5, 0.0, 0.0)


def test_the_greedy_soup_is_tried_without_each_member_once_its_path_is_complete() -> None:
    """By hand: additive scores, so that the path takes w0, w1 and w2 and stops there."""
    plan = study_plan("dirichlet", 4, 1, greedy=True, leave_one_out=True)
    worth = np.array([3.0, 2.9, 2.8, -9.0])

    def score(w: np.ndarray) -> list[float]:  # more members are better, until the bad one
        return [float(worth @ w) + np.count_nonzero(w)]

    ledger = proceed(plan, [], score, 4 + 1 + 3 + 3)
    assert [(t.kind, t.name) for t in ledger[5:]] == [
        ("greedy", "greedy 1"),
        ("greedy", "greedy 2"),
        ("search", "greedy less w0"),
        ("search", "greedy less w1"),
        ("search", "search 4"),
        ("search", "search 5"),
    ]
    assert ledger[7].recipe.vector(plan.names) == (0.0, 0.5, 0.5, 0.0)
    assert ledger[8].recipe.vector(plan.names) == (0.5, 0.0, 0.5, 0.0)


def test_the_reference_lies_below_the_worst_of_the_nondominated_singles() -> None:
    """By hand: (0, 1) and (1, 0) are non-dominated, (-9, -9) is not; a tenth of a range of 1."""
    plan = study_plan("dirichlet", 3, 2)
    scores = iter([(0.0, 1.0), (1.0, 0.0), (-9.0, -9.0)])
    ledger = proceed(plan, [], lambda w: next(scores), 3)
    proposer = Proposer(plan)
    assert proposer.reference(ledger[:2]) is None
    np.testing.assert_allclose(proposer.reference(ledger), [-0.1, -0.1], rtol=1e-15)


def test_no_single_scored_ends_the_study_with_its_reason() -> None:
    plan = study_plan("dirichlet", 3, 2)
    singles = proceed(plan, [], bowls(3, 2), 3)
    why = Failure("exception", "why")
    lost = [replace(t, state=State.FAILED, evaluations={}, failure=why) for t in singles]
    with pytest.raises(StudyFailed, match="every single checkpoint failed"):
        Proposer(plan).reference(lost)


def test_the_budget_counts_all_but_the_references() -> None:
    plan, function = study_plan("dirichlet", 3, 2, evaluations=5, greedy=True), bowls(3, 2)
    ledger: list[Trial] = []
    while Proposer(plan).next(ledger, Proposer(plan).reference(ledger)) is not None:
        ledger = proceed(plan, ledger, function, 1)
    assert sum(t.kind in ("greedy", "search") for t in ledger) == 5
    assert all(t.state == State.COMPLETE for t in ledger)
