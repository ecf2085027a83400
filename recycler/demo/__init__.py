"""The demo pool: thirteen tiny byte-level Llama checkpoints with one ancestor, and eight tasks.

`pool.yaml` lists the checkpoints, `tasks/` holds the lm-eval tasks, `README.md` the scores.
"""
