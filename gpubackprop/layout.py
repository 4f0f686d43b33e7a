"""Rows of text as aligned lines, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """A line for each row. sides: "<" or ">" for each column, the last for all further ones."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = sides.ljust(len(widths), sides[-1])
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def html(lines: Iterable[str], rows: Sequence[Sequence[str]] = ()) -> str:
    """Lines, and a table whose first row is its heading; all text is escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag} style='white-space: pre'>{escape(c)}</{tag}>" for c in cells) + "</tr>"

    text = "".join(f"<div>{escape(line)}</div>" for line in lines)
    body = "".join(row(cells, "td") for cells in rows[1:])
    return text + (f"<table><thead>{row(rows[0], 'th')}</thead><tbody>{body}</tbody></table>" if rows else "")
