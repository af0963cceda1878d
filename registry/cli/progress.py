"""Progress of bytes, with rate and remaining time: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from registry.contracts.texts import size_text, visible

LINE_EVERY_S = 5.0
Position = Callable[[int], None]
"""Told how many bytes there are in all; fewer than before, when something is sent again."""


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
