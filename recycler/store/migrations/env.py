"""Alembic's entry point: run the migrations on the connection that `SqlStore` passes in."""

from alembic import context

from recycler.store.rows import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
