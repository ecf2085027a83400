"""The scale of averages, tries (merges that users ask for), and the answers of merges to items."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("recycler_studies", sa.Column("scales", sa.Text, nullable=True))
    op.add_column("recycler_studies", sa.Column("progress", sa.Text, nullable=True))
    op.create_table(
        "recycler_tries",
        sa.Column(
            "study",
            sa.String(200),
            sa.ForeignKey("recycler_studies.name", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("recipe_id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "recycler_prompts",
        sa.Column("measure", sa.String(64), primary_key=True),
        sa.Column("split", sa.String(16), primary_key=True),
        sa.Column("prompts", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "recycler_answers",
        sa.Column("recipe_id", sa.String(16), primary_key=True),
        sa.Column("measure", sa.String(64), primary_key=True),
        sa.Column("split", sa.String(16), primary_key=True),
        sa.Column("answers", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
