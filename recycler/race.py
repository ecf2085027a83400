"""Races of a running study: what a candidate is scored on next, read off the ledger.

The decision itself is `front.racing`; here are the blocks of items that trials have been through.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from recycler.errors import InvalidConfig
from recycler.front.front import floor_gains, front_rows, meeting
from recycler.front.racing import estimate, expected_improvement
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import WHOLE, Job, State, Trial
from recycler.protocols import Store

# (trials, reference corner, merge) -> (m,) expected gains of the merge and (m,) their deviations
Predicted = Callable[[Sequence[Trial], Sequence[float], Recipe], tuple[Array, Array] | None]


class Race:
    """Racing: which block of dev items a candidate is scored on next, and whether it goes on."""

    def __init__(self, plan: Plan, store: Store, predicted: Predicted) -> None:
        self._plan, self._store, self._predicted = plan, store, predicted
        self._seen: dict[int, Evaluation] = {}  # trials in flight: their blocks so far, joined
        self._whole: dict[int, Mapping[str, Outcomes | Score]] = {}  # rivals on all dev items
        # an objective measured on items; none if nothing can race
        searched = plan.objectives.searched
        self._measured = next((o.name for o in searched if not o.of_merge), "")

    def part(self, trial: Trial, ledger: Sequence[Trial]) -> tuple[float, float]:
        """Range of dev items to score next, as shares; all of them if the trial does not race."""
        if not self._plan.racing or trial.kind != "search" or not self._measured:
            return WHOLE
        if trial.number not in self._seen and "dev" in trial.evaluations:  # from a killed run
            known = self._store.outcomes(self._plan.name, trial.number, "dev")
            self._seen[trial.number] = replace(trial.evaluations["dev"], outcomes=known)
        name = self._measured
        scored = next(t for t in ledger if t.state == State.COMPLETE).evaluations["dev"].scores
        counts = [scored[o.name].items for o in self._plan.objectives.searched if not o.of_merge]
        fewest = min((items for items in counts if items), default=sys.maxsize)
        # a small share of few items would be empty
        blocks = [0.0, *(b for b in self._plan.racing["blocks"] if round(b * fewest) > 0)]
        if trial.number not in self._seen:
            return blocks[0], blocks[1]
        done = self._seen[trial.number].scores[name].items / scored[name].items
        next_block = min(range(1, len(blocks) - 1), key=lambda i: abs(blocks[i] - done))
        return blocks[next_block], blocks[next_block + 1]

    def judge(
        self,
        job: Job,
        block: Evaluation,
        ledger: Sequence[Trial],
        reference: Sequence[float] | None,
    ) -> tuple[Evaluation, State]:
        """All scores of a candidate including its newest block, and its state.

        The scores of a pruned one are estimates for all dev items, with larger errors.
        """
        before = self._seen.pop(job.trial, None)
        found = before.joined(block) if before else block
        if job.part[1] >= 1.0:
            return found, State.COMPLETE
        objectives = self._plan.objectives
        measured = {o.name for o in objectives.searched if not o.of_merge}
        if set(found.outcomes) != measured or reference is None:
            raise InvalidConfig(
                "the evaluator returned no item values, which racing needs.",
                hint="return a list of values for each objective, or `racing: false` in a study of "
                "another name.",
            )
        floors = floor_gains(ledger, objectives, "dev")
        rivals = front_rows(
            [t for t in ledger if t.state == State.COMPLETE], objectives, "dev", floors
        )
        for trial in rivals:
            if trial.number not in self._whole:
                known = self._store.outcomes(self._plan.name, trial.number, "dev")
                self._whole[trial.number] = {**trial.evaluations["dev"].scores, **known}
        seen: dict[str, Outcomes | Score] = {**found.scores, **found.outcomes}
        others = [self._whole[trial.number] for trial in rivals]
        improvement = expected_improvement(
            seen,
            others,
            objectives,
            np.array(reference),
            seed=job.trial,
            floors=floors if meeting(rivals, objectives, "dev", floors).any() else None,
            prior=self._predicted(ledger, reference, job.recipe),
        )
        if not improvement.suffices(self._plan.racing):
            return replace(found, scores=estimate(seen, others, objectives)), State.PRUNED
        self._seen[job.trial] = found
        return found, State.RUNNING
