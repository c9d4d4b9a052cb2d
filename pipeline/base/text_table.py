"""The one table of text: for terminals and logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Columns = Sequence[tuple[str, int]]  # head and least width in characters; negative: aligned left


LONGEST = 40  # letters of a name in a table


def shortened(name: str) -> str:
    """A name as tables show it: its first letters, if it is longer than LONGEST."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def text_table(columns: Columns, rows: Iterable[Sequence[str]], gap: str = "") -> list[str]:
    """Lines of a table: the heads, then the rows.

    A column is as wide as its longest cell, and at least as its head and its least width.

    Args:
        columns: in their order.
        rows: a cell for each column.
        gap: between two columns.
    """
    cells = [[head for head, _ in columns], *map(list, rows)]
    widths = [
        max(abs(width), *(len(row[k]) for row in cells)) for k, (_, width) in enumerate(columns)
    ]
    return [
        gap.join(
            text.ljust(width) if least < 0 else text.rjust(width)
            for text, width, (_, least) in zip(row, widths, columns)
        )
        for row in cells
    ]
