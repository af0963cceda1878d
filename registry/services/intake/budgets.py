"""How much one device may say, over MQTT and HTTP together: a burst at once, and a rate in the long run.

A device that comes back after days brings all that waited on its disk, within the burst. One at full speed would fill
the database and keep the others waiting; what it says beyond its budget is refused over HTTP, and dropped over MQTT,
which has no way to refuse it. Results are as many as requests, so they have a budget of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from registry.core.shares import MAX_CALLERS, Budgets
from registry.services.shares import ShareRefusals

OVER = "This device reports more than its part; it may go on reporting as soon as Retry-After says."
MESSAGES_RATE, MESSAGES_BURST = 10.0, 5_000
BYTES_RATE, BYTES_BURST = 64 << 10, 32 << 20
RESULTS_RATE, RESULTS_BURST = 1_000.0, 20_000
RESULT_BYTES_RATE, RESULT_BYTES_BURST = 8 << 20, 128 << 20


class IntakeBudgets:
    """Thread-safe."""

    def __init__(self, refusals: ShareRefusals, clock: Callable[[], float] = time.monotonic) -> None:
        self._refusals, self._clock = refusals, clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        """When a device that was refused over HTTP may come again."""
        self._said = Budgets(MESSAGES_RATE, MESSAGES_BURST), Budgets(BYTES_RATE, BYTES_BURST)
        self._results = Budgets(RESULTS_RATE, RESULTS_BURST), Budgets(RESULT_BYTES_RATE, RESULT_BYTES_BURST)

    def spend(self, device: str, kind: str, size: int) -> bool:
        """One message of so many bytes over MQTT. False: it is over the device's budget, which is noted."""
        wait_s = self._spend(device, kind, 1, size)
        if wait_s:
            self._refusals.note("messages", device)
        return not wait_s

    def require(self, device: str, count: int, size: int) -> None:
        """So many messages of so many bytes over HTTP. Raises ShareError."""
        if wait_s := self._spend(device, "", count, size):
            with self._lock:
                if len(self._until) > MAX_CALLERS:
                    self._until.clear()
                self._until[device] = self._clock() + wait_s
            raise self._refusals.refused("reports", device, OVER, wait_s)

    def require_some(self, device: str) -> None:
        """Before anything of a report is read. Raises ShareError: the device was told to come later than now."""
        with self._lock:
            wait_s = self._until.get(device, 0.0) - self._clock()
            if wait_s <= 0:
                self._until.pop(device, None)
        if wait_s > 0:
            raise self._refusals.refused("reports", device, OVER, wait_s)

    def _spend(self, device: str, kind: str, count: int, size: int) -> float:
        numbers, sizes = self._results if kind == "results" else self._said
        now = self._clock()
        with self._lock:
            if wait_s := numbers.spend(device, count, now):
                return wait_s
            return sizes.spend(device, size, now)
