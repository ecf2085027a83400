"""Merging: pure methods on tensors, applied to a resident model or written to a folder."""
