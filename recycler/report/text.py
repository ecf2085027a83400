"""Output of commands on a terminal: tables on standard output."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recycler.checkpoints.findings import Finding, printable
from recycler.checkpoints.pool import ASSUMED_RATE, Pool
from recycler.front.results import Results
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import SCORED, Kind, State, Trial
from recycler.report import decision
from recycler.report.numbers import headed, probability, scored

if TYPE_CHECKING:
    from recycler.merge.deep import Reading

_SHOWN = 3  # findings of one kind that are printed in full
_GROUPED = ("tensor-missing", "tensor-extra", "shape", "dtype", "not-finite", "integers")
_WIDTH = 120  # if the output is not a terminal
_NAME, _SHORT = 30, 22  # longest name of a merge, and on a narrow terminal


def console() -> Console:
    """Standard output; of fixed width if it is piped."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=max(found.width, _WIDTH))


def readable(text: str, style: str = "") -> Text:
    """Any text that a model may write: what can't be printed is escaped, as in Python."""
    visible = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return Text(visible if visible.strip() else repr(text), style=style)


def front(results: Results, out: Console | None = None, whole: bool = False) -> None:
    """Print the decision, then the front against the baselines, and how far to trust it.

    Args:
        results: the study.
        out: where to print; default: standard output.
        whole: print all rows of the table, even if a terminal does not show them on one screen.
    """
    out = out or console()
    decision.show(out, results)
    members(results, out, whole)
    if out.is_terminal and results.decision is not None:  # the box may have left the screen
        out.print(results.decision.title, style="bold", markup=False)


def members(results: Results, out: Console | None = None, whole: bool = False) -> None:
    """Print the members of the front and the baselines; arguments as in `front`."""
    out, table = out or console(), results.front_json()
    if not table["members"]:
        out.print(f"study {results.name}: nothing is scored yet ({table['status']}).")
        return
    if not table["feasible"]:
        out.print(infeasible(results, table["basis"]), style="bold red", markup=False)
    split = results.front.certainty
    rows = _shown(results, out.height - 24 if out.is_terminal and not whole else None)
    _print_front(out, results, results.plan.objectives.searched, split, "searched", rows)
    held_out = results.plan.objectives.held_out
    if held_out and held_out[0].name in results.front.trials[0].evaluations[split].scores:
        _print_front(out, results, held_out, split, "held out, never seen by the search", rows)
    known = {t.number for t in (*results.front.trials, *results.baselines)}
    if hidden := len(known) - len(rows):
        out.print(f"… and {hidden} more: `recycler front {results.name} --all`.", markup=False)
    for said in references(table):
        out.print(said, markup=False)
    volume, before = table["hypervolume"].get(split), table["baseline_hypervolume"].get(split)
    out.print(
        f"{table['evaluations']} merges evaluated, {len(table['members'])} on the front; study is "
        f"{table['status']}"
        + (f": {results.status['message']}." if results.status["message"] else ".")
    )
    out.print(
        "± is one standard error; p(front): probability that the merge is non-dominated; regret: "
        "distance to the best of all shown, one figure for each objective.",
        markup=False,
    )
    if left := costs(table):
        out.print(left)
    if volume is not None and before:
        out.print(
            f"Hypervolume on {split} items: {volume:.4g}; singles and baselines {before:.4g} "
            f"({volume / before - 1:+.1%})."
        )
    for said in (
        errorless(results, split),
        results.rechecking,
        results.seen_by if split == "test" else "",
    ):
        if said:
            out.print(said)
    if split != "test":
        out.print(
            f"[yellow]Optimistic:[/yellow] these are {split} items, which the search or the choice "
            "used; the study reports on test items when it is complete."
        )


def errorless(results: Results, split: str) -> str:
    """The warning that scores came without errors; empty if all have some."""
    names = results.without_errors(split)
    return (
        f"Error unknown: the evaluator gives plain numbers for {', '.join(names)}, so no interval "
        "and no probability is known. Return a value for each item to have them."
        if names
        else ""
    )


def references(table: Mapping[str, Any]) -> list[str]:
    """What has to be known about each reference, in a sentence; none for ordinary ones."""
    told = []
    for row in table["references"]:
        name, said = f"reference:{row['name']}", []
        if row["failure"]:
            said.append(f"could not be scored: {row['failure'].rstrip('.')}")
        elif row["state"] not in SCORED:
            said.append("is not scored yet")
        elif row["scored_as"] != name:
            said.append(f"is trial {row['trial']} ({row['scored_as']})")
        if row["same_weights_as"]:
            said.append(f"has the weights of checkpoint {row['same_weights_as']!r}")
        if row["tokenizer"] == "own":
            said.append(
                "has a tokenizer of its own: scores per answer, word or byte compare with the "
                "merges', scores per token do not"
            )
        told += [f"{name} {' and '.join(said)}."] if said else []
    return told


def infeasible(results: Results, basis: str) -> str:
    """The warning if no merge meets the floors."""
    floors = [
        f"{o.name} {o.floor}" for o in results.plan.objectives.searched if o.floor is not None
    ]
    return (
        f"NO MERGE MEETS THE FLOORS ({', '.join(floors)}) on {basis} items: the front ignores the "
        "floors."
    )


def costs(table: Mapping[str, Any]) -> str:
    """How many trials were pruned or failed, and what pruning saved; empty if none."""
    counts, share = table["counts"], table["item_share"]
    text = []
    if counts["pruned"]:
        saved = f": {share:.0%} of the item evaluations of full ones" if share is not None else ""
        text.append(f"{counts['pruned']} candidates were pruned by racing{saved}.")
    if counts["failed"]:
        text.append(f"{counts['failed']} failed.")
    return " ".join(text)


def _shown(results: Results, limit: int | None) -> frozenset[int]:
    """Numbers of the members and baselines to print: all, or the most telling ones up to a limit.

    The pick and its rivals come first, then the knee, the best of each objective, the other
    baselines that are no singles, and the members by their probability.
    """
    front, trials = results.front, [*results.front.trials, *results.baselines]
    if limit is None or len(trials) <= limit:
        return frozenset(t.number for t in trials)
    verdict = results.verdict()
    first = [verdict.trial, *(c.trial for c in verdict.comparisons)] if verdict else []
    gains = front.gains(front.basis)
    first += [front.knee().number, *(front.trials[row].number for row in gains.argmax(axis=0))]
    first += [t.number for t in results.baselines if t.kind != Kind.SINGLE]
    likely = sorted(front.members, key=lambda member: -(member.p_nondominated or 0.0))
    first += [m.trial.number for m in likely] + [t.number for t in results.baselines]
    return frozenset(list(dict.fromkeys(first))[: max(limit, 8)])


def _print_front(
    out: Console,
    results: Results,
    objectives: Sequence[Objective],
    split: str,
    what: str,
    rows: frozenset[int],
) -> None:
    """Print one table with regrets; on a narrow terminal several, each with some objectives."""
    shown = [t for t in (*results.front.trials, *results.baselines) if t.number in rows]
    names = max(len(line) for t in shown for line in _label(results, t, out.width).splitlines())
    left = out.width - names - 18  # the rest holds the trial's number and p(front)
    scores = [t.evaluations[split].scores for t in shown if split in t.evaluations]
    widths = [
        2 + max(len(o.name) + 2, *(len(scored(row.get(o.name))) for row in scores))
        for o in objectives
    ]
    if sum(widths) + 6 * len(widths) + 3 <= left:
        out.print(_front_table(results, split, objectives, what, out.width, rows, regrets=True))
        return
    while objectives:
        fitting = max(1, sum(used <= left for used in accumulate(widths)))
        block, objectives = objectives[:fitting], objectives[fitting:]
        widths = widths[fitting:]
        out.print(_front_table(results, split, block, what, out.width, rows, regrets=False))
    out.print("Regrets need a wider terminal; --json, --csv and --html have them.")


def _front_table(
    results: Results,
    split: str,
    objectives: Sequence[Objective],
    what: str,
    width: int,
    rows: frozenset[int],
    regrets: bool,
) -> Table:
    """Members of the front, then baselines: scores with standard errors, p(front) and regrets.

    p(front) is in the table of the first searched objective; regrets have the order of the
    objectives.
    """
    chances = objectives[0] == results.plan.objectives.searched[0]
    table = Table(
        title=Text(f"{results.name}, {what}: front, then baselines, on {split} items"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("merge", no_wrap=True)
    for objective in objectives:
        table.add_column(Text(headed(objective)), justify="right", overflow="fold")
    if chances:
        table.add_column("p(front)", justify="right", no_wrap=True)
    if regrets:
        table.add_column("regret", justify="right", no_wrap=True)
    for member, lost in zip(results.front.members, results.regrets, strict=True):
        if member.trial.number not in rows:
            continue
        more = [probability(member.p_nondominated)] if chances else []
        if regrets:
            more.append(" ".join(f"{lost[o.name]:.3f}" for o in objectives if o.name in lost))
        table.add_row(*_cells(results, member.trial, objectives, split, width), *more)
    table.add_section()
    shown = {trial.number for trial in results.front.trials}
    for trial in results.baselines:
        if trial.number not in shown and trial.number in rows and split in trial.evaluations:
            table.add_row(*_cells(results, trial, objectives, split, width))
    return table


def marked(results: Results, trial: Trial) -> str:
    """Name of a trial and remarks on it: whether it is the pick, the knee, or below a floor."""
    front = results.front
    below = {t.number for t, m in zip(front.trials, results.meets_floors, strict=True) if not m}
    picked = results.decision.pick.number if results.decision else None
    marks = (
        ("(pick)", trial.number == picked),
        ("(knee)", bool(front.members) and trial.number == front.knee().number),
        ("(below floor)", trial.number in below),
    )
    return " ".join([trial.name, *(mark for mark, applies in marks if applies)])


def _label(results: Results, trial: Trial, width: int) -> str:
    """The marked name in lines of limited length."""
    return "\n".join(wrap(marked(results, trial), _NAME if width >= _WIDTH else _SHORT))


def _cells(
    results: Results, trial: Trial, objectives: Sequence[Objective], split: str, width: int
) -> list[Text]:
    scores = trial.evaluations[split].scores
    texts = [str(trial.number), _label(results, trial, width)]
    return [Text(text) for text in (*texts, *(scored(scores.get(o.name)) for o in objectives))]


def trial(table: Mapping[str, Any]) -> None:
    """Print one trial, key by key."""
    out = console()
    out.print(
        f"study {table['study']}, trial {table['trial']}: {table['name']} ({table['state']})",
        markup=False,
    )
    recipe = table["recipe"]
    settings = "".join(f"  {k} {_value(v)}" for k, v in recipe["settings"].items())
    out.print(
        f"recipe {table['id']}  {table['method']}  {recipe['dtype']}{settings}", markup=False
    )
    out.print(f"digest {table['digest'] or 'none'}   attempts {table['attempts']}")
    for name, weight in table["weights"].items():
        out.print(f"  {weight:8.4f}  {name}{_own(recipe, name)}", markup=False)
    for split in ("dev", "select", "test"):
        guess = "estimated from " if (table["state"], split) == (State.PRUNED, "dev") else ""
        for name, score in table.get(split, {}).items():
            error = f" ± {score['stderr']:.5f}" if score["stderr"] else ""
            count = f"  ({guess}{score['items']} items)" if score["items"] else ""
            out.print(f"  {split:>6}  {name:<16} {score['mean']:.5f}{error}{count}")
    for split, seconds in table["seconds"].items():
        out.print(f"  {split:>6}  " + ", ".join(f"{k} {v:.3f} s" for k, v in seconds.items()))
    if table["failure"]:
        out.print(
            f"failed: {table['failure']['kind']}: {table['failure']['message']}", markup=False
        )
        out.print(table["failure"]["details"], markup=False)


def _own(recipe: Mapping[str, Any], name: str) -> str:
    """A checkpoint's own settings: its density, and its weight in each group of layers."""
    text = ""
    for key, value in recipe["per_checkpoint"].get(name, {}).items():
        if key == "weight" and all("layers" in entry for entry in value):
            spans = ", ".join(
                f"{recipe['weights'][name] * entry['value']:.4f} in [{entry['layers'][0]}, "
                f"{entry['layers'][1]})"
                for entry in value
            )
            text += f"  ({spans})"
        else:
            text += f"  {key} {_value(value)}"
    return text


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pool(spec: Mapping[str, Any]) -> None:
    """Print the checkpoints of a registered pool."""
    table = Table("checkpoint", "fingerprint", "path", "about", title=f"pool {spec['name']}")
    rows = [*spec["checkpoints"], *([spec["base"]] if spec["base"] else [])]
    for row in rows:
        about = ", ".join(f"{k}={v}" for k, v in row["about"].items() if v not in (None, "", []))
        table.add_row(row["name"], row["fingerprint"][7:19], row["path"], about)
    console().print(table)


def check(found: Pool | None, findings: Sequence[Finding], reading: "Reading | None") -> None:
    """Print findings, similar ones counted, then the deep check if any, then the cost of a merge."""
    check_table(check_json(found, findings, reading))


def check_table(table: Mapping[str, Any]) -> None:
    """Print a check as `check_json` made it, here or on a server."""
    out, findings = console(), [Finding(**row) for row in table["findings"]]
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        tensor = finding.tensor if finding.code not in _GROUPED else ""
        same = tensor or ("" if finding.tensor else finding.found)
        key = (finding.checkpoint, finding.code, same)
        groups.setdefault(key, []).append(finding)
    for group in groups.values():
        colour = "red" if group[0].severity == "error" else "yellow"
        for finding in group[:_SHOWN]:
            out.print(f"[{colour}]{finding.severity}[/{colour}] {finding.code}", end=" ")
            out.print(str(finding), markup=False)
        if len(group) > _SHOWN:
            out.print(
                f"  … and {len(group) - _SHOWN} more like it in {printable(group[0].checkpoint)}",
                markup=False,
            )
        out.print(f"  hint: {printable(group[0].hint)}", markup=False)
    if table["deep"]:
        _geometry(out, table["deep"])
    if table["estimate"]:
        _estimate(out, len(table["checkpoints"]), table["estimate"])
    errors = sum(finding.severity == "error" for finding in findings)
    out.print(f"{errors} errors, {len(findings) - errors} warnings")


def _estimate(out: Console, n: int, takes: Mapping[str, Any]) -> None:
    out.print(
        f"{n} checkpoints of {takes['tensors']} tensors, {takes['write_bytes'] / 1e6:,.1f} MB "
        f"each. A merge reads {takes['read_bytes'] / 1e6:,.1f} MB and writes "
        f"{takes['write_bytes'] / 1e6:,.1f} MB ({takes['free_bytes'] / 1e6:,.0f} MB are free "
        f"here), holds up to {takes['working_bytes'] / 1e6:,.1f} MB beyond the resident model "
        f"and takes about {takes['seconds']:,.1f} s at {ASSUMED_RATE / 1e9:g} GB/s."
    )


def _geometry(out: Console, reading: Mapping[str, Any]) -> None:
    """Print norms, and the cosines of each checkpoint with its most and least parallel one."""
    table = Table(
        title=Text(f"task vectors, from {printable(reading['reference'])}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for title in ("checkpoint", "norm", "largest cosine", "smallest cosine", "fingerprint"):
        table.add_column(title, no_wrap=True)
    for i, name in enumerate(reading["names"]):
        others = [
            (cosine, printable(reading["names"][j]))
            for j, cosine in enumerate(reading["cosines"][i])
            if j != i and cosine is not None
        ]
        ends = (
            [Text(f"{c:+.3f} {other}") for c, other in (max(others), min(others))]
            if others
            else []
        )
        table.add_row(
            Text(printable(name)),
            f"{reading['norms'][i]:.4g}",
            *(ends or [Text(), Text()]),
            reading["fingerprints"][name][7:19],
        )
    out.print(table)
    rate = reading["read_bytes"] / 1e9 / reading["seconds"] if reading["seconds"] else 0.0
    out.print(
        f"{reading['read_bytes'] / 1e6:,.1f} MB read in {reading['seconds']:.1f} s ({rate:.2f} GB/s)."
    )


def check_json(
    found: Pool | None, findings: Sequence[Finding], reading: "Reading | None"
) -> dict[str, Any]:
    """The check as data: `{"checkpoints", "findings", "estimate", "deep"}`, with all findings."""
    deep = asdict(reading) if reading is not None and reading.norms else None
    if deep:
        del deep["findings"]
    return {
        "checkpoints": list(found.names) if found else [],
        "findings": [asdict(finding) for finding in findings],
        "estimate": asdict(found.estimate()) if found else None,
        "deep": deep,
    }
