"""Who was refused something because he had all of his part: for metrics, for `registry doctor`, and for the log."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from registry.errors import ShareError

KINDS = ("connections", "requests", "bodies", "uploads", "streams", "reports", "messages")
"""`connections` of an address; the rest of a token or a device. `reports` come over HTTP, `messages` over MQTT."""
REMEMBERED_S = 3600.0
LOG_EVERY_S = 60.0
MAX_REMEMBERED = 1000
log = logging.getLogger(__name__)


@dataclass
class ShareRefusal:
    """What was refused to one caller, lately."""

    what: str
    caller: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    """Monotonic seconds."""
    logged: float = float("-inf")


class ShareRefusals:
    """Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._lately: dict[tuple[str, str], ShareRefusal] = {}

    def refused(self, what: str, caller: str, message: str, wait_s: float = 0.0) -> ShareError:
        """Note it; what to raise. `what`: one of KINDS."""
        self.note(what, caller)
        return ShareError(message, wait_s)

    def note(self, what: str, caller: str, count: int = 1) -> None:
        """So much of it was refused."""
        now = self._clock()
        with self._lock:
            self._totals[what] += count
            known = self._lately.pop((what, caller), None)
            if known is None or now - known.last > REMEMBERED_S:
                known = ShareRefusal(what, caller, first=now)
            self._lately[what, caller] = known  # the newest at the end
            while len(self._lately) > MAX_REMEMBERED:
                del self._lately[next(iter(self._lately))]
            known.count += count
            known.last = now
            say = now - known.logged >= LOG_EVERY_S
            if say:
                known.logged = now
            number = known.count
        if say:
            text = "%s has all of its part of the %s, and is refused more, so that the others get theirs (%d so far)"
            log.warning(text, caller or "a caller without a token", what, number)

    def totals(self) -> dict[tuple[str, ...], float]:
        """Since the start, by kind."""
        with self._lock:
            return {(kind,): float(self._totals[kind]) for kind in KINDS}

    def lately(self) -> list[ShareRefusal]:
        """Of the last hour, those with most refusals first."""
        now = self._clock()
        with self._lock:
            found = [each for each in self._lately.values() if now - each.last <= REMEMBERED_S]
        return sorted(found, key=lambda each: -each.count)
