"""Tells systemd that the server is ready, alive, stopping (sd_notify(3)); does nothing where there is no systemd."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def notify(state: str) -> None:
    """Send one state, e.g. `READY=1`, to the socket that systemd named. Raises OSError when that fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())


@asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """Pats the watchdog from the event loop, so that a loop that hangs is noticed; says STOPPING at the end."""
    period = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
    patting = asyncio.ensure_future(_pat(period)) if period > 0 else None
    try:
        yield
    finally:
        if patting is not None:
            patting.cancel()
        notify("STOPPING=1")


async def _pat(period: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(period)
