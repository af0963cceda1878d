"""What the making of the fleet's index at a start says while it goes on: to the log, and to systemd, which waits."""

from __future__ import annotations

import logging
import time

from registry.systemd import start_goes_on

log = logging.getLogger(__name__)
EVERY_S = 5.0


class IndexProgress:
    """Told after each batch. The first is told to nobody: a small fleet is done with it."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._began = self._told = time.monotonic()
        self._said = False

    def __call__(self, done: int, total: int) -> None:
        """So many devices of so many are done."""
        now = time.monotonic()
        over = done >= total
        if now - self._told < self._every_s and not (over and self._said):
            return
        self._told, self._said = now, True
        text = f"making the fleet's index: {min(done, total):,} of {total:,} devices"
        log.info("%s, %.0f s", text, now - self._began)
        start_goes_on(text)
