"""The earliest time that it can be now: a host without a clock that keeps time must not take old metadata for fresh.

The floor is the latest of the time of this release and the times of what was signed and verified. Who keeps it stores
it, and never lowers it.
"""

from __future__ import annotations

from datetime import datetime, timezone

from registry.trust.names import SIGNED_AT

RELEASED = datetime(2026, 11, 28, tzinfo=timezone.utc)
"""Before it this program did not exist. Raised with each release."""


def time_floor(*known: datetime | None) -> datetime:
    """The latest of the given times and of the release. All are aware."""
    return max([RELEASED, *(each for each in known if each is not None)])


def known_time(clock: datetime, floor: datetime) -> datetime | None:
    """The time now; None: the clock is below the floor and so is not known. Then nothing can be said to be fresh."""
    return clock if clock >= floor else None


def signed_at(timestamp_fields: dict[str, object]) -> datetime | None:
    """When verified `timestamp` metadata was signed, of its fields that TUF does not know; None: it does not say."""
    said = timestamp_fields.get(SIGNED_AT)
    if not isinstance(said, str):
        return None
    try:
        at = datetime.fromisoformat(said.replace("Z", "+00:00"))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
