"""Plain data that every other room speaks of: no files, no clocks."""
