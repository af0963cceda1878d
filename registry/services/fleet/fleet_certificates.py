"""When certificates of devices end, from their health reports since this process started.

A device that has not reported for FORGET_S is forgotten: it is gone, or its silence is an alarm of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta

FORGET_S = 7200.0
MAX_DEVICES = 1 << 17
USES = ("broker_authority", "broker_client", "registry_authority")
"""What is shown; a device may tell of others."""


class FleetCertificates:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, tuple[datetime, Mapping[str, datetime]]] = {}

    def note(self, device: str, at: datetime, ends: Mapping[str, datetime]) -> None:
        """What a device said at this time, after it was stored."""
        with self._lock:
            if not ends:
                self._ends.pop(device, None)
            elif device in self._ends or len(self._ends) < MAX_DEVICES:
                self._ends[device] = (at, {use: ends[use] for use in USES if use in ends})

    def soonest(self, now: datetime) -> dict[tuple[str, ...], float]:
        """By use the end of the certificate that ends first, Unix time."""
        since = now - timedelta(seconds=FORGET_S)
        with self._lock:
            for device in [device for device, (at, _) in self._ends.items() if at < since]:
                del self._ends[device]
            told = [ends for _, ends in self._ends.values()]
        return {
            (use,): min(ends[use] for ends in told if use in ends).timestamp()
            for use in USES
            if any(use in ends for ends in told)
        }
