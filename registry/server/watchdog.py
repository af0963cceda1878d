"""Feeds systemd's watchdog from the event loop, so that a loop that hangs is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.systemd import notify, watchdog_interval_s


@asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """Fed meanwhile, where systemd watches this process; says STOPPING at the end."""
    interval = watchdog_interval_s()
    feeding = asyncio.ensure_future(_feed(interval)) if interval is not None else None
    try:
        yield
    finally:
        if feeding is not None:
            feeding.cancel()
        notify("STOPPING=1")


async def _feed(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
