"""Tables of any length, printed as their rows arrive, and the JSON array of the same answer.

The first rows decide how wide the columns are. In a terminal that is too narrow, columns that the caller calls
optional are left out, the first named first, and a line says which; the last column folds at words. In a pipe every row
is one line with every column whole.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

from registry.cli.output import FOLDED, GAP, Output, json_text
from registry.contracts.texts import visible

FIRST = 500
"""Rows that are looked at before the first is printed: a page of the API."""
Item = TypeVar("Item")


def stream(
    out: Output,
    items: Iterable[Item],
    columns: Sequence[str],
    row: Callable[[Item], Sequence[object]],
    *,
    empty: str,
    optional: Sequence[str] = (),
) -> int:
    """Print an answer as it arrives; with --json a valid JSON array, one document after another.

    An error on the way ends the output where it is: an array without its end is no JSON, so no program takes a part for
    the whole.

    Args:
        out: Where to.
        items: The documents.
        columns: Headings; `>x` is a number.
        row: The cells of a document.
        empty: What is said where there is none.
        optional: Columns that a narrow terminal may do without.

    Returns:
        How many there were.
    """
    if out.as_json:
        return _array(items)
    cells = ([visible(str(cell)) for cell in row(item)] for item in items)
    first = list(islice(cells, FIRST))
    if not first:
        out.say(empty)
        return 0
    layout = _Layout(columns, first, optional, _terminal_width())
    count = 0
    for line in chain(layout.heading(), chain.from_iterable(map(layout.lines, first))):
        print(line)  # noqa: T201
    count = len(first)
    for more in cells:
        for line in layout.lines(more):
            print(line)  # noqa: T201
        count += 1
    if layout.left_out:
        out.note(f"No room for {', '.join(layout.left_out)}; a pipe gets every column.")
    return count


def _array(items: Iterable[object]) -> int:
    count = 0
    for item in items:
        text = json_text(item, indent=2).replace("\n", "\n  ")
        print(("[\n  " if not count else ",\n  ") + text, end="")  # noqa: T201
        count += 1
    print("\n]" if count else "[]")  # noqa: T201
    return count


def _terminal_width() -> int | None:
    """None: this is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


class _Layout:
    """Where the cells of a row stand."""

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
        for name in optional:
            if width is None or self._least() <= width:
                break
            self._shown.remove(self._names.index(name))
            self.left_out.append(name)

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
        folded = list(self._folded(cells[last], max(self._width - indent, FOLDED)))
        return [(start + folded[0]).rstrip(), *(" " * indent + part for part in folded[1:])]

    def _padded(self, cell: str, column: int) -> str:
        space = " " * (self._widths[column] - self._len(cell))
        return space + cell if self._right[column] else cell + space

    def _folded(self, text: str, width: int) -> Iterator[str]:
        """At words; a word that is too long stays whole."""
        line = ""
        for word in text.split(" "):
            if line and self._len(line) + 1 + self._len(word) > width:
                yield line
                line = word
            else:
                line = f"{line} {word}" if line else word
        yield line
