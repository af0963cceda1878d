"""How long to wait before the next try, and when to stop trying. Pure: chance comes in as an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that grow from `first_s` to `cap_s` seconds, each `factor` times the one before."""

    first_s: float
    cap_s: float
    limit: int | None = None
    """Tries in all; None: there is no limit."""
    factor: float = 2.0
    """1 to 10."""

    def delay(self, attempt: int, chance: float = 1.0, cap_s: float | None = None) -> float:
        """Seconds to wait after the try number `attempt` (1, 2, ...) failed.

        Args:
            attempt: How many tries in a row have failed.
            chance: 0 to 1, at random where many wait for the same: it spreads them over the upper half of the pause.
            cap_s: Instead of the usual longest pause.
        """
        grown = self.first_s * self.factor ** min(attempt - 1, 64)
        return min(grown, self.cap_s if cap_s is None else cap_s) * (0.5 + 0.5 * chance)

    def exhausted(self, attempt: int) -> bool:
        """Was the try number `attempt` the last one?"""
        return self.limit is not None and attempt >= self.limit
