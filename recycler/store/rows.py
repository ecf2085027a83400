"""The tables of the ledger, and the conversion between rows and nouns.

Migrations create the tables; a test compares them with this schema. Table names begin with
`recycler_`, because Optuna's storage, which may share the database, also has studies and trials.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from recycler.nouns.evaluation import Evaluation, Failure, Score
from recycler.nouns.recipe import Recipe, canonical
from recycler.nouns.trial import State, Trial
from recycler.nouns.wire import failure_of, pack

metadata = MetaData()
VERSION_TABLE = "recycler_alembic_version"

# name -> spec (JSON): paths, fingerprints and metadata of each checkpoint
pools = Table(
    "recycler_pools",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("created", String(32), nullable=False),
)

# path, size, mtime and inode of a checkpoint's files -> fingerprint, so files are hashed once
fingerprints = Table(
    "recycler_fingerprints",
    metadata,
    Column("stamp", Text, primary_key=True),
    Column("fingerprint", String(80), nullable=False),
)

# The lease of a study is part of its row. The token is empty while nobody runs the study.
studies = Table(
    "recycler_studies",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("plan", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("reference", Text, nullable=True),
    Column("events", Integer, nullable=False),
    Column("created", String(32), nullable=False),
    Column("token", String(32), nullable=False),
    Column("holder", Text, nullable=False),
    Column("heartbeat", Float(53), nullable=False),
    Column("wanted", String(16), nullable=False),
    Column("scales", Text, nullable=True),
    Column("progress", Text, nullable=True),
)

trials = Table(
    "recycler_trials",
    metadata,
    Column(
        "study",
        String(200),
        ForeignKey("recycler_studies.name", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(200), nullable=False),
    Column("recipe", Text, nullable=False),
    Column("recipe_id", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started", Integer, nullable=False),
    Column("finished", Integer, nullable=True),
    Column("changed", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("notes", Text, nullable=False),
    Column("failure", Text, nullable=True),
    Column("created", String(32), nullable=False),
    Column("ended", String(32), nullable=True),
    UniqueConstraint("study", "recipe_id", name="one_trial_a_recipe"),
    Index("recycler_trials_changed", "study", "changed"),
)

# Evaluations, shared by all studies. The recipe decides the bytes, the measure what is asked of
# them, so no study pays twice. Rows never change and are not deleted with a study.
evaluations = Table(
    "recycler_evaluations",
    metadata,
    Column("recipe_id", String(16), primary_key=True),
    Column("measure", String(64), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("mean", Float(53), nullable=False),
    Column("stderr", Float(53), nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("outcomes", LargeBinary, nullable=True),
    Column("digest", String(80), nullable=False),
    Column("created", String(32), nullable=False),
)

# The scores of a trial. A row either points to an evaluation (measure set) or holds numbers of this
# study alone: estimates of a pruned trial, or scores of a plain function, which has no measure.
scores = Table(
    "recycler_scores",
    metadata,
    Column("study", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("split", String(16), primary_key=True),
    Column("objective", String(200), primary_key=True),
    Column("recipe_id", String(16), nullable=False),
    Column("measure", String(64), nullable=True),
    Column("mean", Float(53), nullable=True),
    Column("stderr", Float(53), nullable=True),
    Column("item_count", Integer, nullable=True),
    Column("outcomes", LargeBinary, nullable=True),
    Column("seconds", Text, nullable=False),
    ForeignKeyConstraint(
        ["study", "number"],
        ["recycler_trials.study", "recycler_trials.number"],
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["recipe_id", "measure", "split"],
        [
            "recycler_evaluations.recipe_id",
            "recycler_evaluations.measure",
            "recycler_evaluations.split",
        ],
    ),
    Index("recycler_scores_measure", "measure", "split"),
)

# Merges that users asked for and that the run of the study will take up, oldest first.
tries = Table(
    "recycler_tries",
    metadata,
    Column(
        "study",
        String(200),
        ForeignKey("recycler_studies.name", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("recipe_id", String(16), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("recipe", Text, nullable=False),
    Column("created", String(32), nullable=False),
)

# Prompts and targets of a measure's items, once for all merges; compressed JSON.
prompts = Table(
    "recycler_prompts",
    metadata,
    Column("measure", String(64), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("prompts", LargeBinary, nullable=False),
)

# Answers of a merge to the items of a measure, in the order of its outcomes; compressed JSON.
answers = Table(
    "recycler_answers",
    metadata,
    Column("recipe_id", String(16), primary_key=True),
    Column("measure", String(64), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("answers", LargeBinary, nullable=False),
    Column("created", String(32), nullable=False),
)

# Work that a service does for users. Like a study, an operation belongs to the process whose token
# is in its row.
operations = Table(
    "recycler_operations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("created", String(32), nullable=False),
    Column("started", String(32), nullable=True),
    Column("ended", String(32), nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("progress", Text, nullable=False),
    Column("result", Text, nullable=True),
    Column("error", Text, nullable=True),
    Column("token", String(32), nullable=False),
    Column("holder", Text, nullable=False),
    Column("heartbeat", Float(53), nullable=False),
    Column("cancel", Boolean, nullable=False),
    Index("recycler_operations_state", "state", "id"),
    Index("recycler_operations_subject", "subject", "id"),
)

# Keys to the service: SHA-256 of each token. A session of the page is a row with a parent.
tokens = Table(
    "recycler_tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", String(100), nullable=False),
    Column("created", String(32), nullable=False),
    Column("expires", Float(53), nullable=True),
    Column("revoked", String(32), nullable=True),
    Column("used", Float(53), nullable=True),
    Column("parent", String(16), nullable=False),
)

# Replies by idempotency key: a repeated request gets the reply of the first.
replies = Table(
    "recycler_replies",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("reply", Text, nullable=False),
    Column("created", Float(53), nullable=False),
)

# Who changed what through the service.
audit = Table(
    "recycler_audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", String(32), nullable=False),
    Column("who", String(200), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(300), nullable=False),
    Column("status", Integer, nullable=False),
)


def now() -> str:
    """The current time as text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def trial_row(study: str, trial: Trial) -> dict[str, Any]:
    """The row of a trial that has just been started."""
    return {
        "study": study,
        "number": trial.number,
        "kind": trial.kind,
        "name": trial.name,
        "recipe": canonical(trial.recipe.to_json()),
        "recipe_id": trial.recipe.id,
        "state": trial.state,
        "started": trial.started,
        "finished": None,
        "changed": trial.started,
        "attempts": 1,
        "digest": "",
        "notes": canonical(trial.notes),
        "failure": None,
        "created": now(),
        "ended": None,
    }


def numbers_of(evaluation: Evaluation, objective: str) -> dict[str, Any]:
    """The columns of one objective's score, the same in both tables."""
    score, outcomes = evaluation.scores[objective], evaluation.outcomes.get(objective)
    return {
        "mean": score.mean,
        "stderr": score.stderr,
        "item_count": score.items,
        "outcomes": pack(outcomes) if outcomes else None,
    }


def read_trial(row: Mapping[Any, Any], found: Sequence[Any]) -> Trial:
    """A trial from its row and the rows of its scores, without item outcomes."""
    evaluations = {}
    # ledgers hold the same words thousands of times: memory holds them once
    for split in sorted({sys.intern(score.split) for score in found}):
        rows = [score for score in found if score.split == split]
        evaluations[split] = Evaluation(
            split=split,
            scores={sys.intern(r.objective): Score(r.mean, r.stderr, r.item_count) for r in rows},
            digest=row["digest"],
            seconds=next((json.loads(r.seconds) for r in rows if r.seconds != "{}"), {}),
        )
    return Trial(
        number=row["number"],
        kind=row["kind"],
        name=row["name"],
        recipe=Recipe.from_json(json.loads(row["recipe"])),
        state=State(row["state"]),
        started=row["started"],
        finished=row["finished"],
        attempts=row["attempts"],
        digest=row["digest"],
        evaluations=evaluations,
        failure=read_failure(row["failure"]),
        notes=json.loads(row["notes"]),
    )


def read_failure(text: str | None) -> Failure | None:
    """A failure from its JSON; None where there is none."""
    return failure_of(json.loads(text)) if text else None
