"""Contract of evaluators (see `recycler.protocols.Evaluator`).

To test your own evaluator, subclass the suite in a test file and provide these fixtures:

    class TestMine(EvaluatorContract):
        @pytest.fixture(scope="class")
        @classmethod
        def make(cls):             # -> a function that makes a fresh evaluator
        @pytest.fixture(scope="class")
        @classmethod
        def objectives(cls):       # -> at least two objectives that it scores
        @pytest.fixture(scope="class")
        @classmethod
        def models(cls):           # -> two models with different weights, in eval mode
"""

import json
import random

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from recycler.nouns.evaluation import SPLITS, Evaluation, Outcomes, Score
from recycler.nouns.objectives import Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import State, Trial
from recycler.search.samplers import Proposer


def same(first, second) -> bool:
    """Whether two results have exactly equal outcomes."""
    return dict(first) == dict(second)


class EvaluatorContract:
    """Subclass it and provide the fixtures; pytest runs the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls, make):
        return make()

    def test_a_measure_is_plain_data_and_the_same_in_every_instance(
        self, make, evaluator, objectives
    ):
        found = evaluator.measures()
        assert set(found) == {objective.name for objective in objectives}
        assert all(found.values())
        assert json.loads(json.dumps(found)) == found
        assert make().measures() == found

    def test_it_says_what_it_takes_and_which_settings_it_has(self, evaluator):
        assert evaluator.takes in ("model", "folder")
        assert issubclass(evaluator.Settings, BaseModel)

    def test_every_objective_is_scored(self, evaluator, objectives, models):
        found = evaluator.evaluate(models[0], objectives, "dev")
        assert set(found) == {objective.name for objective in objectives}

    def test_a_then_b_then_a_gives_as_outcomes_again(self, evaluator, objectives, models):
        a, b = models
        first = evaluator.evaluate(a, objectives, "dev")
        other = evaluator.evaluate(b, objectives, "dev")
        again = evaluator.evaluate(a, objectives, "dev")
        assert same(first, again)
        assert not same(first, other)

    def test_weights_changed_in_place_are_seen(self, evaluator, objectives, models):
        a, b = models
        expected = evaluator.evaluate(b, objectives, "dev")
        before = {name: tensor.clone() for name, tensor in a.state_dict().items()}
        evaluator.evaluate(a, objectives, "dev")
        try:
            a.load_state_dict(b.state_dict())
            assert same(evaluator.evaluate(a, objectives, "dev"), expected)
        finally:
            a.load_state_dict(before)

    @pytest.mark.parametrize("split", SPLITS)
    def test_items_of_a_split_are_the_same_in_every_call_and_instance(
        self, make, evaluator, objectives, models, split
    ):
        a, b = models
        calls = [evaluator.evaluate(a, objectives, split), make().evaluate(b, objectives, split)]
        ids = [{n: o.ids for n, o in c.items() if isinstance(o, Outcomes)} for c in calls]
        assert ids[0] == ids[1]

    def test_answers_if_any_are_one_an_item_and_the_same_again(
        self, make, evaluator, objectives, models
    ):
        first, again = (e.evaluate(models[0], objectives, "test") for e in (evaluator, make()))
        for name, outcomes in first.items():
            answers = getattr(outcomes, "answers", None)
            assert answers == getattr(again[name], "answers", None)
            assert answers is None or len(answers.texts) == len(outcomes.ids)

    def test_splits_share_no_item(self, evaluator, objectives, models):
        found = [evaluator.evaluate(models[0], objectives, split) for split in SPLITS]
        for objective in objectives:
            parts = [f[objective.name] for f in found]
            ids = [i for part in parts if isinstance(part, Outcomes) for i in part.ids]
            assert len(ids) == len(set(ids))

    def test_some_objectives_alone_score_as_all_together(self, evaluator, objectives, models):
        whole = evaluator.evaluate(models[0], objectives, "dev")
        for objective in objectives:
            alone = evaluator.evaluate(models[0], [objective], "dev")
            assert dict(alone) == {objective.name: whole[objective.name]}

    def test_outcomes_do_not_depend_on_the_global_generators(self, evaluator, objectives, models):
        found = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            found.append(evaluator.evaluate(models[0], objectives, "dev"))
        assert same(*found)

    @pytest.mark.parametrize("sampler", ["dirichlet", "nsga2"])
    def test_proposals_are_unchanged_by_an_evaluation(
        self, evaluator, objectives, models, sampler
    ):
        """An evaluator may reseed its process; the search has its own generators."""
        proposer, ledger = scored_references(objectives, sampler)
        before = proposer.next(ledger, [-9.0] * len(objectives))
        evaluator.evaluate(models[0], objectives, "dev")
        assert proposer.next(ledger, [-9.0] * len(objectives)) == before
        assert before is not None
        assert before.kind == "search"


def scored_references(objectives, sampler) -> tuple[Proposer, list[Trial]]:
    """Return a proposer and a ledger with all baselines scored, so that the sampler is next."""
    plan = Plan(
        name="x",
        ingredients=(("a", "fa"), ("b", "fb"), ("c", "fc")),
        objectives=Objectives(tuple(objectives)),
        sampler=sampler,
        greedy=False,
    )
    proposer, ledger = Proposer(plan), list[Trial]()
    while (proposal := proposer.next(ledger, None)) is not None:
        k = len(ledger)
        scores = {o.name: Score(0.1 * k, 0.01, 9) for o in objectives}
        dev = Evaluation(split="dev", scores=scores)
        ledger.append(
            Trial(
                number=k,
                kind=proposal.kind,
                name=proposal.name,
                recipe=proposal.recipe,
                state=State.COMPLETE,
                finished=k,
                evaluations={"dev": dev},
            )
        )
    return proposer, ledger
