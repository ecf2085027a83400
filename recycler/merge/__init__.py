"""Merging: pure methods on tensors, into a resident model (live) or a folder (disk)."""
