"""How often one caller may fail: MOST times within WINDOW_S, then it has to wait. Pure: the time is an argument."""

from __future__ import annotations

from collections import OrderedDict, deque

MOST = 10
WINDOW_S = 300.0
CALLERS = 10_000
"""Whose failures are remembered; the one that failed the longest ago is forgotten first."""


class Attempts:
    """The failures of all callers. Not thread-safe."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, caller: str, now: float) -> float:
        """Seconds until this caller may try again; 0: now."""
        failures = self._failures.get(caller)
        if failures is None or len(failures) < MOST:
            return 0.0
        return max(0.0, failures[0] + WINDOW_S - now)

    def failed(self, caller: str, now: float) -> None:
        """This caller failed."""
        failures = self._failures.setdefault(caller, deque(maxlen=MOST))
        failures.append(now)
        self._failures.move_to_end(caller)
        while len(self._failures) > CALLERS:
            self._failures.popitem(last=False)
