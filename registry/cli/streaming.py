"""Answers of any length, printed as they arrive: a table, or the JSON array of the same documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from registry.cli.output import Output, json_text

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
    return out.table(columns, map(row, items), empty, optional=optional)


def _array(items: Iterable[object]) -> int:
    count = 0
    for item in items:
        text = json_text(item, indent=2).replace("\n", "\n  ")
        print(("[\n  " if not count else ",\n  ") + text, end="")  # noqa: T201
        count += 1
    print("\n]" if count else "[]")  # noqa: T201
    return count
