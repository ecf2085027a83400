"""A study as users hold it: create, run, read its front, export a merge.

Only `run` and `export` import torch and Ray.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

from recycler.checkpoints.pool import Pool
from recycler.front.compare import Comparison, compare
from recycler.front.front import Front
from recycler.front.naming import named
from recycler.front.proposals import foreseen
from recycler.front.results import Results
from recycler.front.verdict import Verdict
from recycler.loop import Listener, Progress
from recycler.nouns.objectives import Objective
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import State, Trial
from recycler.protocols import Executor
from recycler.runs import run_study
from recycler.search.samplers import Proposer
from recycler.settings import checked
from recycler.submit.config import ExecutionSection, parse_study
from recycler.submit.recipes import recipe_of, require_allowed
from recycler.submit.references import reference_models
from recycler.submit.submission import plan_of, register
from recycler.submit.workspace import OnBytes, Workspace
from recycler.views import Views

WAIT = 1.0  # seconds between two looks at a merge that another process scores


def unheard(progress: Progress) -> None:
    """A listener that does nothing."""


class Study(Views):
    """One study of a workspace; all of its state is in the ledger.

    Each property reads the ledger again. Use one `results` if several values must agree.
    """

    def __init__(self, name: str, workspace: Workspace | None = None) -> None:
        """Open a study. Raises NotFound if the ledger has none of that name."""
        self.workspace = workspace or Workspace(create=False)
        self.plan: Plan = self.workspace.store.plan(name)

    @classmethod
    def load(cls, name: str, workspace: Workspace | str | None = None) -> "Study":
        """Open a study of a ledger.

        Args:
            name: name of the study.
            workspace: the workspace, or the path or URL of its ledger; None: the ledger of this
                folder (see `Workspace`).

        Raises:
            NotFound: there is no such ledger, or no study of that name in it.
        """
        if isinstance(workspace, str):
            workspace = Workspace(workspace, create=False)
        return cls(name, workspace)

    @classmethod
    def create(
        cls,
        name: str,
        pool: Pool,
        objectives: Sequence[Objective],
        *,
        workspace: Workspace | None = None,
        root: str | Path = ".",
        replace: bool = False,
        **settings: Any,
    ) -> "Study":
        """Create a study, or resume the same one.

        Args:
            name: its name in the ledger.
            pool: the checkpoints.
            objectives: searched and held-out objectives.
            workspace: its ledger; default: the ledger of this folder.
            root: folder that the evaluator's relative paths start from.
            replace: start a study of that name anew, whatever it holds.
            **settings: sections of a study file (`items`, `evaluator`, `merge`, `references`,
                `search`), or the keys of `search` alone: `evaluations=50, sampler="auto", seed=0`.
        """
        workspace = workspace or Workspace()
        known = ("items", "evaluator", "merge", "references")
        sections = {k: v for k, v in settings.items() if k in known}
        search = {k: v for k, v in settings.items() if k not in (*sections, "search")}
        listed = [_entry(objective) for objective in objectives]
        config = parse_study(
            {
                "study": name,
                "pool": [{"name": c.name, "path": str(c.path)} for c in pool.checkpoints],
                "objectives": [
                    e for e, o in zip(listed, objectives, strict=True) if not o.held_out
                ],
                "held_out": [e for e, o in zip(listed, objectives, strict=True) if o.held_out],
                "search": {**settings.get("search", {}), **search},
                **sections,
            },
            "Study.create",
        )
        home = Path(root).absolute()
        plan, models = plan_of(workspace, pool, config, home), reference_models(config, home)
        register(workspace, plan, pool, replace=replace, models=models)
        return cls(name, workspace)

    @property
    def name(self) -> str:
        return self.plan.name

    def run(
        self,
        execution: ExecutionSection | None = None,
        listen: Listener = unheard,
        on_bytes: OnBytes | None = None,
        progress: bool | None = None,
        *,
        tries_only: bool = False,
    ) -> "Study":
        """Run or resume the study to its end; every finished evaluation is in the ledger at once.

        Args:
            execution: workers, device and how a run is executed; default: one worker here.
            listen: called after each event.
            on_bytes: called while fingerprints are computed.
            progress: whether to show a progress bar; None: in notebooks, unless `listen` is given.
            tries_only: score only the merges that `try_merge` has queued.

        Raises:
            Conflict: another process runs it.
            StudyFailed: too many candidates failed.
        """
        execution = execution or ExecutionSection()
        alone = "ipykernel" in sys.modules and listen is unheard  # else the caller shows it
        shown = alone if progress is None else progress
        bar: Any = lazy("recycler.report.progress").ProgressBar() if shown else nullcontext()

        def heard(step: Progress) -> None:
            if shown:
                bar.step(step)
            listen(step)

        def executor() -> Executor:
            return self.workspace.executor(self.scorer_factory(execution.device), execution)

        with bar:
            run_study(
                self.plan,
                self.workspace.store,
                Proposer(self.plan),
                executor,
                heard,
                keep_answers=execution.keeps_answers,
                tries_only=tries_only,
            )
        return self

    def try_merge(
        self,
        asked: Mapping[str, float] | str | Path | Recipe,
        *,
        run: bool = True,
        wait: bool = False,
        execution: ExecutionSection | None = None,
        listen: Listener = lambda progress: None,
    ) -> dict[str, Any]:
        """Make one's own merge a trial of this study, outside its budget.

        A living run takes it up next. Without one it is scored here, once the singles are scored; in
        a complete study also on select and test items.

        Args:
            asked: checkpoint -> weight, a recipe file (recycler's or mergekit's YAML), or a recipe.
            run: score it here if no process runs the study; else only queue it.
            wait: wait until it has dev scores, if another process runs the study.
            execution: where it runs, if here.
            listen: called after each event, if it runs here.

        Returns:
            What `recycler show STUDY TRIAL --json` prints, or `{"study", "trial": None, "name",
            "id", "state": "queued"}`; and `known`: whether it was a trial before, `holder`: the
            process that runs the study or empty, `ready`: whether the singles are scored.

        Raises:
            InvalidConfig: the merge is none of this study's pool, or its weights are not allowed.
        """
        recipe, store = recipe_of(self.workspace, self.plan, asked), self.workspace.store
        if isinstance(asked, Mapping):
            require_allowed(self.plan, asked)
        known = self._trial_of(recipe.id) is not None
        name = "" if known else store.ask_for(self.name, recipe).name
        while wait and self._open(recipe.id) and store.status(self.name)["alive"]:
            time.sleep(WAIT)
        before = store.status(self.name)
        ready = before["reference"] is not None
        if run and ready and not before["alive"] and self._open(recipe.id):
            self.run(execution, listen, tries_only=True)
        found = self._trial_of(recipe.id)
        queued = {
            "study": self.name,
            "trial": None,
            "name": name,
            "id": recipe.id,
            "state": "queued",
        }
        table = self.results.trial_json(found.number) if found else queued
        return {
            **table,
            "known": known,
            "holder": before["holder"] if before["alive"] else "",
            "ready": ready,
        }

    def _open(self, recipe_id: str) -> bool:
        """Whether a merge has no result yet."""
        found = self._trial_of(recipe_id)
        return found is None or found.state == State.RUNNING

    def _trial_of(self, recipe_id: str) -> Trial | None:
        """The trial with a recipe, if there is one."""
        trials = self.workspace.store.trials(self.name)
        return next((trial for trial in trials if trial.recipe.id == recipe_id), None)

    def scorer_factory(self, device: str = "cpu") -> Any:
        """The factory that workers make their scorers from."""
        scorer, pool = lazy("recycler.execute.scorer"), self.workspace.study_pool(self.name)
        models = self.workspace.study_models(self.name)
        opened = [*pool.everything, *models.values()]
        return scorer.MergeScorerFactory(
            pool=pool,
            objectives=self.plan.objectives,
            evaluator=self.plan.evaluator,
            items=self.plan.items,
            dtype=self.plan.dtype,
            device=device,
            known={c.name: (c.stamp(), self.workspace.fingerprint(c)) for c in opened},
            models=models,
        )

    @property
    def results(self) -> Results:
        """The study as it is now, in one reading."""
        return Results.read(self.workspace.store, self.name)

    @property
    def status(self) -> Mapping[str, Any]:
        return self.results.status

    @property
    def trials(self) -> list[Trial]:
        """All trials by number."""
        return list(self.results.trials)

    def trial(self, number: int) -> Trial:
        """The trial with that number. Raises NotFound if there is none."""
        return self.results.trial(number)

    @property
    def front(self) -> Front:
        """The reported front; before the re-check, the front on dev items."""
        return self.results.front

    def verdict(self, trial: Trial | None = None) -> Verdict | None:
        """A trial, or the pick, against the best single, the best baseline and the references."""
        return self.results.verdict(trial)

    def compare(self, *trials: Trial | int | str, split: str = "") -> Comparison:
        """Compare the first of two or more trials with each of the others, objective by objective.

        Args:
            *trials: trials, their numbers or names (see `front.naming.named`).
            split: dev, select or test; empty: the least used one on which all are scored.

        Returns:
            Differences with 95 % intervals, each in its objective's unit, and the items gained and
            lost; `.items(TASK)` has the items that differ.

        Raises:
            NotFound: a trial is unknown, or they share no scored items.
            InvalidConfig: fewer than two trials, or one twice.
        """
        return compare(self.results, [_name(trial) for trial in trials], split)

    def predict(
        self,
        *merges: Mapping[str, float] | str | Path,
        prefer: Sequence[Mapping[str, float]] = (),
        grid: int = 0,
        evaluate: bool = False,
        execution: ExecutionSection | None = None,
        listen: Listener = lambda progress: None,
    ) -> dict[str, Any]:
        """What the surrogate expects of merges (see `front.proposals`).

        Args:
            *merges: weights by checkpoint, or the file of a recipe.
            prefer: preferences (weight by objective); for each a merge is proposed.
            grid: number of further preferences, spread over all objectives.
            evaluate: then score all of these merges as tries (see `try_merge`).
            execution: where they are scored.
            listen: called after each event while they are scored.

        Returns:
            The table that `recycler predict STUDY --json` prints.
        """
        asked = [recipe_of(self.workspace, self.plan, merge) for merge in merges]
        table = foreseen(self.results, asked, prefer, grid)
        rows = [*table["predictions"], *table["proposals"]] if evaluate else []
        recipes = {row["id"]: Recipe.from_json(row["recipe"]) for row in rows}
        for recipe in recipes.values():
            self.try_merge(recipe, run=False)
        done = [
            self.try_merge(recipe, execution=execution, listen=listen)
            for recipe in recipes.values()
        ]
        return {**table, "evaluated": done}

    def answer_again(
        self, trials: Sequence[Trial], split: str, objective: str, device: str = "cpu"
    ) -> None:
        """Score trials again whose answers were not kept, in this process, and keep the answers.

        Raises:
            Mismatch: an outcome is another than the ledger's.
        """
        lazy("recycler.execute.rescore").answer_again(
            self.results,
            self.workspace.store,
            self.scorer_factory(device)(),
            trials,
            split,
            objective,
        )

    def sample(
        self,
        trials: Sequence[Trial | int | str],
        prompts: Sequence[str] = (),
        *,
        file: str | Path | None = None,
        device: str = "cpu",
        on_answer: Callable[[str, int, int], object] = lambda name, done, total: None,
        **sampling: Any,
    ) -> Any:
        """Let trials answer prompts; each is merged in memory and no folder is written.

        Args:
            trials: trials, their numbers or names (see `front.naming.named`).
            prompts: texts.
            file: further prompts, one a line or as `.jsonl` (see `execute.prompts.prompts_of`).
            device: torch device.
            on_answer: called with a trial's name, the number of answers made, and of all.
            **sampling: `temperature`, `seed`, `max_new_tokens`, `chat`; see
                `execute.sample.Sampling`.

        Returns:
            An `execute.sample.Samples`: for each prompt the answer of each trial.

        Raises:
            NotFound: a trial or the file is unknown.
            InvalidConfig: a setting is wrong, or a prompt does not fit.
        """
        asked = lazy("recycler.execute.prompts").prompts_of(prompts, Path(file) if file else None)
        results, core = self.results, lazy("recycler.execute.sample")
        chosen = [_found(results, trial) for trial in trials]
        foreign = any(trial.recipe.is_model for trial in chosen)
        models = self.workspace.study_models(self.name) if foreign else {}
        return core.sample(
            self.name,
            self.workspace.study_pool(self.name),
            chosen,
            asked,
            checked(core.Sampling, sampling, "sample"),
            dtype=self.plan.dtype,
            device=device,
            scored_in_chat=bool(self.plan.evaluator.get("apply_chat_template")),
            models={id_: model.path for id_, model in models.items()},
            on_answer=on_answer,
        )

    def export(
        self, trial: Trial | int | str, out: str | Path, *, force: bool = False, donor: str = ""
    ) -> dict[str, Any]:
        """Write one merge as a Hugging Face folder and prove that it is the one that was scored.

        Args:
            trial: a trial, its number, or its name (see `front.naming.named`), such as `pick`.
            out: the folder to write.
            force: replace an empty folder or an earlier merge.
            donor: checkpoint that gives config and tokenizer.
        """
        results, pool = self.results, self.workspace.study_pool(self.name)
        found = _found(results, trial)
        done: dict[str, Any] = lazy("recycler.export").export(
            results, pool, found, Path(out), force=force, donor=donor
        )
        return done


def _found(results: Results, trial: Trial | int | str) -> Trial:
    return named(results, _name(trial))


def _name(trial: Trial | int | str) -> str:
    return str(trial.number if isinstance(trial, Trial) else trial)


def _entry(objective: Objective) -> dict[str, Any]:
    return {key: value for key, value in asdict(objective).items() if key != "held_out"}
