"""The first schema: pools, fingerprints, studies, trials, evaluations, scores.

Frozen: later changes are new migrations.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "recycler_pools",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "recycler_fingerprints",
        sa.Column("stamp", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.String(80), nullable=False),
    )
    op.create_table(
        "recycler_studies",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=True),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("heartbeat", sa.Float(53), nullable=False),
        sa.Column("wanted", sa.String(16), nullable=False),
    )
    op.create_table(
        "recycler_trials",
        sa.Column(
            "study",
            sa.String(200),
            sa.ForeignKey("recycler_studies.name", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("recipe_id", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started", sa.Integer, nullable=False),
        sa.Column("finished", sa.Integer, nullable=True),
        sa.Column("changed", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("failure", sa.Text, nullable=True),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("ended", sa.String(32), nullable=True),
        sa.UniqueConstraint("study", "recipe_id", name="one_trial_a_recipe"),
    )
    op.create_index("recycler_trials_changed", "recycler_trials", ["study", "changed"])
    op.create_table(
        "recycler_evaluations",
        sa.Column("recipe_id", sa.String(16), primary_key=True),
        sa.Column("measure", sa.String(64), primary_key=True),
        sa.Column("split", sa.String(16), primary_key=True),
        sa.Column("mean", sa.Float(53), nullable=False),
        sa.Column("stderr", sa.Float(53), nullable=False),
        sa.Column("item_count", sa.Integer, nullable=False),
        sa.Column("outcomes", sa.LargeBinary, nullable=True),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "recycler_scores",
        sa.Column("study", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("split", sa.String(16), primary_key=True),
        sa.Column("objective", sa.String(200), primary_key=True),
        sa.Column("recipe_id", sa.String(16), nullable=False),
        sa.Column("measure", sa.String(64), nullable=True),
        sa.Column("mean", sa.Float(53), nullable=True),
        sa.Column("stderr", sa.Float(53), nullable=True),
        sa.Column("item_count", sa.Integer, nullable=True),
        sa.Column("outcomes", sa.LargeBinary, nullable=True),
        sa.Column("seconds", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["study", "number"],
            ["recycler_trials.study", "recycler_trials.number"],
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["recipe_id", "measure", "split"],
            [
                "recycler_evaluations.recipe_id",
                "recycler_evaluations.measure",
                "recycler_evaluations.split",
            ],
        ),
    )
    op.create_index("recycler_scores_measure", "recycler_scores", ["measure", "split"])


def downgrade() -> None:
    for table in ("scores", "evaluations", "trials", "studies", "fingerprints", "pools"):
        op.drop_table(f"recycler_{table}")
