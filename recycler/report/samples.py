"""Answers of trials side by side on a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recycler.execute.sample import Answer, Samples
from recycler.report.text import console, readable

_COLUMN = 36  # narrowest column of answers; with less, they stand below each other


def samples(found: Samples, out: Console | None = None) -> None:
    """Print each prompt and the answer of every trial."""
    out, sampling = out or console(), found.sampling
    way = f"sampled at {sampling.temperature:g}, seed {sampling.seed}"
    out.print(
        f"{found.template}; {way if sampling.temperature else 'greedy'}, at most "
        f"{sampling.max_new_tokens} tokens.",
        markup=False,
    )
    for number, (prompt, row) in enumerate(zip(found.prompts, found.answers, strict=True), 1):
        turns = prompt.turns() if len(prompt.messages) > 1 else []
        out.print(Text(f"\nprompt {number}", style="bold"))
        for turn in turns:
            out.print(Text.assemble((f"{turn['role']}: ", "dim"), readable(turn["content"])))
        if not turns:
            out.print(readable(prompt.text))
        out.print(_side_by_side(row, out.width))


def _side_by_side(row: tuple[Answer, ...], width: int) -> Table:
    titles = [Text(f"trial {answer.trial} ({answer.name})", style="cyan") for answer in row]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    if len(row) * _COLUMN <= width:
        for _ in row:
            table.add_column(ratio=1, overflow="fold")
        table.expand = True
        table.add_row(*titles)
        table.add_row(*map(_answer, row))
    else:
        table.add_column(overflow="fold")
        for title, answer in zip(titles, row, strict=True):
            table.add_row(title)
            table.add_row(_answer(answer))
    return table


def _answer(answer: Answer) -> Text:
    text = readable(answer.text)
    if not answer.ended:
        text.append(f" … (cut at {answer.tokens} tokens)", style="dim")
    return text
