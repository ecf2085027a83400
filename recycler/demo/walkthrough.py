"""`recycler demo`: the main job on the built-in pool, from the check to a verified export."""

import shutil
from pathlib import Path
from typing import Any

import click

from recycler import export
from recycler.checkpoints.pool import Pool
from recycler.errors import Conflict
from recycler.execute.rescore import rescore
from recycler.files import write_whole
from recycler.report import decision, text
from recycler.report.page import html_page
from recycler.report.progress import ProgressBar
from recycler.study import Study
from recycler.submit.config import ExecutionSection, parse_study, read_study
from recycler.submit.submission import plan_of, register
from recycler.submit.workspace import Workspace

HERE = Path(__file__).parent
STUDY = HERE / "study.yaml"


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

    config, pool = read_study(STUDY), Pool.from_yaml(HERE / "pool.yaml")
    say(f"1/5  checking a pool of {pool.n} checkpoints from {HERE / 'checkpoints'}")
    findings = pool.check()
    say(f"     {len(findings)} findings; {pool.checkpoints[0].nbytes / 1e6:.1f} MB each")
    if fresh:
        _forget(workspace, config.study, out)
    with ProgressBar(quiet) as bar:
        if evaluations is not None:
            table = config.model_dump()
            config = parse_study(
                {**table, "search": {**table["search"], "evaluations": evaluations}}
            )
        plan = plan_of(workspace, pool, config, HERE, bar.bytes_read)
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
    out.mkdir(parents=True, exist_ok=True)
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


def _export(study: Study, number: int, folder: Path) -> dict[str, Any]:
    """Export the trial, or keep an earlier export that still verifies as the same trial."""
    if (folder / export.PROOF).is_file():
        kept: dict[str, Any] = export.verify(folder)
        if kept["trial"] == number and kept["digest"] == study.trial(number).digest:
            return kept
    return study.export(number, folder, force=folder.exists())


def _forget(workspace: Workspace, name: str, out: Path) -> None:
    """Delete the study and what it wrote; refuses a folder that is not the demo's."""
    if out.exists() and any(out.iterdir()) and not (out / "report.html").exists():
        raise Conflict(
            f"{out} is not empty and holds no demo report.", hint="give another folder with --out."
        )
    with workspace.store.hold(name):
        workspace.store.delete_study(name)
    if (out / "pick" / export.PROOF).is_file():
        shutil.rmtree(out / "pick")
