"""A bound for log lines that outsiders can cause: so many of one message a minute, then a count of the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

MOST = 200
"""Lines of one message (a logger and a text before its arguments are filled in) within WINDOW_S."""
WINDOW_S = 60.0
MAX_MESSAGES = 1000
"""Messages that are remembered; when there are more, all are forgotten."""


class LogLimit(logging.Filter):
    """A filter for handlers. Lines of level DEBUG always pass. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        """Of each message: when its window began, and the lines since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written. The first line after others were left out says how many."""
        if record.levelno <= logging.DEBUG:
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        with self._lock:
            began, lines = self._seen.get(key, (now, 0))
            left_out = max(0, lines - MOST) if now - began >= WINDOW_S else 0
            if now - began >= WINDOW_S:
                began, lines = now, 0
            if len(self._seen) >= MAX_MESSAGES and key not in self._seen:
                self._seen.clear()
            self._seen[key] = (began, lines + 1)
        if left_out:
            record.msg = f"{record.msg} ({left_out} lines like this one were left out)"
        elif lines + 1 == MOST:
            record.msg = f"{record.msg} (more lines like this one are left out for up to {WINDOW_S:g} s)"
        return lines < MOST


def limit_logs() -> None:
    """Puts a limit on everything that the root logger's handlers write."""
    limit = LogLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)
