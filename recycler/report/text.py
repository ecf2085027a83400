"""What the terminal shows: tables on standard output. May import: the nouns, study, rich."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from recycler.evaluation import Score
from recycler.front import meeting
from recycler.objectives import Objective
from recycler.pool import Finding, Pool
from recycler.trial import Trial

if TYPE_CHECKING:
    from recycler.study import Study

_WIDTH = 120  # where the output is not a terminal


def console() -> Console:
    """Standard output; a fixed width when it is piped."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=max(found.width, _WIDTH))


def front(study: "Study") -> None:
    """The front against the baselines, with standard errors, and how far to trust it."""
    out, table = console(), study.front_json()
    if not table["members"]:
        out.print(f"study {study.name}: nothing is scored yet ({table['status']}).")
        return
    split = study.front.certainty
    out.print(_front_table(study, split, study.plan.objectives.searched, "searched", True))
    held_out = study.plan.objectives.held_out
    if held_out and held_out[0].name in study.front.trials[0].evaluations[split].scores:
        out.print(
            _front_table(study, split, held_out, "held out, never seen by the search", False)
        )
    _verdict(out, table, study)
    volume, before = table["hypervolume"].get(split), table["baseline_hypervolume"].get(split)
    out.print(
        f"{table['evaluations']} merges evaluated, {len(table['members'])} on the front; study is "
        f"{table['status']}." + (f" {study.status['message']}." if study.status["message"] else "")
    )
    if left := costs(table):
        out.print(left)
    if volume is not None and before:
        out.print(
            f"Hypervolume on {split} items: {volume:.4g}; singles and baselines {before:.4g} "
            f"({volume / before - 1:+.1%})."
        )
    if split != "test":
        out.print(
            f"[yellow]Optimistic:[/yellow] these are {split} items, which the search or the choice "
            "saw; the study reports on test items when it is complete."
        )


def _verdict(out: Console, table: Mapping[str, Any], study: "Study") -> None:
    """The answer in one sentence, and whether the floors were met."""
    if table["verdict"]:
        out.print(table["verdict"]["sentence"], style="bold", markup=False)
    if not table["feasible"]:
        out.print(infeasible(study, table["basis"]), style="bold red", markup=False)


def infeasible(study: "Study", basis: str) -> str:
    """What is said where no merge meets the floors."""
    floors = [f"{o.name} {o.floor}" for o in study.plan.objectives.searched if o.floor is not None]
    return (
        f"NO MERGE MEETS THE FLOORS ({', '.join(floors)}) on {basis} items: the front is that of all "
        "merges, as if there were none."
    )


def costs(table: Mapping[str, Any]) -> str:
    """How many trials were stopped by racing or failed, and what it saved; empty if none."""
    counts, share = table["counts"], table["item_share"]
    text = []
    if counts["stopped"]:
        saved = f": {share:.0%} of the item evaluations of full ones" if share is not None else ""
        text.append(f"{counts['stopped']} candidates were stopped early by racing{saved}.")
    if counts["failed"]:
        text.append(f"{counts['failed']} failed.")
    return " ".join(text)


def _front_table(
    study: "Study", split: str, objectives: Sequence[Objective], what: str, chances: bool
) -> Table:
    """Members of the front, then baselines; means with standard errors, and p(front) if asked."""
    front = study.front
    members, knee = front.members, front.knee().number
    met = meeting(front.trials, study.plan.objectives, split, study.floors(split))
    regret = study.regret(front)
    table = Table(
        title=f"{study.name}, {what}: front, then baselines, on {split} items",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("merge", no_wrap=True)
    for objective in objectives:
        arrow = "↑" if objective.direction == "max" else "↓"
        table.add_column(f"{objective.name} {arrow}", justify="right", no_wrap=True)
    if chances:
        table.add_column("p(front)", justify="right", no_wrap=True)
    table.add_column("regret", justify="right", no_wrap=True)
    for member, lost, meets in zip(members, regret, met, strict=True):
        name = member.trial.name + (" (knee)" if member.trial.number == knee else "")
        name += "" if meets else " (below floor)"
        chance = [f"{member.p_nondominated:.2f}"] if chances else []
        steps = " ".join(f"{lost[o.name]:.3f}" for o in objectives if o.name in lost)
        table.add_row(*_cells(member.trial, name, objectives, split), *chance, steps)
    table.add_section()
    shown = {member.trial.number for member in members}
    for trial in study.baselines:
        if trial.number not in shown and split in trial.evaluations:
            table.add_row(*_cells(trial, trial.name, objectives, split))
    return table


def _cells(trial: Trial, name: str, objectives: Sequence[Objective], split: str) -> list[str]:
    scores = trial.evaluations[split].scores
    return [str(trial.number), name, *(_score(scores.get(o.name)) for o in objectives)]


def _score(score: Score | None) -> str:
    return "" if score is None else f"{score.mean:.3f} ± {score.stderr:.3f}"


def trial(table: Mapping[str, Any]) -> None:
    """One trial, key by key."""
    out = console()
    out.print(
        f"study {table['study']}, trial {table['trial']}: {table['name']} ({table['state']})"
    )
    out.print(f"recipe {table['id']}  {table['method']}  {table['recipe']['dtype']}")
    out.print(f"digest {table['digest'] or 'none'}   attempts {table['attempts']}")
    for name, weight in table["weights"].items():
        out.print(f"  {weight:8.4f}  {name}")
    for split in ("dev", "select", "test"):
        for name, score in table.get(split, {}).items():
            out.print(
                f"  {split:>6}  {name:<16} {score['mean']:.5f} ± {score['stderr']:.5f}  "
                f"({score['items']} items)"
            )
    for split, seconds in table["seconds"].items():
        out.print(f"  {split:>6}  " + ", ".join(f"{k} {v:.3f} s" for k, v in seconds.items()))
    if table["failure"]:
        out.print(
            f"failed: {table['failure']['kind']}: {table['failure']['message']}", markup=False
        )
        out.print(table["failure"]["details"], markup=False)


def studies(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a study."""
    names = ("study", "status", "scored", "stopped", "failed", "running", "created", "message")
    table = Table(*names)
    for row in rows:
        table.add_row(
            row["name"],
            row["status"],
            str(row["complete"]),
            str(row["stopped"]),
            str(row["failed"]),
            str(row["running"]),
            row["created"][:19],
            row["message"],
        )
    console().print(table if rows else "no studies yet")


def pool(spec: Mapping[str, Any]) -> None:
    """The checkpoints of a registered pool."""
    table = Table("checkpoint", "fingerprint", "path", "about", title=f"pool {spec['name']}")
    rows = [*spec["checkpoints"], *([spec["base"]] if spec["base"] else [])]
    for row in rows:
        about = ", ".join(f"{k}={v}" for k, v in row["about"].items() if v not in (None, "", []))
        table.add_row(row["name"], row["fingerprint"][7:19], row["path"], about)
    console().print(table)


def check(found: Pool | None, findings: Sequence[Finding]) -> None:
    """Findings in full, then what a merge would take."""
    out = console()
    for finding in findings:
        colour = "red" if finding.severity == "error" else "yellow"
        out.print(f"[{colour}]{finding.severity}[/{colour}] {finding.code}", end=" ")
        out.print(str(finding), markup=False)
        out.print(f"  hint: {finding.hint}", markup=False)
    errors = sum(finding.severity == "error" for finding in findings)
    if found is not None:
        size = found.checkpoints[0].nbytes
        largest = max(spec.nbytes for spec in found.checkpoints[0].tensors.values())
        out.print(
            f"{found.n} checkpoints of {len(found.checkpoints[0].tensors)} tensors, "
            f"{size / 1e6:,.1f} MB each; a merge writes {size / 1e6:,.1f} MB and holds about "
            f"{3 * largest / 1e6:,.1f} MB beyond the mapped files."
        )
    out.print(f"{errors} errors, {len(findings) - errors} warnings")


def check_json(found: Pool | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """The check as data: `{"checkpoints", "findings": [...]}`."""
    return {
        "checkpoints": list(found.names) if found else [],
        "findings": [asdict(finding) for finding in findings],
    }
