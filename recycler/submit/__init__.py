"""Submission: from a study file to a plan in the ledger."""
