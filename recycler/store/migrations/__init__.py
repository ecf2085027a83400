"""Alembic migrations of the ledger; `SqlStore` runs them when it opens a ledger."""
