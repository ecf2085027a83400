"""Results: everything that is reported about a study, computed from one reading of its ledger.

Front, verdict, gaps, regrets, floors, costs and their JSON come from one read transaction, so they
agree with each other while the study goes on. Letters: k trials, m objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from recycler.errors import NotFound
from recycler.front import baselines, pareto
from recycler.front.decision import Choice, Decision, choose
from recycler.front.expectation import expected
from recycler.front.front import (
    Front,
    Member,
    floor_gains,
    front_rows,
    meeting,
    regrets,
    volume,
)
from recycler.front.paired import common_split
from recycler.front.resampling import contenders, probabilities
from recycler.front.scale import words
from recycler.front.stages import due, elected, remaining_gain
from recycler.front.verdict import Verdict, verdict
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import SPLITS, Outcomes
from recycler.nouns.objectives import Array, Objective
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.trial import SCORED, Kind, State, Trial
from recycler.protocols import Store


class Results:
    """A study as it was at one event; immutable.

    Attributes:
        plan: the study's plan.
        event: number of the last event that was read.
        status: name, status, message, created, reference, and number of trials per state.
        trials: all trials by number.
        looked_at: number of studies, this one included, that scored merges on these test items.
    """

    def __init__(self, reading: Reading) -> None:
        self.plan: Plan = reading.plan
        self.event = reading.event
        self.status = reading.status
        self.trials = reading.trials
        self.looked_at = reading.looked_at
        self._outcomes, self._answers = reading.outcomes, reading.answers
        self._unpacked: dict[tuple[int, str], Mapping[str, Outcomes]] = {}
        self._expected: dict[str, Mapping[int, Array]] = {}
        self._verdicts: dict[int, Verdict | None] = {}

    @classmethod
    def read(cls, store: Store, study: str) -> "Results":
        """Read a study in one transaction; NotFound if there is none of that name."""
        return cls(store.read(study))

    @property
    def name(self) -> str:
        return self.plan.name

    def trial(self, number: int) -> Trial:
        """Return the trial of that number; NotFound if there is none."""
        if not 0 <= number < len(self.trials):
            raise NotFound(
                f"study {self.name!r} has no trial {number}.",
                hint=f"it has trials 0 to {len(self.trials) - 1}."
                if self.trials
                else "it has none yet.",
            )
        return self.trials[number]

    def outcomes(self, trial: Trial, split: str) -> Mapping[str, Outcomes]:
        """Objective -> item outcomes of a trial on a split, for objectives that have items."""
        key = (trial.number, split)
        if key not in self._unpacked:
            self._unpacked[key] = self._outcomes(*key)
        return self._unpacked[key]

    def answers(self, trial: Trial, split: str, objective: str) -> Answers | None:
        """Return what a trial answered to the items of an objective, if its answers were kept."""
        return self._answers(trial.number, split, objective)

    @cached_property
    def reference(self) -> Array | None:
        """(m,) the fixed worst corner, as gains; None before the singles are scored."""
        found = self.status["reference"]
        return np.array(found, dtype=np.float64) if found is not None else None

    @cached_property
    def baselines(self) -> list[Trial]:
        """The scored ones of singles, references, uniform, merge-best and the greedy soup."""
        return baselines.scored(self.plan, self.trials)

    @cached_property
    def references(self) -> list[Trial]:
        """The scored references, in the order of the plan."""
        found = baselines.references(self.plan, self.trials).values()
        return [trial for trial in found if trial.state in SCORED]

    @cached_property
    def steps(self) -> Array:
        """(m,) one step of each objective in its unit, as fixed once the singles were scored."""
        kept = self.status.get("steps")
        return baselines.steps_of(self.plan, self.trials) if kept is None else np.array(kept)

    @property
    def scales(self) -> Array:
        """(m,) divisors of gains in averages: the steps over the objectives' weights."""
        scales: Array = self.steps / self.plan.objectives.weights
        return scales

    def expected(self, split: str) -> Mapping[int, Array]:
        """Trial number -> (m,) expected gains on a split; empty before the singles are scored."""
        if self.reference is None or self.plan.n < 2:
            return {}
        if split not in self._expected:
            self._expected[split] = expected(self.plan, self.trials, self.reference, split)
        return self._expected[split]

    def floors(self, split: str) -> Array:
        """(m,) smallest gains that the floors allow on a split's items (see `floor_gains`)."""
        return floor_gains(self.trials, self.plan.objectives, split)

    # --- progress ---

    @cached_property
    def rechecks(self) -> dict[str, tuple[int, int]]:
        """Split -> (number of due trials that are scored there, number of due trials).

        Due on select items: finalists and baselines. Due on test items: front and baselines.
        """
        if self.reference is None:
            return {"select": (0, 0), "test": (0, 0)}
        found = {}
        for split in ("select", "test"):
            row = due(self.plan, self.trials, split, self.reference, self.expected("dev"))
            found[split] = sum(split in trial.evaluations for trial in row), len(row)
        return found

    def is_rechecked(self, split: str) -> bool:
        """Whether all trials due on the split (select or test) have been scored there."""
        if not any(split in trial.evaluations for trial in self.trials):
            return False
        over = self.status["status"] == "complete"
        known = self.reference is not None and any(split in t.evaluations for t in self.baselines)
        if over and known:
            return True  # baselines are always due
        done, wanted = self.rechecks[split]
        return (over and done > 0) or 0 < wanted == done

    @cached_property
    def basis(self) -> str:
        """Split that decides membership: `dev` until the re-check is over, then `select`."""
        return "select" if self.is_rechecked("select") else "dev"

    @cached_property
    def certainty(self) -> str:
        """Split on which the probabilities of the members are computed."""
        if self.basis == "dev":
            return "dev"
        return "test" if self.is_rechecked("test") else "select"

    @property
    def rechecking(self) -> str:
        """Message while finalists are re-checked; empty before and afterwards."""
        done, wanted = self.rechecks["select"]
        if self.basis != "dev" or not done:
            return ""
        return (
            f"The finalists are being re-checked on select items ({done} of {wanted} scored); until "
            "all are, the front is that on dev items."
        )

    @property
    def seen_by(self) -> str:
        """Warning if other studies have scored merges on the same test items; else empty."""
        if self.looked_at < 2:
            return ""
        return (
            f"{self.looked_at} studies have scored merges on these test items; the more choices are "
            "based on them, the more optimistic the test scores become."
        )

    # --- the front ---

    @cached_property
    def front(self) -> Front:
        """The front on select items after the re-check; before it, the front on dev items."""
        basis, objectives = self.basis, self.plan.objectives
        foreseen, floors = self.expected(basis), self.floors(basis)
        if basis == "select":
            members = elected(self.plan, self.trials)
        else:
            scored = [trial for trial in self.trials if trial.state in SCORED]
            members = front_rows(scored, objectives, "dev", floors, foreseen)
        members.sort(key=lambda t: -objectives.gains([t.means(basis)])[0, 0])
        certainty = next(
            split
            for split in (self.certainty, basis)
            if all(split in trial.evaluations for trial in members)
        )
        chances = self._chances(certainty, members)
        return Front(
            objectives=objectives,
            members=tuple(Member(t, chances[t.number]) for t in members),
            basis=basis,
            certainty=certainty,
            reference=self.reference,
            floors=floors,
            expected=np.array([foreseen[t.number] for t in members])
            if foreseen and members
            else None,
            steps=self.steps,
        )

    def _chances(self, split: str, members: Sequence[Trial]) -> Mapping[int, float | None]:
        """Number of a member, and of others -> probability that it is non-dominated on a split.

        It is that among all merges scored there; of very many, see `contenders`.
        """
        merges = [trial for trial in self.trials if trial.is_merge]
        rivals = [t for t in merges if split in t.evaluations and t.state in SCORED]
        if not rivals:
            return {}
        if self.without_errors(split):
            return dict.fromkeys((t.number for t in rivals), None)
        rivals = contenders(rivals, members, self.plan.objectives, split)
        chances = probabilities(
            [self._outcomes(trial.number, split) for trial in rivals],  # too many to keep
            [trial.evaluations[split].scores for trial in rivals],
            self.plan.objectives,
            self.plan.seed,
        )
        return dict(zip([t.number for t in rivals], chances.tolist(), strict=True))

    def without_errors(self, split: str) -> list[str]:
        """Names of the searched objectives whose scores on a split came without errors."""
        known = [t.evaluations[split].scores for t in self.trials if split in t.evaluations]
        return [
            o.name
            for o in self.plan.objectives.searched
            if not all(o.knows_error(row[o.name].stderr) for row in known if o.name in row)
        ]

    def verdict(self, trial: Trial | None = None) -> Verdict | None:
        """Compare a trial (default: the pick) with best single, best baseline and references."""
        pick = trial or (self.choice.pick if self.choice else None)
        if pick is None:
            return None
        if pick.number not in self._verdicts:
            self._verdicts[pick.number] = self._verdict(pick)
        return self._verdicts[pick.number]

    def _verdict(self, pick: Trial) -> Verdict | None:
        choice = self.choice
        picked = choice is not None and pick.number == choice.pick.number
        role = "pick" if picked else pick.name
        if not picked and self.front.members and pick.number == self.front.knee().number:
            role = "knee"
        models = [t for t in self.baselines if t.kind != Kind.REFERENCE]
        split = common_split([pick, *models])
        beaten = [t for t in self.baselines if t.kind == Kind.REFERENCE and split in t.evaluations]
        return verdict(
            pick,
            role,
            [*models, *beaten],
            self.plan.objectives,
            self.scales,
            self.outcomes,
            self.floors,
            self.plan.seed,
            choice.merge if choice and picked and choice.kept else None,
        )

    @cached_property
    def choice(self) -> Choice | None:
        """What to take; None while nothing is on the front."""
        return choose(self.front, self.baselines, self.expected(self.basis), self.scales)

    @cached_property
    def decision(self) -> Decision | None:
        """What to take, and why; None while nothing is on the front."""
        if self.choice is None:
            return None
        pick = self.choice.pick
        objectives, on = self.plan.objectives, self.basis
        return Decision(
            choice=self.choice,
            verdict=self.verdict(pick),
            scale=words(objectives, self.steps),
            feasible=bool(meeting([pick], objectives, on, self.floors(on))[0]),
        )

    def picked(
        self,
        knee: bool = False,
        prefer: Mapping[str, float] | None = None,
        floors: Mapping[str, float] | None = None,
    ) -> Trial:
        """Return the trial to take: the decision's, or that of another rule.

        Args:
            knee: the best balanced member of the front.
            prefer: objective -> weight: the largest weighted sum; empty: the objectives' weights.
            floors: objective -> worst score allowed: the best average, or the best of `prefer`, among
                members that meet them.

        Raises:
            NotFound: the front is empty, or no member meets the floors.
        """
        if floors:
            return self.front.above(floors, prefer or None)
        if prefer is not None:
            return self.front.prefer(prefer or None)
        return self.front.knee() if knee or self.decision is None else self.decision.pick

    @cached_property
    def meets_floors(self) -> list[bool]:
        """For each member: whether it meets all floors on the items of `certainty`."""
        split = self.front.certainty
        met = meeting(self.front.trials, self.plan.objectives, split, self.floors(split))
        return [bool(meets) for meets in met]

    @cached_property
    def gaps(self) -> list[dict[str, Any]]:
        """Pairs of neighbouring members and their distance in scaled gains, largest first."""
        gains = self.front.gains(self.front.certainty) / self.scales
        numbers = [trial.number for trial in self.front.trials]
        return [
            {"between": [numbers[i], numbers[j]], "gap": gap}
            for i, j, gap in pareto.neighbours(gains)
        ]

    @cached_property
    def regrets(self) -> list[dict[str, float]]:
        """For each member: objective -> distance to the best of front and baselines, in its unit."""
        trials, split = self.front.trials, self.front.certainty
        columns = {o.name: regrets(trials, self.baselines, o, split) for o in self.plan.objectives}
        return [
            {name: float(column[i]) for name, column in columns.items() if np.isfinite(column[i])}
            for i in range(len(trials))
        ]

    @cached_property
    def costs(self) -> dict[str, Any]:
        """Number of trials per final state, and the share of items that racing evaluated.

        `item_share` is evaluated items over the items of full evaluations, for the trials inside
        the budget; None if scores came without items.
        """
        counts = {
            s: sum(t.state == s for t in self.trials)
            for s in (State.COMPLETE, State.PRUNED, State.FAILED)
        }
        items = {
            t.number: sum(score.items for score in t.evaluations["dev"].scores.values())
            for t in self.trials
            if t.state in SCORED
        }
        raced = [items[t.number] for t in self.trials if t.number in items and not t.is_extra]
        whole = max(items.values(), default=0) * len(raced)
        return {"counts": counts, "item_share": sum(raced) / whole if whole else None}

    # --- JSON ---

    def front_json(self) -> dict[str, Any]:
        """Return the front as `recycler front STUDY --json` prints it."""
        front, objectives = self.front, self.plan.objectives
        merges = [trial for trial in self.baselines if trial.is_merge]
        return {
            "study": self.name,
            "event": self.event,
            "status": self.status["status"],
            "objectives": [_described(o) for o in objectives.searched],
            "held_out": [_described(o) for o in objectives.held_out],
            "reference": None
            if self.reference is None
            else [float(x) for x in objectives.raw(self.reference)],
            "steps": self.steps.tolist(),
            "hypervolume": {split: front.hypervolume(split) for split in ("dev", "test")},
            "baseline_hypervolume": {
                split: volume(merges, objectives, self.reference, split)
                for split in ("dev", "test")
            },
            "evaluations": sum(
                t.state in SCORED and not t.is_extra and not t.copied for t in self.trials
            ),
            "basis": front.basis,
            "members": self._members_json(),
            "baselines": [{"name": t.name, **_scored(t)} for t in self.baselines],
            "references": baselines.reference_rows(self.plan, self.trials),
            "decision": self.decision.to_json() if self.decision else None,
            "feasible": front.feasible,
            "floors": {split: self._floors_json(split) for split in SPLITS},
            "gaps": self.gaps,
            "looked_at": self.looked_at,
            **self.costs,
            "remaining_gain": remaining_gain(self.trials, objectives, self.reference),
        }

    def _members_json(self) -> list[dict[str, Any]]:
        rows = zip(
            self.front.members,
            _expected_scores(self.front),
            self.regrets,
            self.meets_floors,
            strict=True,
        )
        return [
            {
                **_scored(member.trial),
                "p_nondominated": member.p_nondominated,
                "expected": foreseen,
                "regret": regret,
                "meets_floors": meets,
            }
            for member, foreseen, regret, meets in rows
        ]

    def _floors_json(self, split: str) -> dict[str, float | None]:
        """Objective -> worst score allowed on a split; None while it is unknown."""
        limits = self.plan.objectives.raw(self.floors(split))
        return {
            o.name: float(limit) if np.isfinite(limit) else None
            for o, limit in zip(self.plan.objectives.searched, limits, strict=True)
            if o.floor is not None
        }

    def trial_json(self, number: int) -> dict[str, Any]:
        """Return one trial with recipe, id, digest, timings and failure."""
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


def _expected_scores(front: Front) -> Sequence[dict[str, float] | None]:
    """For each member: objective -> expected score; None if picks use the scores."""
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
    """Number, kind, method, weights, and the scores on each split."""
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
