"""`recycler demo`: the main job on the built-in pool, from the check to a verified export."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from recycler import export
from recycler.errors import Conflict
from recycler.execute.rescore import rescore
from recycler.files import write_whole
from recycler.report import decision, text
from recycler.report.page import html_page
from recycler.report.progress import ProgressBar
from recycler.study import Study
from recycler.submit.config import ExecutionSection, parse_study, read_study
from recycler.submit.drafting import Wanted, init
from recycler.submit.submission import plan_of, pool_of, register
from recycler.submit.workspace import Workspace

HERE = Path(__file__).parent
STUDY = HERE / "study.yaml"  # the same study, written by hand
NAME = "demo"
TASKS, HELD_OUT, DTYPE = "code,arithmetic,recall", "prose,brackets,headers", "float32"
OPTIONS = ("--tasks", TASKS, "--held-out", HELD_OUT, "--dtype", DTYPE)


def walk(
    workspace: Workspace,
    out: Path,
    workers: int,
    evaluations: int | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run or resume the demo; finished steps are not repeated.

    Args:
        workspace: its ledger holds the study `demo`.
        out: folder for the report and the exported merge.
        workers: number of merges evaluated at the same time.
        evaluations: budget in place of the study file's.
        fresh: delete an earlier demo of this workspace first.
        quiet: print nothing.

    Returns:
        `{"study", "report", "exported", "digest", "pick"}`.
    """

    def say(line: str) -> None:
        if not quiet:
            click.echo(line)

    if fresh:
        _forget(workspace, out)
    file = study_file(out, say)
    config = read_study(file)
    pool = pool_of(workspace, config, file.parent)
    with ProgressBar(quiet) as bar:
        if evaluations is not None:
            table = config.model_dump()
            config = parse_study(
                {**table, "search": {**table["search"], "evaluations": evaluations}}
            )
        plan = plan_of(workspace, pool, config, file.parent, bar.bytes_read)
        plan = register(workspace, plan, pool)
        study = Study(plan.name, workspace)
        say(
            f"2/5  searching: {plan.n} singles, uniform, merge-best, then {plan.evaluations} merges "
            f"by {plan.sampler} on {workers} worker{'s' if workers > 1 else ''}"
        )
        study.run(ExecutionSection(workers=workers), bar.step, bar.bytes_read)
    say("3/5  the front, on items that the search never saw")
    results = study.results
    pick = results.picked()
    if not quiet:
        text.members(results)
    folder = out / "pick"
    say(f"4/5  exporting the pick, trial {pick.number}, and scoring it again from the folder")
    exported = _export(study, pick.number, folder)
    again = rescore(results, study.scorer_factory().make_evaluator(str(folder)), folder)
    say(f"     digest as in the ledger; {len(again)} scores repeated to the last digit")
    report = out / "report.html"
    write_whole(report, html_page(results).encode())
    say(f"5/5  report    {report.absolute()}")
    say(f"     exported  {folder.absolute()}")
    if not quiet:
        decision.show(text.console(), results)
    return {
        "study": study.name,
        "report": str(report.absolute()),
        "exported": str(folder.absolute()),
        "digest": exported["digest"],
        "pick": pick.number,
    }


def study_file(out: Path, say: Callable[[str], object] = lambda line: None) -> Path:
    """The demo's study file in the folder `out`; written by `init`, unless it is there already.

    Args:
        out: folder of the demo; it is created.
        say: called with lines that tell what is done.
    """
    file = out.absolute() / f"{NAME}.yaml"
    folders = sorted((HERE / "checkpoints").iterdir())
    say(f"1/5  checking {len(folders)} folders and writing a study file for them:")
    say(f"     recycler init {HERE / 'checkpoints'}/* {' '.join(OPTIONS)} \\")
    say(f"       --include-path {HERE / 'tasks'} -o {file}")
    if not os.path.lexists(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        wanted = Wanted.of(
            folders,
            tasks=TASKS,
            held_out=HELD_OUT,
            include_path=HERE / "tasks",
            dtype=DTYPE,
            out=file,
        )
        done = init(wanted)
        say(f"     {len(done.drawer.findings)} findings")
    elif read_study(file).study != NAME:
        raise Conflict(f"{file} is not the demo's.", hint="give another folder with --out.")
    return file


def _export(study: Study, number: int, folder: Path) -> dict[str, Any]:
    """Export the trial, or keep an earlier export that still verifies as the same trial."""
    if (folder / export.PROOF).is_file():
        kept: dict[str, Any] = export.verify(folder)
        if kept["trial"] == number and kept["digest"] == study.trial(number).digest:
            return kept
    return study.export(number, folder, force=folder.exists())


def _forget(workspace: Workspace, out: Path) -> None:
    """Delete the study and what it wrote; refuses a folder that is not the demo's."""
    file = out / f"{NAME}.yaml"
    own = (out / "report.html").exists() or file.exists()
    if out.exists() and any(out.iterdir()) and not own:
        raise Conflict(
            f"{out} is not empty and holds no demo report.", hint="give another folder with --out."
        )
    if file.exists() and read_study(file).study != NAME:
        raise Conflict(f"{file} is not the demo's.", hint="give another folder with --out.")
    with workspace.store.hold(NAME):
        workspace.store.delete_study(NAME)
    file.unlink(missing_ok=True)
    if (out / "pick" / export.PROOF).is_file():
        shutil.rmtree(out / "pick")
