"""Tells systemd that the agent is ready, alive, or stopping. Does nothing when systemd did not start it.

Protocol: sd_notify(3), one datagram of `KEY=value` lines to the socket in NOTIFY_SOCKET.
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Sends e.g. `READY=1`. A manager that does not listen is no reason to stop."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.settimeout(1.0)
        link.connect("\0" + address[1:] if address.startswith("@") else address)
        link.sendall(message.encode())


def watchdog_interval_s() -> float | None:
    """How often to send `WATCHDOG=1`: half of what the unit allows. None when it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError, KeyError):
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    return None
