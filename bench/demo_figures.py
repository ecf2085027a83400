"""The figures of the demo in README.md, read from the ledger of a finished `recycler demo`.

`python bench/demo_figures.py` runs the demo in this folder if it has not been run, then prints the table;
`--write` also puts it into README.md and draws the pictures of the docs: docs/front.png, docs/decision.svg
(the terminal) and docs/report.png (the report, if Chromium is installed).
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from machine import machine
from rich.console import Console

from recycler.demo.walkthrough import walk
from recycler.environment import prepare
from recycler.front.results import Results
from recycler.report import decision
from recycler.report.page import html_page
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
    found = study.decision.verdict.against("best single")
    best = study.trial(found.trial) if found else pick
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


def pictures(study: Results) -> None:
    """Draw the pictures of the docs."""
    docs = ROOT / "docs"
    (docs / "front.png").write_bytes(front_png(study, study.decision.pick.number))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out = Console(record=True, width=120, file=nowhere, highlight=False)
        decision.show(out, study)
    out.save_svg(str(docs / "decision.svg"), title=f"recycler front {study.name}")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser:
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            page.write_text(html_page(study), encoding="utf-8")
            shot = f"--screenshot={docs / 'report.png'}"
            options = (
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                "--window-size=1100,1500",
            )
            wait = "--virtual-time-budget=20000"
            subprocess.run([browser, *options, wait, shot, page.as_uri()], check=True)


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
        pictures(study)


if __name__ == "__main__":
    main()
