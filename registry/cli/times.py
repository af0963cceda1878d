"""Times and spans that a person writes: `2026-11-28 01:40`, `24h`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from registry.client.errors import UsageFault

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EXAMPLES = "2026-11-28 01:40 (UTC), 2026-11-28T01:40+01:00, or so long ago: 90m, 24h, 7d"


def moment(text: str, now: datetime) -> datetime:
    """A time, or so long before now. Raises UsageFault."""
    try:
        span = _span(text)
        if span is not None:
            return now - span
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError) as error:
        raise UsageFault(f"{text!r} is no time", hint=EXAMPLES) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def span_of(text: str) -> timedelta:
    """A span of time. Raises UsageFault."""
    found = _span(text)
    if found is None or not found:
        raise UsageFault(f"{text!r} is no span of time", hint="90m, 12h, 90d")
    return found


def _span(text: str) -> timedelta | None:
    number, unit = text[:-1], text[-1:]
    fits = number.isdecimal() and number.isascii() and len(number) < 7 and unit in _UNITS
    return timedelta(seconds=int(number) * _UNITS[unit]) if fits else None
