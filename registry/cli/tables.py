"""Tables of text: where the cells of a row stand, in a pipe and in a terminal.

In a terminal that is too narrow, columns that the caller calls optional are left out, the first named first, and a line
says which; the last column folds at words. In a pipe every row is one line with every column whole.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from registry.contracts.texts import visible

FIRST = 500
"""Rows that are looked at before the first is printed: a page of the API."""
GAP = 2
"""Between two columns."""
FOLDED = 20
"""So narrow may the last column become."""


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], optional: Sequence[str] = ()
) -> tuple[int, Sequence[str]]:
    """Print rows under headings as they arrive; nothing where there is none. The first FIRST decide on the widths.

    Args:
        columns: Headings; `>x` is a number, right-aligned as `x`.
        rows: Their cells.
        optional: Columns that a narrow terminal may do without, the first to go first.

    Returns:
        How many rows there were, and for which columns there was no room.
    """
    cells = ([visible(str(cell)) for cell in row] for row in rows)
    first = list(islice(cells, FIRST))
    if not first:
        return 0, ()
    layout = TableLayout(columns, first, optional, terminal_width())
    count = 0
    for line in layout.heading():
        print(line)  # noqa: T201
    for row in chain(first, cells):
        for line in layout.lines(row):
            print(line)  # noqa: T201
        count += 1
    return count, layout.left_out


def terminal_width() -> int | None:
    """None: this is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fold(text: str, width: int) -> Iterator[str]:
    """Lines of at most so many columns, cut at spaces; a word that is too long stays whole."""
    from rich.cells import cell_len  # noqa: PLC0415 - 70 ms

    line = ""
    for word in text.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


class TableLayout:
    """Where the cells of a row stand.

    Args:
        columns: Headings; `>x` is a number, right-aligned as `x`.
        rows: Those that decide how wide the columns are, their cells free of what steers a terminal.
        optional: Columns that a narrow terminal may do without, the first to go first.
        width: Of the terminal; None: a pipe.
    """

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str], width: int | None
    ) -> None:
        from rich.cells import cell_len  # noqa: PLC0415 - 70 ms

        self._len = cell_len
        self._names = [column.lstrip(">") for column in columns]
        self._right = [column.startswith(">") for column in columns]
        self._width = width
        self._widths = [max(map(cell_len, column)) for column in zip(self._names, *rows, strict=True)]
        self._shown = list(range(len(columns)))
        self._optional = {self._names.index(name) for name in optional}
        self.left_out: list[str] = []
        """For which there was no room."""
        for name in optional:
            if width is None or self._least() <= width:
                break
            self._shown.remove(self._names.index(name))
            self.left_out.append(name)
        for name in reversed(self.left_out):  # a wide column that went later may have left room for narrow ones
            before, self._shown = self._shown, sorted([*self._shown, self._names.index(name)])
            if width is not None and self._least() > width:
                self._shown = before
        self.left_out = [name for name in self.left_out if self._names.index(name) not in self._shown]

    def _least(self) -> int:
        widths = [self._widths[each] for each in self._shown]
        last = (
            widths[-1] if self._shown[-1] in self._optional else min(widths[-1], FOLDED)
        )  # left out rather than folded
        return sum(widths[:-1]) + last + GAP * (len(widths) - 1)

    def heading(self) -> list[str]:
        """The first line."""
        return self.lines(self._names)

    def lines(self, cells: Sequence[str]) -> list[str]:
        """A row; more than one line where its last cell folds."""
        *before, last = self._shown
        start = "".join(self._padded(cells[each], each) + " " * GAP for each in before)
        if self._right[last]:
            return [start + self._padded(cells[last], last)]
        indent = sum(self._widths[each] + GAP for each in before)
        if self._width is None or self._len(start) + self._len(cells[last]) <= self._width:
            return [(start + cells[last]).rstrip()]
        folded = list(fold(cells[last], max(self._width - indent, FOLDED)))
        return [(start + folded[0]).rstrip(), *(" " * indent + part for part in folded[1:])]

    def _padded(self, cell: str, column: int) -> str:
        space = " " * (self._widths[column] - self._len(cell))
        return space + cell if self._right[column] else cell + space
