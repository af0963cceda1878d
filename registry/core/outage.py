"""One thing that may fail for a while and work again: what is said of it once, and what is counted."""

from __future__ import annotations

REPEAT_S = 600.0
"""While it goes on failing, it is said again so often."""


class Outage:
    """Counts failures of `what` and says when a line for the log is due. Not thread-safe.

    Times are seconds of the monotonic clock.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._since: float | None = None
        self._said = 0.0
        self._failures = 0
        self._kind = ""

    def failed(self, kind: str, why: str, now: float) -> str | None:
        """A line when it begins, when the kind of failure changes, and every REPEAT_S."""
        self._failures += 1
        changed, self._kind = kind != self._kind, kind
        if self._since is None:
            self._since, self._said, self._failures = now, now, 1
            return f"{self._what}: {why}; trying again"
        if not changed and now - self._said < REPEAT_S:
            return None
        self._said = now
        return f"{self._what}: {why}; {self._failures} failures in {now - self._since:.0f} s"

    def worked(self, now: float) -> str | None:
        """A line when it had failed before."""
        if self._since is None:
            return None
        since, self._since = self._since, None
        return f"{self._what}: works again after {now - since:.1f} s and {self._failures} failures"
