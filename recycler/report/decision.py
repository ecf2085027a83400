"""The decision box: the pick against its rivals in every objective, for terminal, page and card."""

import html
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from recycler.front.paired import Difference
from recycler.front.results import Results
from recycler.front.verdict import Rival, Verdict
from recycler.nouns.trial import Trial
from recycler.report.numbers import mean, signed, titled

_COLOURS = {"better": "green", "worse": "red", "equal": "dim", "can't tell": "yellow"}
_NOTE = "+ is better, in the objective's unit; [95 % interval, paired by item]"


def cell(found: Difference) -> str:
    """The rival's score, the word and the difference."""
    return f"{mean(found.against)} {found.word} {signed(found.difference, found.interval)}"


def heading(found: Rival) -> str:
    """`best single: sft-a (trial 3)`."""
    return f"{found.role}: {found.name} (trial {found.trial})"


Cell = tuple[str, str]  # text, word


def table(verdict: Verdict, results: Results) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows of the box: objective, score of the trial, then one cell for each rival."""
    trial = results.trial(verdict.trial)
    head = ["objective", f"trial {trial.number}", *(heading(c) for c in verdict.comparisons)]
    scores = trial.evaluations[verdict.split].scores
    rows = []
    for objective in (*results.plan.objectives.searched, *results.plan.objectives.held_out):
        score = scores.get(objective.name)
        if score is None:
            continue
        row: list[Cell] = [(titled(objective), ""), (mean(score), "")]
        for found in verdict.comparisons:
            known = [d for d in found.objectives if d.objective.name == objective.name]
            row.append((cell(known[0]), known[0].word) if known else ("not scored", ""))
        rows.append(row)
    averages = [
        (f"{found.word} {signed(found.difference, found.interval)}", found.word)
        for found in verdict.comparisons
    ]
    return head, [*rows, [("average [steps]", ""), ("", ""), *averages]]


def notes(results: Results, verdict: Verdict) -> list[str]:
    """What to know when reading the box."""
    starred = "* held out: never seen by the search." if results.plan.objectives.held_out else ""
    found = (_NOTE + ".", starred, results.decision.scale if results.decision else "")
    return [text for text in found if text]


def why(results: Results, trial: Trial, asked: bool = False) -> str:
    """What a trial is, in one to three sentences; `asked`: weights of `--prefer` chose it."""
    decision, verdict = results.decision, results.verdict(trial)
    title = f"{decision.title}. " if decision and decision.pick.number == trial.number else ""
    if verdict is None:
        return f"{title}Its rivals are not scored yet."
    note = " The scaled average has the study's weights, not those of --prefer." if asked else ""
    return f"{title}{verdict.sentence}{note}"


# --- terminal ---


def show(out: Console, results: Results) -> None:
    """Print the decision in a box."""
    decision = results.decision
    if decision is None:
        return
    parts: list[Table | Text] = [Text(decision.recipe)]
    if decision.verdict is not None:
        parts += _tables(decision.verdict, results, out.width - 4)
        parts.append(Text(decision.verdict.sentence, style="bold"))
        parts.append(Text(" ".join(notes(results, decision.verdict)), style="dim"))
    if not decision.feasible:
        parts.append(Text("It does not meet the floors.", style="bold red"))
    title = Text(decision.title, style="bold")
    out.print(Panel(Group(*parts), title=title, title_align="left", border_style="green"))


def _tables(verdict: Verdict, results: Results, width: int) -> list[Table | Text]:
    """One table if it fits; else one for each rival."""
    head, rows = table(verdict, results)
    columns = zip(head, *([text for text, _ in row] for row in rows), strict=True)
    if sum(max(map(len, column)) + 2 for column in columns) <= width:
        return [_table(head, rows)]
    apart: list[Table | Text] = [
        _table([*head[:2], head[k]], [[*row[:2], row[k]] for row in rows])
        for k in range(2, len(head))
    ]
    return apart or [_table(head, rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in head:
        made.add_column(Text(title), overflow="fold")
    for number, row in enumerate(rows):
        if number == len(rows) - 1:
            made.add_section()
        made.add_row(*(Text(text, style=_COLOURS.get(word, "")) for text, word in row))
    return made


# --- page and card ---


def _class(word: str) -> str:
    name = word.replace(" ", "-").replace("'", "")
    return f' class="{name}"' if name else ""


def _folded(text: str, word: str) -> str:
    """A cell for a page: score and word on one line, the difference on the next, intervals whole."""
    head, found, tail = text.partition(f"{word} ") if word else (text, "", "")
    if not found:
        return html.escape(text)
    first = f"{head}{word}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{html.escape(first)}<br>{html.escape(tail.replace(', ', ',' + chr(160)))}"


def _head(text: str) -> str:
    """A rival's heading for a page: its role above its name, the trial's number unbroken."""
    role, colon, name = html.escape(text).partition(": ")
    return f"{role}:<br>{name}".replace("(trial ", "(trial&nbsp;") if colon else role


def as_html(results: Results) -> str:
    """The decision as the first part of a page; empty while nothing is on the front."""
    decision = results.decision
    if decision is None:
        return ""
    parts = [
        f"<h2>{html.escape(decision.title)}</h2>",
        f"<p>{html.escape(decision.recipe)}</p>",
    ]
    if decision.verdict is not None:
        head, rows = table(decision.verdict, results)
        parts.append(
            "<div class='scroll'><table><tr>"
            + "".join(f"<th>{_head(h)}</th>" for h in head)
            + "</tr>"
        )
        for row in rows:
            cells = (f"<td{_class(word)}>{_folded(text, word)}</td>" for text, word in row)
            parts.append(f"<tr>{''.join(cells)}</tr>")
        parts.append("</table></div>")
        parts.append(f'<p class="verdict">{html.escape(decision.verdict.sentence)}</p>')
        parts += [f'<p class="note">{html.escape(" ".join(notes(results, decision.verdict)))}</p>']
    if not decision.feasible:
        parts.append('<p class="bad">It does not meet the floors.</p>')
    return f'<div class="decision">{"".join(parts)}</div>'


def as_markdown(results: Results, trial: Trial) -> list[str]:
    """Lines of a model card: the trial against its rivals, and the verdict."""
    verdict = results.verdict(trial)
    if verdict is None:
        return []
    head, rows = table(verdict, results)
    lines = [row(head), "|" + "---|" * len(head)]
    lines += [row([text for text, _ in cells]) for cells in rows]
    said = [plain(text) for text in (verdict.sentence, " ".join(notes(results, verdict)))]
    return [said[0], "", *lines, "", said[1], ""]


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(plain, cells)) + " |"


def plain(text: str) -> str:
    """Text in which Markdown finds neither a tag nor the end of a table's cell."""
    return text.replace("<", "&lt;").replace("|", "\\|")
