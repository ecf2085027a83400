"""Alembic scripts of the ledger; `SqlStore` runs them when a ledger is opened."""
