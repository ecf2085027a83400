"""Contract of samplers (see `recycler.protocols.SamplerFactory`).

To test your own sampler, subclass the suite in a test file and set its name:

    class TestMySampler(SamplerContract):
        sampler = "my-name"          # registered under the entry points `recycler.samplers`
        settings = {"restarts": 1}   # optional; cheap ones keep the suite fast
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from recycler.nouns.evaluation import Evaluation, Failure, Score
from recycler.nouns.objectives import Array, Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import State, Trial
from recycler.search.samplers import Proposer

Function = Callable[[Array], Sequence[float]]
SIZES = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (16, 1), (16, 2), (16, 3)]

SPACES = [
    {"lambda": [0.3, 1.5], "density": [0.2, 0.9]},
    {"density": {"each": [0.1, 0.5]}, "layer_groups": [[0, 2], [2, 4]], "least_weight": -0.2},
]


def study_plan(sampler: str, n: int, m: int, **changes: Any) -> Plan:
    """Return a plan over n checkpoints and m maximized objectives, without the greedy path."""
    objectives = tuple(Objective(f"f{j}", "value", "max", scale=1.0) for j in range(m))
    return replace(
        Plan(
            name="study",
            ingredients=tuple((f"w{i}", f"sha256:{i:03}") for i in range(n)),
            objectives=Objectives(objectives),
            sampler=sampler,
            evaluations=1000,
            greedy=False,
        ),
        **changes,
    )


def bowls(n: int, m: int) -> Function:
    """Concave objectives, each with its own best mixture; the front lies between these."""
    best = np.random.default_rng(n).dirichlet(np.ones(n), size=m)
    return lambda w: [float(-((w - best[j]) ** 2).sum()) for j in range(m)]


def ended(plan: Plan, trial: Trial, function: Function, event: int, stderr: float = 0.01) -> Trial:
    """Return the trial with scores."""
    values = function(np.array(trial.recipe.vector(plan.names)))
    scores = {
        o.name: Score(v, stderr, 0) for o, v in zip(plan.objectives.searched, values, strict=True)
    }
    return replace(
        trial,
        state=State.COMPLETE,
        finished=event,
        evaluations={"dev": Evaluation(split="dev", scores=scores)},
    )


def proceed(
    plan: Plan,
    trials: Sequence[Trial],
    function: Function,
    count: int,
    failing: Callable[[int], bool] = lambda number: False,
) -> list[Trial]:
    """Propose and score `count` more trials, one at a time."""
    ledger, proposer = list(trials), Proposer(plan)
    for _ in range(count):
        proposal = proposer.next(ledger, proposer.reference(ledger))
        assert proposal is not None
        event = 2 * len(ledger) + 1
        trial = Trial(
            number=len(ledger),
            kind=proposal.kind,
            name=proposal.name,
            recipe=proposal.recipe,
            started=event,
            notes=proposal.notes,
        )
        if proposal.kind == "search" and failing(trial.number):
            why = Failure("exception", "why")
            ledger.append(replace(trial, state=State.FAILED, finished=event + 1, failure=why))
        else:
            ledger.append(ended(plan, trial, function, event + 1))
    return ledger


def opening(plan: Plan, function: Function) -> list[Trial]:
    """Return the ledger before the sampler's first proposal, with all baselines scored."""
    ledger: list[Trial] = []
    proposer = Proposer(plan)
    while proposer.next(ledger, None) is not None:
        ledger = proceed(plan, ledger, function, 1)
    return ledger


def vectors(plan: Plan, trials: Sequence[Trial]) -> Array:
    """(k, n) weights of the sampler's own trials."""
    return np.array([t.recipe.vector(plan.names) for t in trials if t.kind == "search"])


def _globals() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return kind, keys.tobytes(), *rest, random.getstate(), torch.get_rng_state().numpy().tobytes()


class SamplerContract:
    """Subclass it and set `sampler` (and `settings`); pytest runs the suite."""

    sampler: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    draws = 6  # proposals per size

    def plan(self, n: int, m: int, **changes: Any) -> Plan:
        return study_plan(self.sampler, n, m, settings=self.settings, **changes)

    @pytest.mark.parametrize(("n", "m"), SIZES)
    def test_proposals_lie_on_the_simplex_and_never_repeat(self, n: int, m: int) -> None:
        plan, function = self.plan(n, m), bowls(n, m)
        ledger = proceed(plan, opening(plan, function), function, self.draws)
        weights = vectors(plan, ledger)
        assert weights.shape == (self.draws, n)
        assert (weights >= 0).all()
        assert np.abs(weights.sum(axis=1) - 1).max() <= 1e-9
        assert len({trial.recipe.id for trial in ledger}) == len(ledger)

    @pytest.mark.parametrize("space", SPACES)
    def test_points_of_a_wider_space_stay_inside_it(self, space: Mapping[str, Any]) -> None:
        base = ("base", "sha256:base")
        plan = self.plan(3, 2, method="ties", base=base, space=space)
        function, points = bowls(3, 2), plan.points
        ledger = proceed(plan, opening(plan, function), function, min(self.draws, 8))
        found = [t.recipe for t in ledger if t.kind == "search"]
        assert len({trial.recipe.id for trial in ledger}) == len(ledger)
        for recipe in found:
            weights = points.weights(points.point_of(recipe))
            assert np.abs(weights.sum(axis=1) - 1).max() <= 1e-9
            assert weights.min() >= points.least - 1e-9
            settings = [recipe.settings, *(item.settings for item in recipe.ingredients)]
            for r in points.ranges:
                given = [s[r.setting] for s in settings if r.setting in s]
                assert given
                assert all(r.low <= value <= r.high for value in given)
        assert len({points.point_of(r)[points.tail].tobytes() for r in found}) > 1

    def test_a_proposal_follows_from_ledger_seed_and_number_alone(self) -> None:
        plan, function = self.plan(3, 2), bowls(3, 2)
        ledger = proceed(plan, opening(plan, function), function, 3)
        corner = Proposer(plan).reference(ledger)
        used = Proposer(plan)
        for _ in range(2):
            used.next(ledger, corner)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        again = Proposer(plan).next(ledger, corner)
        assert used.next(ledger, corner) == again
        other = replace(plan, seed=1)
        assert Proposer(other).next(opening(other, function), corner) != Proposer(plan).next(
            opening(plan, function), corner
        )

    def test_global_generators_are_left_alone(self) -> None:
        plan, function = self.plan(3, 2), bowls(3, 2)
        ledger = opening(plan, function)
        corner = Proposer(plan).reference(ledger)
        before = _globals()
        assert Proposer(plan).next(ledger, corner) is not None
        assert _globals() == before

    def test_failed_trials_are_tolerated_and_not_proposed_again(self) -> None:
        plan, function = self.plan(3, 2), bowls(3, 2)
        ledger = proceed(
            plan, opening(plan, function), function, self.draws, failing=lambda k: k % 2 == 0
        )
        assert sum(trial.state == State.FAILED for trial in ledger) == self.draws // 2
        assert len({trial.recipe.id for trial in ledger}) == len(ledger)

    def test_trials_in_flight_are_tolerated_and_not_proposed_again(self) -> None:
        plan, function = self.plan(3, 2), bowls(3, 2)
        ledger = opening(plan, function)
        corner = Proposer(plan).reference(ledger)
        for _ in range(3):  # none of them comes back
            proposal = Proposer(plan).next(ledger, corner)
            assert proposal is not None
            ledger.append(
                Trial(
                    number=len(ledger),
                    kind=proposal.kind,
                    name=proposal.name,
                    recipe=proposal.recipe,
                    started=100 + len(ledger),
                    notes=proposal.notes,
                )
            )
        assert len({trial.recipe.id for trial in ledger}) == len(ledger)

    def test_equal_scores_everywhere_are_tolerated(self) -> None:
        plan = self.plan(3, 2)
        flat: Function = lambda w: [0.5, 0.5]  # noqa: E731
        ledger = proceed(plan, opening(plan, flat), flat, 3)
        assert len({trial.recipe.id for trial in ledger}) == len(ledger)

    def test_few_singles_scored_are_enough(self) -> None:
        """All baselines except one single failed."""
        plan, function = self.plan(3, 2), bowls(3, 2)
        why = Failure("exception", "why")
        ledger = [
            t if t.number == 0 else replace(t, state=State.FAILED, evaluations={}, failure=why)
            for t in opening(plan, function)
        ]
        assert len(vectors(plan, proceed(plan, ledger, function, 2))) == 2
