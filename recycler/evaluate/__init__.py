"""The evaluators: lm-eval tasks, or any Python function."""
