"""Checkpoint folders and pools on disk, read from their headers."""
