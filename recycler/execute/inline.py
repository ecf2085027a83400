"""Runs jobs in this process, one at a time: deterministic, with nothing to install or start."""

import traceback
from collections import deque
from typing import ClassVar

from pydantic import Field, field_validator

from recycler.errors import InvalidConfig, RecyclerError
from recycler.execute.faults import at_start, failure_of
from recycler.nouns.evaluation import Evaluation, Failure, Fault
from recycler.nouns.trial import Job
from recycler.protocols import Scorer, ScorerFactory
from recycler.settings import Settings


class InlineSettings(Settings):
    """Settings of this executor under `execution:` in a study file."""

    workers: int = Field(1, ge=1)

    @field_validator("workers")
    @classmethod
    def _one(cls, workers: int) -> int:
        if workers > 1:
            raise ValueError("this process is one worker; more need `executor: ray`")
        return workers


class Inline:
    """One worker in this process (see `protocols.Executor`)."""

    Settings: ClassVar[type[InlineSettings]] = InlineSettings

    def __init__(self, factory: ScorerFactory, settings: InlineSettings | None = None) -> None:
        """Keep the factory; the first job makes the scorer."""
        self._factory = factory
        self._scorer: Scorer | None = None
        self._proven = False  # whether the factory has made a scorer
        self._waiting: deque[Job] = deque()

    @property
    def free(self) -> int:
        return 0 if self._waiting else 1

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def wait(self) -> list[tuple[Job, Evaluation | Failure]]:
        """Run the oldest job.

        After a failure of the environment the next job makes a new scorer, because the files that
        the old one holds open may have been replaced.

        Raises:
            RecyclerError: the scorer can't be made from these settings.
        """
        job = self._waiting.popleft()
        failure = self._start()
        if failure:
            return [(job, failure)]
        assert self._scorer is not None, "_start has made it"
        try:
            return [(job, self._scorer(job))]
        except Exception as error:  # a candidate's fault must not end the study
            failure = failure_of(error, traceback.format_exc(limit=-3))
            if failure.fault is Fault.ENVIRONMENT:
                self._scorer = None
            return [(job, failure)]

    def close(self) -> None:
        self._scorer = None

    def _start(self) -> Failure | None:
        """Make the scorer if there is none; returns the environment's failure, if any."""
        if self._scorer is not None:
            return None
        try:
            self._scorer = self._factory()
        except Exception as error:
            failure = at_start(failure_of(error, traceback.format_exc(limit=-3)), self._proven)
            if failure.fault is Fault.ENVIRONMENT:
                return failure
            if isinstance(error, RecyclerError):
                raise
            raise InvalidConfig(
                f"the scorer can't be made: {failure.message}", hint=failure.details[-1500:]
            ) from error
        self._proven = True
        return None
