"""What a worker does with a job: load the merge into the model, score it, record the cost."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from recycler.checkpoints.companions import companions
from recycler.checkpoints.folder import Checkpoint
from recycler.checkpoints.header import open_regular
from recycler.checkpoints.pool import Pool
from recycler.errors import BrokenCheckpoint
from recycler.evaluate.kinds import make_evaluator
from recycler.evaluate.results import evaluation_of
from recycler.execute.models import Models
from recycler.merge.folder import write_weights
from recycler.merge.layout import config_of, layout_of
from recycler.merge.resident import Resident, quiet_transformers
from recycler.merge.sources import Sources
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import WHOLE, Job
from recycler.protocols import Evaluator


@dataclass(frozen=True, slots=True)
class MergeScorerFactory:
    """Everything a worker needs to make its scorer; plain data that can be serialised.

    Attributes:
        pool: the checkpoints; workers open the same files.
        objectives: all objectives of the study.
        evaluator: `kind`, `root` of relative paths and the evaluator's own settings.
        items: sizes of the splits and their seed.
        dtype: torch name of the dtype of merges.
        device: torch device.
        known: checkpoint -> its stamp when its fingerprint was taken, and that fingerprint.
            Files touched since, or on another machine, are hashed once more.
        models: recipe id -> folder of each reference that is no merge.
    """

    pool: Pool
    objectives: Objectives
    evaluator: Mapping[str, Any]
    items: Mapping[str, float]
    dtype: str
    device: str = "cpu"
    known: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    models: Mapping[str, Checkpoint] = field(default_factory=dict)

    def __call__(self) -> "MergeScorer":
        """Make the scorer.

        Raises:
            BrokenCheckpoint: a checkpoint is not the one that the study was made with.
        """
        torch.set_num_threads(1)
        quiet_transformers()
        distance = any(objective.metric == "merge.distance" for objective in self.objectives)
        evaluator = self.make_evaluator()
        written = evaluator.takes == "folder"
        made = MergeScorer(
            None if written and not distance else self._resident(distance),
            evaluator,
            self.objectives,
            _Folders(self.pool, self.device) if written else None,
            Models(self.models, self.make_evaluator, self.device),
        )
        self._require_same_bytes()  # from here on `Sources` checks this
        return made

    def _resident(self, distance: bool) -> Resident:
        return Resident(self.pool, self.dtype, self.device, distance)

    def _require_same_bytes(self) -> None:
        for checkpoint in (*self.pool.everything, *self.models.values()):
            stamp, fingerprint = self.known.get(checkpoint.name, ("", ""))
            if fingerprint and checkpoint.stamp() != stamp:
                found = checkpoint.fingerprint()
                if found != fingerprint:
                    raise BrokenCheckpoint(
                        f"{checkpoint.path} is not the checkpoint that the study was made with: its "
                        f"fingerprint is {found[:20]}…, expected {fingerprint[:20]}….",
                        hint="restore the folder, or start a study with another name.",
                    )

    def make_evaluator(self, tokenizer: str = "") -> Evaluator:
        """The evaluator of the study, with its tasks loaded.

        Args:
            tokenizer: folder of the tokenizer; empty: that of the pool's first checkpoint.
        """
        tokenizer = tokenizer or str(self.pool.checkpoints[0].path)
        return make_evaluator(self.evaluator, self.objectives, self.items, tokenizer, self.device)


class MergeScorer:
    """Scores recipes, on one resident model or as folders (see `protocols.Scorer`)."""

    def __init__(
        self,
        resident: Resident | None,
        evaluator: Evaluator,
        objectives: Objectives,
        folders: "_Folders | None" = None,
        models: Models | None = None,
    ) -> None:
        self._resident, self._evaluator, self._objectives = resident, evaluator, objectives
        self._folders, self._models = folders, models

    def __call__(self, job: Job) -> Evaluation:
        """Merge and evaluate; raises NotFinite if scores are not finite."""
        wanted = [self._objectives[name] for name in job.objectives]
        asked = [objective for objective in wanted if not objective.of_merge]
        results: dict[str, Outcomes | Score] = {}
        digest, seconds = "", {"merge": 0.0, "evaluate": 0.0}
        if job.recipe.is_model:
            return self._model(job, wanted)
        if self._resident is not None:
            digest, seconds["merge"] = self._resident.load(job.recipe)
        start = time.perf_counter()
        if asked and self._folders is not None:
            with self._folders.written(job.recipe) as (folder, digest):
                seconds["merge"] += time.perf_counter() - start
                start = time.perf_counter()
                results |= self._evaluated(folder, asked, job)
        elif asked and self._resident is not None:
            results |= self._evaluated(self._resident.model, asked, job)
        results |= {o.name: self._property(o, job) for o in wanted if o.of_merge}
        seconds["evaluate"] = time.perf_counter() - start
        return evaluation_of(job, results, digest, seconds)

    def _model(self, job: Job, wanted: Sequence[Objective]) -> Evaluation:
        """Evaluate a model that is no merge; its own tensors are the bytes that are scored."""
        assert self._models is not None, "the factory gives them"
        results: dict[str, Outcomes | Score] = {}
        start = time.perf_counter()
        with self._models.loaded(job.recipe) as (model, evaluator):
            seconds = {"merge": time.perf_counter() - start}
            asked = [objective for objective in wanted if not objective.of_merge]
            results |= evaluator.evaluate(model, asked, job.split) if asked else {}
            del model, evaluator
        results |= {o.name: self._property(o, job) for o in wanted if o.of_merge}
        seconds["evaluate"] = time.perf_counter() - start - seconds["merge"]
        return evaluation_of(job, results, job.recipe.ingredients[0].fingerprint, seconds)

    def _evaluated(
        self, merge: Any, asked: Sequence[Objective], job: Job
    ) -> Mapping[str, Outcomes | Score]:
        parted = {} if job.part == WHOLE else {"part": job.part}
        return self._evaluator.evaluate(merge, asked, job.split, **parted)

    def _property(self, objective: Objective, job: Job) -> Score:
        """A property of the merge itself; exact, and equal on all splits."""
        if objective.metric == "merge.nonzero":
            return Score(float(len(job.recipe.ingredients)), 0.0, 0)
        assert self._resident is not None, "the factory makes one where distances are asked for"
        return Score(self._resident.distance, 0.0, 0)


class _Folders:
    """Merges as Hugging Face folders, one at a time; each is deleted once scored."""

    def __init__(self, pool: Pool, device: str) -> None:
        self._sources, self._device = Sources(pool), device
        self._donor = pool.checkpoints[0]
        self._along = companions(self._donor).taken

    @contextmanager
    def written(self, recipe: Recipe) -> Iterator[tuple[Path, str]]:
        """Write a folder with the merge; returns it and the digest of its bytes."""
        with TemporaryDirectory(prefix="recycler-merge-") as made:
            folder = Path(made)
            digest, _ = write_weights(recipe, self._sources, folder, device=self._device)
            for name, source in self._along.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_regular(source) as stream, target.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
            config = config_of(recipe, layout_of(recipe, self._sources), self._donor)
            table = json.dumps(config, indent=2, ensure_ascii=False)
            (folder / "config.json").write_text(table + "\n", encoding="utf-8")
            yield folder, digest
