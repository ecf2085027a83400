"""A study as users hold it: create, run, read its front, export a merge.

May import: all of recycler but cli, service, demo. Torch and Ray come in only with `run` and
`export`, through `lazy`.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recycler.checkpoints.pool import Pool
from recycler.errors import NotFound
from recycler.front import pareto
from recycler.front.expectation import expected
from recycler.front.front import (
    Front,
    Member,
    floor_gains,
    front_rows,
    meeting,
    probabilities,
    regrets,
    volume,
)
from recycler.front.stages import elected, remaining_gain
from recycler.front.verdict import Verdict, verdict
from recycler.loop import Listener, run
from recycler.nouns.evaluation import SPLITS
from recycler.nouns.objectives import Array, Objective
from recycler.nouns.plan import Plan
from recycler.nouns.trial import SCORED, State, Trial
from recycler.search.samplers import Proposer
from recycler.submit.config import ExecutionSection, parse_study
from recycler.submit.workspace import OnBytes, Workspace


class Study:
    """One study of a workspace; everything is in the ledger.

    What it remembers are probabilities and expectations alone, of scores that never change once they
    are there.
    """

    def __init__(self, name: str, workspace: Workspace | None = None) -> None:
        """Open a study; NotFound if the ledger has none of that name."""
        self.workspace = workspace or Workspace(create=False)
        self.plan: Plan = self.workspace.store.plan(name)
        self._known: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._foreseen: dict[
            tuple[str, tuple[int, ...], tuple[int, ...]], Mapping[int, Array]
        ] = {}

    @classmethod
    def create(
        cls,
        name: str,
        pool: Pool,
        objectives: Sequence[Objective],
        *,
        workspace: Workspace | None = None,
        root: str | Path = ".",
        **settings: Any,
    ) -> "Study":
        """Make a study, or find the same one again.

        Args:
            name: its name in the ledger.
            pool: the checkpoints.
            objectives: searched and held-out objectives.
            workspace: default: that of this folder.
            root: folder that relative paths of the evaluator are relative to.
            **settings: sections of a study file (`items`, `evaluator`, `merge`, `search`), or the
                keys of `search` by themselves: `evaluations=50, sampler="auto", seed=0`.
        """
        workspace = workspace or Workspace()
        sections = {k: v for k, v in settings.items() if k in ("items", "evaluator", "merge")}
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
        plan = workspace.plan(pool, config, Path(root).absolute())
        workspace.register(plan, pool)
        return cls(name, workspace)

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def status(self) -> dict[str, Any]:
        return self.workspace.store.status(self.name)

    @property
    def trials(self) -> list[Trial]:
        """All trials by number."""
        return list(self.workspace.store.trials(self.name))

    def trial(self, number: int) -> Trial:
        trials = self.trials
        if not 0 <= number < len(trials):
            raise NotFound(
                f"study {self.name!r} has no trial {number}.",
                hint=f"it has trials 0 to {len(trials) - 1}." if trials else "it has none yet.",
            )
        return trials[number]

    def run(
        self,
        execution: ExecutionSection | None = None,
        listen: Listener = lambda progress: None,
        on_bytes: OnBytes | None = None,
    ) -> "Study":
        """Run or resume the study to its end; every finished evaluation is in the ledger at once.

        Raises:
            Conflict: another process runs it.
            StudyFailed: too many candidates failed.
        """
        execution = execution or ExecutionSection()
        proposer = Proposer(self.plan)
        with self.workspace.store.hold(self.name):
            executor = self.workspace.executor(self.scorer_factory(execution.device), execution)
            try:
                run(self.plan, self.workspace.store, proposer, executor, listen)
            finally:
                executor.close()
        return self

    def scorer_factory(self, device: str = "cpu") -> Any:
        """What workers make their scorers from."""
        scorer = importlib.import_module("recycler.execute.scorer")
        return scorer.MergeScorerFactory(
            pool=self.workspace.study_pool(self.name),
            objectives=self.plan.objectives,
            evaluator=self.plan.evaluator,
            items=self.plan.items,
            dtype=self.plan.dtype,
            device=device,
        )

    @property
    def reference(self) -> Array | None:
        """(m,) the fixed worst corner, as gains; None before the singles are scored."""
        found = self.status["reference"]
        return np.array(found, dtype=np.float64) if found is not None else None

    @property
    def front(self) -> Front:
        """The reported front after the re-check; before it, the front on dev items."""
        trials, reference = self.trials, self.reference
        members = elected(self.plan, trials)
        basis = "select" if members else "dev"
        expected_gains = self._expected(trials, basis)
        if not members:
            scored = [t for t in trials if t.state in SCORED]
            floors = floor_gains(trials, self.plan.objectives, "dev")
            members = front_rows(scored, self.plan.objectives, "dev", floors, expected_gains)
        members.sort(key=lambda t: -self.plan.objectives.gains([t.means(basis)])[0, 0])
        certainty = next(
            s for s in ("test", "select", "dev") if all(s in t.evaluations for t in members)
        )
        rivals = [t for t in trials if certainty in t.evaluations and t.state in SCORED]
        chances = dict(
            zip([t.number for t in rivals], self._chances(rivals, certainty), strict=True)
        )
        return Front(
            objectives=self.plan.objectives,
            members=tuple(Member(t, float(chances[t.number])) for t in members),
            basis=basis,
            certainty=certainty,
            reference=reference,
            floors=floor_gains(trials, self.plan.objectives, basis),
            expected=np.array([expected_gains[t.number] for t in members])
            if expected_gains and members
            else None,
        )

    def _expected(self, trials: Sequence[Trial], split: str) -> Mapping[int, Array]:
        """Number of a trial -> gains expected of it on a split; empty before singles are scored."""
        reference = self.reference
        if reference is None or self.plan.n < 2:
            return {}
        ended = [t for t in trials if t.finished]  # dev scores count for every split
        key = (
            split,
            tuple(t.number for t in ended),
            tuple(t.number for t in ended if split in t.evaluations),
        )
        if key not in self._foreseen:
            self._foreseen[key] = expected(self.plan, trials, reference, split)
        return self._foreseen[key]

    def _chances(self, trials: Sequence[Trial], split: str) -> Array:
        """(k,) probability of each trial to be non-dominated among them on a split's items."""
        key = (split, tuple(trial.number for trial in trials))
        if not trials or key in self._known:
            return self._known.get(key, np.zeros(0))
        outcomes = [self.workspace.store.outcomes(self.name, t.number, split) for t in trials]
        scores = [t.evaluations[split].scores for t in trials]
        self._known[key] = probabilities(outcomes, scores, self.plan.objectives, self.plan.seed)
        return self._known[key]

    @property
    def baselines(self) -> list[Trial]:
        """Singles, uniform, merge-best and the greedy soup, as far as they are scored."""
        return Proposer(self.plan).references(self.trials)

    @property
    def scales(self) -> Array:
        """(m,) one step of each objective in averages: its scale, or the range of the singles."""
        singles = [t for t in self.trials if t.kind == "single" and t.state == State.COMPLETE]
        gains = self.plan.objectives.gains([t.means("dev") for t in singles])
        return self.plan.objectives.scales(gains)

    def verdict(self, trial: Trial | None = None) -> Verdict | None:
        """A trial, or the front's knee, against the best single and the greedy soup."""
        front, baselines = self.front, self.baselines
        if trial is None and not front.members:
            return None
        pick = trial or front.knee()
        role = "knee" if front.members and pick.number == front.knee().number else pick.name
        return verdict(
            pick,
            role,
            [t for t in baselines if t.kind == "single"],
            next((t for t in baselines if t.kind == "greedy"), None),
            self.plan.objectives,
            self.scales,
            lambda t, split: self.workspace.store.outcomes(self.name, t.number, split),
            self.floors,
            self.plan.seed,
        )

    def best_average(self, front: Front) -> Trial | None:
        """The member with the best expected average, in the verdict's steps; None if empty."""
        if not front.members:
            return None
        return front.trials[int((front.judged / self.scales).mean(axis=1).argmax())]

    def floors(self, split: str) -> Array:
        """(m,) smallest gains that the floors allow on a split's items (see `floor_gains`)."""
        return floor_gains(self.trials, self.plan.objectives, split)

    def gaps(self, front: Front) -> list[dict[str, Any]]:
        """Neighbouring members and how far apart they are in scaled gains, largest gap first."""
        gains = front.gains(front.certainty) / self.scales
        numbers = [trial.number for trial in front.trials]
        return [
            {"between": [numbers[i], numbers[j]], "gap": gap}
            for i, j, gap in pareto.neighbours(gains)
        ]

    def regret(self, front: Front) -> list[dict[str, float]]:
        """For each member: objective -> distance to the best of front and baselines, in its unit."""
        split, rivals = front.certainty, self.baselines
        columns = {o.name: regrets(front.trials, rivals, o, split) for o in self.plan.objectives}
        return [
            {name: float(column[i]) for name, column in columns.items() if np.isfinite(column[i])}
            for i in range(len(front.members))
        ]

    def costs(self) -> dict[str, Any]:
        """How many trials ended how, and the share of item evaluations that racing left.

        `item_share` is that of the trials inside the budget: items evaluated over items of full
        evaluations; None where scores came without items.
        """
        trials = self.trials
        counts = {
            s: sum(t.state == s for t in trials)
            for s in (State.COMPLETE, State.PRUNED, State.FAILED)
        }
        items = {
            t.number: sum(score.items for score in t.evaluations["dev"].scores.values())
            for t in trials
            if t.state in SCORED
        }
        raced = [items[t.number] for t in trials if t.number in items and not t.is_baseline]
        whole = max(items.values(), default=0) * len(raced)
        return {"counts": counts, "item_share": sum(raced) / whole if whole else None}

    def front_json(self) -> dict[str, Any]:
        """The front as documented under `recycler front STUDY --json`."""
        front, baselines, reference = self.front, self.baselines, self.reference
        searched = self.plan.objectives.searched
        splits = ("dev", "test")
        found, limits = self.verdict(), self.floors(front.certainty)
        best = self.best_average(front)
        met = meeting(front.trials, self.plan.objectives, front.certainty, limits)
        return {
            "study": self.name,
            "status": self.status["status"],
            "objectives": [_described(o) for o in searched],
            "held_out": [_described(o) for o in self.plan.objectives.held_out],
            "reference": None
            if reference is None
            else [float(x) for x in self.plan.objectives.raw(reference)],
            "hypervolume": {split: front.hypervolume(split) for split in splits},
            "baseline_hypervolume": {
                split: volume(baselines, self.plan.objectives, reference, split)
                for split in splits
            },
            "evaluations": sum(
                t.state in SCORED and not t.is_baseline and not t.copied for t in self.trials
            ),
            "basis": front.basis,
            "members": [
                {
                    **_scored(member.trial),
                    "p_nondominated": member.p_nondominated,
                    "expected": scores,
                    "regret": regret,
                    "meets_floors": bool(meets),
                }
                for member, regret, meets, scores in zip(
                    front.members, self.regret(front), met, _expected_scores(front), strict=True
                )
            ],
            "baselines": [{"name": trial.name, **_scored(trial)} for trial in baselines],
            "verdict": found.to_json() if found else None,
            "best_average": best.number if best else None,
            "feasible": front.feasible,
            "floors": {split: self._floors_json(split) for split in SPLITS},
            "gaps": self.gaps(front),
            **self.costs(),
            "remaining_gain": remaining_gain(self.trials, self.plan.objectives, reference),
        }

    def _floors_json(self, split: str) -> dict[str, float | None]:
        """Objective -> worst score allowed on a split; None while it is not known."""
        limits = self.plan.objectives.raw(self.floors(split))
        return {
            o.name: float(limit) if np.isfinite(limit) else None
            for o, limit in zip(self.plan.objectives.searched, limits, strict=True)
            if o.floor is not None
        }

    def trial_json(self, number: int) -> dict[str, Any]:
        """One trial with recipe, id, digest, timings and failure."""
        trial = self.trial(number)
        return {
            "study": self.name,
            "name": trial.name,
            "kind": trial.kind,
            "state": trial.state,
            "attempts": trial.attempts,
            **_scored(trial),
            "recipe": trial.recipe.to_json(),
            "id": trial.recipe.id,
            "digest": trial.digest,
            "seconds": {s: dict(e.seconds) for s, e in trial.evaluations.items()},
            "failure": asdict(trial.failure) if trial.failure else None,
        }

    def export(
        self, trial: Trial | int, out: str | Path, *, force: bool = False, donor: str = ""
    ) -> dict[str, Any]:
        """Write one merge as a Hugging Face folder, proved to be the one that was scored."""
        module = importlib.import_module("recycler.export")
        number = trial if isinstance(trial, int) else trial.number
        return module.export(self, self.trial(number), Path(out), force=force, donor=donor)  # type: ignore[no-any-return]


def _entry(objective: Objective) -> dict[str, Any]:
    return {key: value for key, value in asdict(objective).items() if key != "held_out"}


def _expected_scores(front: Front) -> list[dict[str, float] | None]:
    """For each member: objective -> score that is expected of it, by which it may be picked."""
    if front.expected is None:
        return [None] * len(front.members)
    names = [objective.name for objective in front.objectives.searched]
    rows = front.objectives.raw(front.expected).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _described(objective: Objective) -> dict[str, Any]:
    return {
        "name": objective.name,
        "metric": objective.metric,
        "direction": objective.direction,
        "unit": objective.unit,
    }


def _scored(trial: Trial) -> dict[str, Any]:
    """trial, method, kind, weights and the scores on each split."""
    scores: dict[str, Mapping[str, Any]] = {
        split: {name: asdict(score) for name, score in evaluation.scores.items()}
        for split, evaluation in trial.evaluations.items()
    }
    return {
        "trial": trial.number,
        "kind": trial.kind,
        "method": trial.recipe.method,
        "weights": trial.recipe.weights,
        **scores,
    }
