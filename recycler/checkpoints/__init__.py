"""What lies on disk: checkpoint folders and pools, read from their headers."""
