"""The ledger's tables. Migrations make them; a test holds both to the same schema.

Their names begin with `recycler_`, for Optuna's storage, which may share the database, has tables
called studies and trials too.

May import: sqlalchemy.
"""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
VERSION_TABLE = "recycler_alembic_version"

# name -> spec (JSON): paths and what is known of each checkpoint
pools = Table(
    "recycler_pools",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("created", String(32), nullable=False),
)

# path, size, mtime and inode of a checkpoint's files -> fingerprint, so bytes are hashed once
fingerprints = Table(
    "recycler_fingerprints",
    metadata,
    Column("stamp", Text, primary_key=True),
    Column("fingerprint", String(80), nullable=False),
)

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
    Column("attempts", Integer, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("notes", Text, nullable=False),
    Column("failure", Text, nullable=True),
    Column("created", String(32), nullable=False),
    Column("ended", String(32), nullable=True),
    UniqueConstraint("study", "recipe_id", name="one_trial_a_recipe"),
)

# one row a (trial, split, objective): a merge is never scored twice on the same items
evaluations = Table(
    "recycler_evaluations",
    metadata,
    Column("study", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("split", String(16), primary_key=True),
    Column("objective", String(200), primary_key=True),
    Column("mean", Float(53), nullable=False),
    Column("stderr", Float(53), nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("outcomes", LargeBinary, nullable=True),
    Column("seconds", Text, nullable=False),
    ForeignKeyConstraint(
        ["study", "number"],
        ["recycler_trials.study", "recycler_trials.number"],
        ondelete="CASCADE",
    ),
)
