"""The ledgers of bench/large_study.py, for tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import large_study

NAME = large_study.NAME
one_more = large_study.one_more


def small(folder: Path, trials: int) -> tuple[str, str]:
    """URL and name of a study of so many trials that is still searched."""
    return large_study.large(folder, trials, rechecked=False), NAME
