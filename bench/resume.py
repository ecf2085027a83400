"""Is the ledger the same if a study stops after every event? All samplers, 60 trials, one worker.

python bench/resume.py [--sampler NAME]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import stopping

from recycler.search.samplers import SAMPLERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sampler", choices=list(SAMPLERS))
    parser.add_argument("--evaluations", type=int, default=60)
    given = parser.parse_args()
    print(f"{'sampler':12} {'trials':>6} {'stops':>6}  same ledger")
    wrong = 0
    for sampler in [given.sampler] if given.sampler else list(SAMPLERS):
        started = time.perf_counter()
        made = stopping.plan(sampler, given.evaluations)
        with tempfile.TemporaryDirectory() as folder:
            expected = stopping.undisturbed(made, Path(folder) / "whole.db")
            found, stops = stopping.stopped_after_every_event(made, Path(folder) / "stopped.db")
        same = found == expected
        wrong += not same
        seconds = time.perf_counter() - started
        print(
            f"{sampler:12} {len(found):>6} {stops:>6}  {'yes' if same else 'NO'} ({seconds:.0f} s)"
        )
    print(machine())
    sys.exit(wrong)


if __name__ == "__main__":
    main()
