"""What a service tells systemd: that it is ready, alive, stopping, or still starting (sd_notify(3)).

One datagram of `KEY=value` lines to the socket that NOTIFY_SOCKET names. Where systemd did not start the process,
nobody is told. A manager that does not listen is no reason to stop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

SEND_S = 1.0
EXTENSION_S = 60.0
"""So long systemd waits at least after it was told that the start goes on; units give a start more than that."""
EXTEND_EVERY_S = 15.0
MAX_STEP_S = 4 * 3600.0
"""A step of a start that cannot tell how far it is, such as a change of a large table, is waited for so long."""


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


def start_goes_on(status: str) -> None:
    """Have systemd wait EXTENSION_S more for READY=1, and show `status` meanwhile."""
    notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1e6:.0f}\nSTATUS={status}")


@contextlib.contextmanager
def long_step(status: str, *, every_s: float = EXTEND_EVERY_S, most_s: float = MAX_STEP_S) -> Iterator[None]:
    """Have systemd wait for a block that cannot tell how far it is, for `most_s` at most."""
    ended = threading.Event()

    def extend() -> None:
        for _ in range(int(most_s / every_s)):
            if ended.wait(every_s):
                return
            start_goes_on(status)

    start_goes_on(status)
    thread = threading.Thread(target=extend, name="start", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
