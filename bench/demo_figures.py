"""The figures of the demo in README.md, read from the ledger of a finished `recycler demo`.

`python bench/demo_figures.py` runs the demo in this folder if it has not been run, then prints the table;
`--write` also puts it into README.md and the picture into docs/front.png.
"""

import argparse
import time
from pathlib import Path

from machine import machine

from recycler.demo.walkthrough import walk
from recycler.environment import prepare
from recycler.front.results import Results
from recycler.report.picture import front_png
from recycler.submit.workspace import Workspace

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures: bench/demo_figures.py -->\n", "<!-- /figures -->"


def table(study: Results, seconds: float | None) -> str:
    """Hypervolume and averages on test items, as markdown."""
    shape = study.front_json()
    before, after = shape["baseline_hypervolume"]["test"], shape["hypervolume"]["test"]
    objectives = study.plan.objectives
    pick = study.decision.pick
    singles = [t for t in study.baselines if t.kind == "single"]

    def average(trial) -> float:
        return float((objectives.gains([trial.means("test")])[0] / study.scales).mean())

    best = max(singles, key=average)
    beaten = [
        t.name
        for t in singles
        if any((objectives.gains([m.means("test")]) >= objectives.gains([t.means("test")])).all()
               for m in study.front.trials if not m.is_baseline)
    ]  # fmt: skip
    rows = [("the pick", pick), ("uniform soup", _named(study, "uniform"))]
    rows += [("merge-best", _named(study, "merge-best")), (f"best single ({best.name[7:]})", best)]
    heads = [f"{o.name} {'↑' if o.direction == 'max' else '↓'}" for o in objectives.searched]
    lines = [
        f"| on test items | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *(f"| {label} | {_cells(study, t)} |" for label, t in rows if t),
        "",
        f"{shape['evaluations']} merges, {len(shape['members'])} members of the front, which dominate "
        f"{len(beaten)} of {len(singles)} single checkpoints. Hypervolume on test items: {after:.3f}, singles and "
        f"baselines with the greedy soup {before:.3f} (**{after / before - 1:+.1%}**).",
        "",
        f"Measured on: {machine()}{f'; the whole demo took {seconds:.0f} s' if seconds else ''}.",
    ]
    return "\n".join(lines) + "\n"


def _named(study: Results, name: str):
    return next((t for t in study.baselines if t.name == name), None)


def _cells(study: Results, trial) -> str:
    scores = trial.evaluations["test"].scores
    return " | ".join(
        f"{scores[o.name].mean:.3f} ± {scores[o.name].stderr:.3f}"
        for o in study.plan.objectives.searched
    )


def main() -> None:
    """Run or reopen the demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    prepare()
    workspace = Workspace()
    known = {row["name"]: row["status"] for row in workspace.store.studies()}
    start = time.monotonic()
    if known.get("demo") != "complete":
        walk(workspace, Path("recycler-demo"), workers=2)
    fresh = None if "demo" in known else time.monotonic() - start
    study = Results.read(workspace.store, "demo")
    text = table(study, fresh)
    print(text)
    if arguments.write:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        head, rest = readme.split(BEGIN)
        (ROOT / "README.md").write_text(
            f"{head}{BEGIN}{text}{END}{rest.split(END)[1]}", encoding="utf-8"
        )
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "front.png").write_bytes(front_png(study, study.decision.pick.number))


if __name__ == "__main__":
    main()
