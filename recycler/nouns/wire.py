"""Trials, readings and item outcomes as bytes and JSON: the form that crosses files and networks."""

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Evaluation, Failure, Fault, Outcomes, Score
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.recipe import Recipe, canonical
from recycler.nouns.trial import Kind, State, Trial

FindAnswers = Callable[[int, str, str], Answers | None]  # by number, split and objective


def pack(outcomes: Outcomes) -> bytes:
    """Item outcomes as compressed JSON, without the answers."""
    kept = [name for name in outcomes.__dataclass_fields__ if name != "answers"]
    table = {name: getattr(outcomes, name) for name in kept}
    return zlib.compress(canonical(table).encode(), level=1)


def unpack(blob: bytes) -> Outcomes:
    """Item outcomes from what `pack` returned."""
    table: dict[str, Any] = json.loads(zlib.decompress(blob))
    held: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Outcomes(**held)


def failure_of(table: Mapping[str, Any] | None) -> Failure | None:
    """A failure from its JSON data; None where there is none."""
    return Failure(**{**table, "fault": Fault(table["fault"])}) if table else None


def trial_json(trial: Trial) -> dict[str, Any]:
    """A trial as JSON data, without item outcomes; the inverse of `trial_of`."""
    plain = ("number", "name", "started", "finished", "attempts", "digest")
    return {
        **{key: getattr(trial, key) for key in plain},
        "kind": str(trial.kind),
        "state": str(trial.state),
        "recipe": trial.recipe.to_json(),
        "evaluations": [
            {
                "split": split,
                "digest": found.digest,
                "seconds": dict(found.seconds),
                "scores": {n: [s.mean, s.stderr, s.items] for n, s in found.scores.items()},
            }
            for split, found in trial.evaluations.items()
        ],
        "failure": asdict(trial.failure) if trial.failure else None,
        "notes": dict(trial.notes),
    }


def trial_of(table: Mapping[str, Any]) -> Trial:
    """The trial that `trial_json` wrote."""
    evaluations = {
        found["split"]: Evaluation(
            split=found["split"],
            scores={name: Score(*score) for name, score in found["scores"].items()},
            digest=found["digest"],
            seconds=found["seconds"],
        )
        for found in table["evaluations"]
    }
    made = {
        "kind": Kind(table["kind"]),
        "state": State(table["state"]),
        "recipe": Recipe.from_json(table["recipe"]),
        "evaluations": evaluations,
        "failure": failure_of(table["failure"]),
    }
    return Trial(**{**table, **made})


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A reading whose item outcomes are still compressed, as the ledger holds them.

    Attributes:
        event: number of the study's last event.
        status: see `Reading`.
        plan: the study's plan.
        trials: all trials by number, without item outcomes.
        looked_at: see `Reading`.
        blobs: (trial number, split) -> objective -> packed outcomes.
    """

    event: int
    status: Mapping[str, Any]
    plan: Plan
    trials: tuple[Trial, ...]
    looked_at: int
    blobs: Mapping[tuple[int, str], Mapping[str, bytes]]

    def opened(self, answers: FindAnswers) -> Reading:
        """The reading; outcomes are unpacked on each call."""

        def outcomes(number: int, split: str) -> Mapping[str, Outcomes]:
            return {name: unpack(b) for name, b in self.blobs.get((number, split), {}).items()}

        return Reading(
            event=self.event,
            status=self.status,
            plan=self.plan,
            trials=self.trials,
            looked_at=self.looked_at,
            outcomes=outcomes,
            answers=answers,
        )

    def to_json(self) -> dict[str, Any]:
        """The reading as JSON data; packed outcomes are base64 text."""
        rows = [
            [number, split, name, base64.b64encode(blob).decode()]
            for (number, split), found in self.blobs.items()
            for name, blob in found.items()
        ]
        return {
            "event": self.event,
            "status": dict(self.status),
            "plan": self.plan.to_json(),
            "trials": [trial_json(trial) for trial in self.trials],
            "looked_at": self.looked_at,
            "outcomes": rows,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Packed":
        """The reading that `to_json` wrote."""
        blobs: dict[tuple[int, str], dict[str, bytes]] = {}
        for number, split, name, text in table["outcomes"]:
            blobs.setdefault((number, split), {})[name] = base64.b64decode(text)
        return cls(
            event=table["event"],
            status=table["status"],
            plan=Plan.from_json(table["plan"]),
            trials=tuple(map(trial_of, table["trials"])),
            looked_at=table["looked_at"],
            blobs=blobs,
        )


def answers_json(found: Answers | None) -> dict[str, Any]:
    """Kept answers as JSON data, compressed as in the ledger; `answers_of` reads it."""
    if found is None:
        return {"asked": None, "given": None}
    parts = {"asked": found.pack_asked(), "given": found.pack_given()}
    return {key: base64.b64encode(blob).decode() for key, blob in parts.items()}


def answers_of(table: Mapping[str, Any]) -> Answers | None:
    """The answers that `answers_json` wrote."""
    if table["asked"] is None:
        return None
    return Answers.unpack(*(base64.b64decode(table[key]) for key in ("asked", "given")))
