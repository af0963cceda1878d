"""Progress of bytes, with rate and remaining time: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from registry.cli.output import size_text
from registry.contracts.texts import visible

LINE_EVERY_S = 5.0


class Meter(Protocol):
    """Told how far the work is."""

    def at(self, position: int) -> None:
        """So many bytes in all; may be less than before, when something is sent again."""


class Silent:
    """Shows nothing."""

    def at(self, position: int) -> None:
        """Nothing."""


class Lines:
    """A line at the start, every few seconds and at the end, on stderr."""

    def __init__(self, what: str, total: int) -> None:
        self._what = visible(what)
        self._total = total
        self._position = 0
        self._began = self._told = time.monotonic()
        self._first = 0

    def at(self, position: int) -> None:
        """So many bytes in all."""
        self._position = position
        now = time.monotonic()
        if now - self._told >= LINE_EVERY_S:
            self._told = now
            self.tell(now)

    def start_at(self, position: int) -> None:
        """What lay there before does not count for the rate."""
        self._position = self._first = position

    def tell(self, now: float) -> None:
        """Position, rate, remaining time."""
        rate = (self._position - self._first) / max(now - self._began, 1e-6)
        share = f"{self._position / self._total:.0%}" if self._total else "100%"
        left = f", {(self._total - self._position) / rate:.0f} s left" if rate > 0 else ""
        text = f"{self._what}: {share} of {size_text(self._total)}, {size_text(rate)}/s{left}"
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def finish(self) -> None:
        """The last line."""
        seconds = time.monotonic() - self._began
        rate = size_text((self._position - self._first) / max(seconds, 1e-6))
        text = f"{self._what}: {size_text(self._position)} in {seconds:.1f} s, {rate}/s"
        print(text, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def meter(what: str, total: int, *, quiet: bool, start: int = 0) -> Iterator[Meter]:
    """Show the progress of `total` bytes while the block runs.

    Args:
        what: Verb and file, as `sending lenet.onnx`.
        total: Bytes.
        quiet: Show nothing (`--json`).
        start: Bytes that were there before.
    """
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bar(what, total, start) as shown:
            yield shown
    else:
        lines = Lines(what, total)
        lines.start_at(start)
        yield lines
        lines.finish()


@contextmanager
def _bar(what: str, total: int, start: int) -> Iterator[Meter]:
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
        task = progress.add_task(visible(what), total=total, completed=start)

        class Bar:
            """The shown bar."""

            def at(self, position: int) -> None:
                progress.update(task, completed=position)

        yield Bar()
