"""Recipes in YAML: recycler's own form and mergekit's."""
