"""What a command prints: tables for people, one JSON document for programs; progress and errors go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from registry.cli.failures import exit_code_of
from registry.client.errors import ClientError
from registry.contracts.texts import visible

if TYPE_CHECKING:
    from rich.console import Console

    from registry.contracts.wire import Wire

GAP = 2
"""Between two columns of a table."""
FOLDED = 20
"""So narrow may a table's last column become."""


class Output:
    """Where one command's words go.

    Args:
        as_json: stdout gets one JSON document and nothing else.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def document(self, value: Wire | Sequence[Wire] | dict[str, Any] | list[Any]) -> None:
        """The whole answer, for programs. Fields at their default are there too, so that scripts can rely on them."""
        print(_json(_plain(value), indent=2))  # noqa: T201

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
        """Rows under headings, or the sentence `empty`. A column named `>x` is a number, right-aligned as `x`.

        Only the last column folds, and only in a terminal. What is too wide for the terminal even so comes as a block
        of lines per row.
        """
        lines = [[visible(str(cell)) for cell in row] for row in rows]
        if not lines:
            self.say(empty)
            return
        from rich.table import Table  # noqa: PLC0415 - 40 ms

        headings = [column.lstrip(">") for column in columns]
        widths = _widths(headings, lines)
        console = self._console(sys.stdout, sum(widths) + GAP * len(widths))
        if console.is_terminal and _least_width(widths) > console.width:
            self.say("\n\n".join(_block(headings, line) for line in lines))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns, 1):
            side: Literal["left", "right"] = "right" if column.startswith(">") else "left"
            table.add_column(column.lstrip(">"), justify=side, overflow="fold", no_wrap=number < len(columns))
        for line in lines:
            table.add_row(*map(_text, line))
        console.print(table)

    def say(self, text: str) -> None:
        """A line of the answer."""
        print(visible(text))  # noqa: T201

    def note(self, text: str) -> None:
        """Something worth knowing on the way; silent with --json."""
        if not self.as_json:
            print(visible(text), file=sys.stderr)  # noqa: T201

    def warn(self, text: str) -> None:
        """Something that may surprise later."""
        print(visible(f"warning: {text}"), file=sys.stderr)  # noqa: T201

    def fail(self, error: ClientError) -> None:
        """One block: what happened and why, the single faults, what to do."""
        if self.as_json:
            told = {
                "code": error.code,
                "message": error.what,
                "hint": error.hint,
                "errors": list(error.errors),
                "exit_code": int(exit_code_of(error)),
            }
            print(_json({"error": told}), file=sys.stderr)  # noqa: T201
            return
        lines = [f"error: {error.what}", *(f"  - {fault}" for fault in error.errors)]
        if error.hint:
            lines.append(f"  {error.hint}")
        print(visible("\n".join(lines)), file=sys.stderr)  # noqa: T201

    @staticmethod
    def _console(stream: Any, piped: int) -> Console:
        """`piped`: its width where it is no terminal."""
        from rich.console import Console  # noqa: PLC0415 - 30 ms

        width = None if stream.isatty() else piped
        return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def _widths(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len  # noqa: PLC0415 - with the table

    return [max(map(cell_len, column)) for column in zip(headings, *lines, strict=True)]


def _least_width(widths: Sequence[int]) -> int:
    """Of a table whose last column may fold."""
    return sum(widths[:-1]) + min(widths[-1], FOLDED) + GAP * (len(widths) - 1)


def _block(headings: Sequence[str], line: Sequence[str]) -> str:
    width = max(map(len, headings))
    return "\n".join(f"{heading:{width}}  {cell}" for heading, cell in zip(headings, line, strict=True))


def time_text(at: datetime | None) -> str:
    """A time for people, in this host's zone."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age_text(at: datetime | None, now: datetime) -> str:
    """How long ago: 12 s, 3 min, 2 h, 5 d."""
    if at is None:
        return "never"
    seconds = max(0.0, (now - at.astimezone(timezone.utc)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def short(digest: str) -> str:
    """Enough of a digest to tell it from others."""
    return digest.removeprefix("sha256:")[:12]


def _text(cell: str) -> Any:
    from rich.text import Text  # noqa: PLC0415 - never parsed as markup

    return Text(cell)


def _json(value: Any, indent: int | None = None) -> str:
    """Readable letters stay; what would steer a terminal is escaped, which JSON undoes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return visible(text, lambda character: json.dumps(character)[1:-1])


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
