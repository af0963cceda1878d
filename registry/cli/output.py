"""What a command prints, and how it ends.

Answers go to stdout: tables for people, one JSON document for programs. Progress and errors go to stderr; a secret goes
to a file that only its owner can read. Exit codes are stable, for programs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.cli.tables import FOLDED, fold, print_table, terminal_width
from registry.client.errors import ClientError
from registry.contracts.texts import size_text, visible

if TYPE_CHECKING:
    from registry.contracts.wire import Wire


LINE_EVERY_S = 5.0
Position = Callable[[int], None]
"""Told how many bytes there are in all; fewer than before, when something is sent again."""
AGAIN = "Create a new one with another file: registry devices rotate, or registry token revoke and create."
WITHOUT_PAGE = ("failed", "usage")
"""Codes whose page says no more than the message."""


class ExitCode(IntEnum):
    """The exit status of every `registry` command. A number never changes its meaning."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    FORBIDDEN = 5
    UNREACHABLE = 6
    DEADLINE = 7
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done; also when there was nothing to do",
    ExitCode.FAILURE: "the command failed; the message says why",
    ExitCode.USAGE: "the command line, the publish file or a value in it is wrong",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.CONFLICT: "conflict: it exists with other content, is in use, or somebody else changed it first",
    ExitCode.FORBIDDEN: "not allowed: no token, an unknown token, or a token without the role",
    ExitCode.UNREACHABLE: "the registry does not answer, or the broker or the device is not there",
    ExitCode.DEADLINE: "the time limit of --timeout passed before the result was known",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); run the same command again to continue where it stopped",
}

_EXIT_BY_CODE = {
    "usage": ExitCode.USAGE,
    "bad_proxy": ExitCode.USAGE,
    "invalid": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
    "conflict": ExitCode.CONFLICT,
    "precondition_failed": ExitCode.CONFLICT,
    "in_use": ExitCode.CONFLICT,
    "yanked": ExitCode.CONFLICT,
    "key_offline": ExitCode.CONFLICT,
    "unauthorized": ExitCode.FORBIDDEN,
    "forbidden": ExitCode.FORBIDDEN,
    "needs_approval": ExitCode.FORBIDDEN,
    "unreachable": ExitCode.UNREACHABLE,
    "deadline": ExitCode.DEADLINE,
}


def end_well() -> None:
    """From here on SIGTERM ends the command as Ctrl-C does, with exit code 143: folders and processes go with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class CliError(ClientError):
    """A command that could not do what it was asked.

    Args:
        what: What happened, and why: one sentence or a few.
        code: Stable, for programs (`--json`).
        hint: What to do about it. Empty: what the table of the code says.
        errors: The single faults.
        exit_code: Unless `code` decides it.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str = "failed",
        hint: str = "",
        errors: tuple[str, ...] = (),
        exit_code: ExitCode | None = None,
    ) -> None:
        super().__init__(what, code=code, hint=hint, errors=errors)
        self.exit_code = exit_code


def exit_code_of(error: ClientError) -> ExitCode:
    """The exit status of a command that ends with this error."""
    own = error.exit_code if isinstance(error, CliError) else None
    return own if own is not None else _EXIT_BY_CODE.get(error.code, ExitCode.FAILURE)


@contextmanager
def meter(what: str, total: int, *, quiet: bool, start: int = 0) -> Iterator[Position]:
    """Show the progress of `total` bytes while the block runs.

    Args:
        what: Verb and file, as `sending lenet.onnx`.
        total: Bytes.
        quiet: Show nothing (`--json`).
        start: Bytes that were there before.
    """
    if quiet:
        yield lambda _position: None
    else:
        with (_bar if sys.stderr.isatty() else _lines)(visible(what), total, start) as at:
            yield at


@contextmanager
def _lines(what: str, total: int, start: int) -> Iterator[Position]:
    """A line every few seconds and at the end. What lay there before does not count for the rate."""
    began = told = time.monotonic()
    position = start

    def at(now_at: int) -> None:
        nonlocal position, told
        position, now = now_at, time.monotonic()
        if now - told < LINE_EVERY_S:
            return
        told = now
        rate = (position - start) / max(now - began, 1e-6)
        share = f"{position / total:.0%}" if total else "100%"
        left = f", {(total - position) / rate:.0f} s left" if rate > 0 else ""
        _print(f"{what}: {share} of {size_text(total)}, {size_text(rate)}/s{left}")

    yield at
    seconds = time.monotonic() - began
    rate = size_text((position - start) / max(seconds, 1e-6))
    _print(f"{what}: {size_text(position)} in {seconds:.1f} s, {rate}/s")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def _bar(what: str, total: int, start: int) -> Iterator[Position]:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs them
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, completed=start)
        yield lambda position: progress.update(task, completed=position)


def require_new_file(path: Path | None) -> None:
    """Before a credential is made: nothing lies where it is to be written.

    Raises:
        CliError: something does; it may be a credential that is in use.
    """
    if path is not None and (path.exists() or path.is_symlink()):
        raise CliError(
            f"{path} exists already and is not overwritten; no credential was made",
            code="conflict",
            hint="Remove that file, or name another.",
        )


def write_secret(path: Path, secret: str, hint: str = AGAIN) -> None:
    """Create `path` with mode 600 and the secret in it; on disk when this returns.

    Raises:
        CliError: it cannot be written, and nothing else has the secret, so it has to be recreated as `hint` says.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CliError(
            f"The credential was made but {path} cannot be written: {error.strerror}",
            code="disk_error",
            hint=hint,
        ) from error


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

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, optional: Sequence[str] = ()
    ) -> int:
        """Rows under headings as they arrive, or the sentence `empty`, if any; how many there were.

        A column named `>x` is a number, right-aligned as `x`. A terminal that is too narrow does without the columns
        of `optional`, the first named first, and is told which.
        """
        count, left_out = print_table(columns, rows, optional)
        if not count and empty:
            self.say(empty)
        if left_out:
            self.note(f"No room for {', '.join(left_out)}; a pipe gets every column.")
        return count

    def listing(
        self,
        found: Sequence[Wire] | list[Any],
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        empty: str,
        *,
        optional: Sequence[str] = (),
    ) -> None:
        """The whole answer, where it is a list: its documents for programs, else `table` of its rows."""
        if self.as_json:
            self.document(found)
        else:
            self.table(columns, rows, empty, optional=optional)

    def answer(self, document: Wire | dict[str, Any] | list[Any], text: str) -> None:
        """The whole answer: a document for programs, else a line."""
        if self.as_json:
            self.document(document)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """A line of the answer."""
        print(visible(text))  # noqa: T201

    def field(self, label: str, text: str) -> None:
        """A line of the answer that begins with what it is about; a terminal gets the rest folded at words below its
        own beginning."""
        width = terminal_width()
        text = visible(text)
        lines = [text] if width is None else fold(text, max(width - len(label), FOLDED))
        for line in lines:
            print(label + line)  # noqa: T201
            label = " " * len(label)

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
        if error.code not in WITHOUT_PAGE:
            lines.append(f"  More about this: registry code {error.code}")
        print(visible("\n".join(lines)), file=sys.stderr)  # noqa: T201


def time_text(at: datetime | None) -> str:
    """A time for people, in this host's zone, which it names: 2026-01-31 09:00:00 CET."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").rstrip()


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


def json_text(value: Any, indent: int | None = None) -> str:
    """A document as programs get it."""
    return _json(_plain(value), indent)


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
