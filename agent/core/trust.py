"""What follows from signed metadata: is what this device has fresh, when is it asked for again, what is told of
refusals. Pure.

Nothing here verifies anything: see `registry.trust` and `agent.adapters.trust`. What is not known to be fresh stops new
installs, never what serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from registry.contracts.backoff import Backoff
from registry.contracts.device.messages import Desired

REFRESH_S = 6 * 3600.0
"""The metadata are asked for so often at least; the registry signs them again at half of their shortest life, a day."""
SOONEST_S = 60.0
"""And not more often than this, whatever somebody sends to this device."""
REFRESH_AGAIN = Backoff(first_s=15.0, cap_s=600.0)
"""After an attempt that failed."""
TELL_AGAIN_S = 300.0
"""Refusals of one cause are told as one event in so long; the counts are of all."""


@dataclass(frozen=True)
class TrustStanding:
    """What a device has of signed metadata."""

    floor: datetime
    """It cannot be earlier now."""
    expires: datetime | None = None
    """When the first of the metadata expires. None: there are none yet."""
    image_root: int = 0
    """Version of the root of the image repository."""
    director_root: int = 0
    """Of the director's."""


@dataclass(frozen=True)
class CheckedDocument:
    """A desired document whose signature, device and order are right."""

    document: Desired
    """Read from the bytes that were signed."""
    place: bytes
    """Where it stands in the order of all documents: to be kept, and given with the next one."""
    is_new: bool
    """It is later than the one before; else it says the same, perhaps signed again."""


@dataclass(frozen=True)
class Freshness:
    """Whether what is signed is fresh."""

    why_stale: str = ""
    """Empty: it is."""
    stops: str = ""
    """Why nothing new may be installed. Empty: it may, once what lists it was asked for."""
    since: datetime | None = None
    """When the first of what has to be fresh expired. None: nothing has, or nobody knows."""
    expires: datetime | None = None
    """When the first of it expires."""


def freshness(now: datetime, standing: TrustStanding, document_expires: datetime | None) -> Freshness:
    """Judges by the host's clock, unless that is known to be wrong.

    Args:
        now: The host's clock, UTC.
        standing: The metadata.
        document_expires: Of the signed desired document that is followed. None: none was accepted so far.
    """
    known = {"signed metadata": standing.expires, "signed desired state": document_expires}
    dates = {what: at for what, at in known.items() if at is not None}
    expires = min(dates.values(), default=None)
    if now < standing.floor:
        text = f"this host's clock says {_time(now)}, and it is at least {_time(standing.floor)}: set the clock"
        return Freshness(text, text, None, expires)
    gone = {what: at for what, at in dates.items() if at <= now}
    if not gone:
        missing = "" if standing.expires is not None else "no signed metadata have been had from the registry yet"
        return Freshness(missing, "", None, expires)
    what = min(gone, key=lambda name: gone[name])
    text = f"the {what} expired at {_time(gone[what])}"
    return Freshness(text, text, gone[what], expires)


def refresh_pause_s(now: datetime, standing: TrustStanding, failures: int, chance: float) -> float:
    """Seconds until the metadata are asked for again. `failures`: attempts in a row that failed."""
    if failures:
        return REFRESH_AGAIN.delay(failures, chance)
    left = REFRESH_S if standing.expires is None else (standing.expires - now).total_seconds()
    return max(SOONEST_S, min(REFRESH_S, left / 2)) * (0.75 + chance / 4)


class Refusals:
    """Documents that were refused since the agent started, by cause. One cause is told once in TELL_AGAIN_S, so that a
    flood of them makes no flood of events."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """By cause."""
        return dict(self._counts)

    def add(self, cause: str, monotonic: float) -> int:
        """Counts one. How many of its cause are to be told now; 0: it is not time yet.

        Args:
            cause: One of few.
            monotonic: Seconds.
        """
        self._counts[cause] += 1
        at, before = self._told.get(cause, (None, 0))
        if at is not None and monotonic < at + TELL_AGAIN_S:
            return 0
        self._told[cause] = (monotonic, self._counts[cause])
        return self._counts[cause] - before


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
