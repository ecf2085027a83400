"""Scoring a resident model: through lm-eval's tasks or any Python callable."""
