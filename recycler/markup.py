"""HTML for notebooks: small tables of plain values, with every text escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

ROWS = 12  # most rows of a table


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a title; numbers have four digits, and rows beyond `ROWS` are counted.

    Args:
        title: text above the table.
        head: names of the columns.
        rows: values of the columns, in their order; None is an empty cell.
    """
    shown = [*rows[:ROWS]]
    more = f"<p>… and {len(rows) - len(shown)} more</p>" if len(rows) > len(shown) else ""
    header = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(value))}</td>" for value in row) + "</tr>"
        for row in shown
    )
    return (
        f"<div><p><strong>{escape(title)}</strong></p>"
        f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
