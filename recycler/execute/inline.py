"""Runs jobs in this process, one at a time: deterministic, nothing to install or start.

May import: evaluation, protocols, trial, evaluate.results.
"""

import traceback
from collections import deque

from recycler.execute.faults import failure_of
from recycler.nouns.evaluation import Evaluation, Failure
from recycler.nouns.trial import Job
from recycler.protocols import Scorer, ScorerFactory


class Inline:
    """One worker, here (see `protocols.Executor`)."""

    def __init__(self, factory: ScorerFactory, workers: int = 1) -> None:
        """Remember how to make the scorer; it is made with the first job."""
        self._factory = factory
        self._scorer: Scorer | None = None
        self._waiting: deque[Job] = deque()

    @property
    def free(self) -> int:
        return 0 if self._waiting else 1

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def wait(self) -> list[tuple[Job, Evaluation | Failure]]:
        """Run the oldest job."""
        job = self._waiting.popleft()
        # made outside the try: a scorer that can't be made is the study's fault, not a trial's
        self._scorer = self._scorer or self._factory()
        try:
            return [(job, self._scorer(job))]
        except Exception as error:  # one candidate's fault must not end the study
            return [(job, failure_of(error, traceback.format_exc(limit=-3)))]

    def close(self) -> None:
        self._scorer = None
