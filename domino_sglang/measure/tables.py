"""Tables, for reports in Markdown and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any


def markdown(head: Sequence[str], body: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table and an empty line; a cell's own ``|`` is escaped."""
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *body)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]


def aligned(
    rows: Sequence[Sequence[Any]], header: Sequence[str] | None = None, right: Collection[int] = ()
) -> list[str]:
    """Rows in aligned columns for the terminal, indented by two; the columns in ``right`` are right-aligned."""
    cells = [[str(cell) for cell in row] for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        placed = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(placed).rstrip())
    return lines


def number(value: float | None, digits: int = 1) -> str:
    """A dash for what is not known."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
