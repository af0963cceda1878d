"""What a service tells systemd: that it is ready, alive, or stopping (sd_notify(3)).

One datagram of `KEY=value` lines to the socket that NOTIFY_SOCKET names. Where systemd did not start the process,
nobody is told. A manager that does not listen is no reason to stop.
"""

from __future__ import annotations

import contextlib
import os
import socket

SEND_S = 1.0


def notify(state: str) -> None:
    """Sends one state, e.g. `READY=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.settimeout(SEND_S)
        link.connect("\0" + address[1:] if address.startswith("@") else address)
        link.sendall(state.encode())


def watchdog_interval_s() -> float | None:
    """How often to send `WATCHDOG=1`: half of what the unit allows. None: it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError, KeyError):
        period = int(os.environ["WATCHDOG_USEC"]) / 2e6
        return period if period > 0 else None
    return None
