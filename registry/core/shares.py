"""What one caller may have of what all have together, so that one at full speed leaves the others their part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from registry.contracts.enums import StrEnum


def part_of(total: int, share: float) -> int:
    """The part of one caller, at least 1."""
    return max(1, int(total * share))


class Lack(StrEnum):
    """Why something was not given."""

    OWN = "own"
    """The caller has all of its part."""
    ALL = "all"
    """All callers together have everything."""


MAX_CALLERS = 1 << 17
"""Callers whose spending is remembered; where more come, all are forgotten."""


class Holdings:
    """How much of a bounded amount each caller holds. For one thread.

    Args:
        total: Of all callers together.
        each: The most that one caller may hold.
    """

    def __init__(self, total: int, each: int) -> None:
        self.total, self.each = total, min(each, total)
        self.held: Counter[Hashable] = Counter()
        self.all = 0

    def take(self, caller: Hashable, amount: int = 1) -> Lack | None:
        """Take so much more; where that is too much nothing is taken, and why is said."""
        if self.held[caller] + amount > self.each:
            lack = Lack.OWN
        elif self.all + amount > self.total:
            lack = Lack.ALL
        else:
            self.held[caller] += amount
            self.all += amount
            return None
        if not self.held[caller]:
            del self.held[caller]
        return lack

    def give(self, caller: Hashable, amount: int = 1) -> None:
        """Give back what was taken."""
        self.held[caller] -= amount
        self.all -= amount
        if self.held[caller] <= 0:
            del self.held[caller]

    def most(self) -> tuple[Hashable, int] | None:
        """Who holds the most, and how much; None: nobody holds anything."""
        found = self.held.most_common(1)
        return found[0] if found else None


class Budgets:
    """How much each caller may spend: `burst` at once, and `rate` a second in the long run. For one thread.

    Whoever has not spent for as long as a whole burst takes is forgotten: memory is for those who spend.
    """

    def __init__(self, rate: float, burst: float, most: int = MAX_CALLERS) -> None:
        self._rate, self.burst, self._most = rate, burst, most
        self._spent: dict[Hashable, tuple[float, float]] = {}
        """How much of the burst was used, and when that was so."""
        self._swept = float("-inf")

    def spend(self, caller: Hashable, amount: float, now: float) -> float:
        """Spend it; 0. Where there is not enough nothing is spent, and the seconds until there is are the answer.

        More than a whole burst is given to whoever has spent nothing, else nobody could ever have it.
        """
        self._sweep(now)
        used = self.used(caller, now)
        if used + amount > self.burst and used > 0:
            return max((used + min(amount, self.burst) - self.burst) / self._rate, 0.001)
        self._spent[caller] = (used + amount, now)
        return 0.0

    def used(self, caller: Hashable, now: float) -> float:
        """How much of the burst is used now."""
        used, then = self._spent.get(caller, (0.0, now))
        return max(0.0, used - (now - then) * self._rate)

    def _sweep(self, now: float) -> None:
        if now - self._swept < self.burst / self._rate and len(self._spent) <= self._most:
            return
        if len(self._spent) > self._most:
            self._spent.clear()
        self._swept = now
        self._spent = {caller: each for caller, each in self._spent.items() if self.used(caller, now) > 0}
