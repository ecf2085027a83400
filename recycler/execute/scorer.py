"""What a worker does with a job: make the merge resident, score it, say what it cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint
from recycler.evaluate.kinds import make_evaluator
from recycler.evaluate.results import evaluation_of
from recycler.merge.resident import Resident, quiet_transformers
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.trial import WHOLE, Job
from recycler.protocols import Evaluator


@dataclass(frozen=True, slots=True)
class MergeScorerFactory:
    """Everything a worker needs to make its scorer; plain data, so that it travels.

    Attributes:
        pool: the checkpoints; workers open the same files.
        objectives: all objectives of the study.
        evaluator: `kind`, `root` of relative paths and the evaluator's own settings.
        items: sizes of the splits and their seed.
        dtype: torch name of the dtype of merges.
        device: torch device.
        known: checkpoint -> its stamp when it had the fingerprint of the study, and that fingerprint.
            Files that were touched since, or lie on another machine, are read whole once.
    """

    pool: Pool
    objectives: Objectives
    evaluator: Mapping[str, Any]
    items: Mapping[str, float]
    dtype: str
    device: str = "cpu"
    known: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __call__(self) -> "MergeScorer":
        """Make it.

        Raises:
            BrokenCheckpoint: a checkpoint is not the one that the study was made with.
        """
        torch.set_num_threads(1)
        quiet_transformers()
        distance = any(objective.metric == "merge.distance" for objective in self.objectives)
        resident = Resident(self.pool, self.dtype, self.device, distance)
        self._require_same_bytes()  # from here on `Sources` sees to it
        return MergeScorer(resident, self.make_evaluator(), self.objectives)

    def _require_same_bytes(self) -> None:
        for checkpoint in self.pool.everything:
            stamp, fingerprint = self.known.get(checkpoint.name, ("", ""))
            if fingerprint and checkpoint.stamp() != stamp:
                found = checkpoint.fingerprint()
                if found != fingerprint:
                    raise BrokenCheckpoint(
                        f"{checkpoint.path} is not the checkpoint that the study was made with: its "
                        f"fingerprint is {found[:20]}…, expected {fingerprint[:20]}….",
                        hint="restore the folder, or start a study with another name.",
                    )

    def make_evaluator(self) -> Evaluator:
        """The evaluator of the study, with its tasks loaded."""
        tokenizer = str(self.pool.checkpoints[0].path)
        return make_evaluator(self.evaluator, self.objectives, self.items, tokenizer, self.device)


class MergeScorer:
    """Scores recipes on one resident model (see `protocols.Scorer`)."""

    def __init__(self, resident: Resident, evaluator: Evaluator, objectives: Objectives) -> None:
        self._resident, self._evaluator, self._objectives = resident, evaluator, objectives

    def __call__(self, job: Job) -> Evaluation:
        """Materialize and evaluate; scores that are not finite raise NotFinite."""
        digest, merge_seconds = self._resident.load(job.recipe)
        start = time.perf_counter()
        wanted = [self._objectives[name] for name in job.objectives]
        parted = {} if job.part == WHOLE else {"part": job.part}
        asked = [objective for objective in wanted if not objective.of_merge]
        results: dict[str, Outcomes | Score] = {
            objective.name: self._property(objective, job)
            for objective in wanted
            if objective.of_merge
        }
        if asked:
            model = self._resident.model
            results |= self._evaluator.evaluate(model, asked, job.split, **parted)
        return evaluation_of(
            job, results, digest, {"merge": merge_seconds, "evaluate": time.perf_counter() - start}
        )

    def _property(self, objective: Objective, job: Job) -> Score:
        """A property of the merge that is resident; exact, the same on all items."""
        values = {
            "merge.nonzero": float(len(job.recipe.ingredients)),
            "merge.distance": self._resident.distance,
        }
        return Score(values[objective.metric], 0.0, 0)
