"""Maintenance windows: when a host allows its models to be switched, in its own time zone. Pure.

A window is written `mon-fri 22:00-05:00`, `sat,sun 00:00-24:00` or `22:00-05:00` (every day). The days name the day on
which it begins; one that ends before it begins ends on the next day. Where summer time begins or ends, a clock time
that exists twice opens the first time and closes the second, and one that does not exist opens after the clocks have
jumped and closes before: a window is never open at a moment whose clock time lies outside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MAX_WINDOWS = 32
_MINUTES_A_DAY = 24 * 60
_FORM = re.compile(r"(?:([a-z,-]+)\s+)?(\d{2}):(\d{2})-(\d{2}):(\d{2})")


@dataclass(frozen=True)
class Window:
    """One recurring window."""

    days: frozenset[int]
    """On which it begins; Monday is 0."""
    begin: int
    """Minutes after midnight, 0..1439."""
    end: int
    """Minutes after midnight of the day it began on; above 1440 on the next day. Always after `begin`."""


def parse_window(text: str) -> Window:
    """Raises ValueError, which says how a window is written."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"window {text!r}: write it like `mon-fri 22:00-05:00` or `01:00-04:30`")
    days, *clock = found.groups()
    begin_hour, begin_minute, end_hour, end_minute = (int(part) for part in clock)
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begin >= _MINUTES_A_DAY or end > _MINUTES_A_DAY or begin_minute > 59 or end_minute > 59:
        raise ValueError(f"window {text!r}: times go from 00:00 to 23:59, an end may be 24:00")
    if begin == end:
        raise ValueError(f"window {text!r}: it begins when it ends; the whole day is 00:00-24:00")
    return Window(_days(days, text), begin, end if end > begin else end + _MINUTES_A_DAY)


def _days(text: str | None, window: str) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"window {window!r}: {part!r} is no day; they are {', '.join(DAYS)}, and mon-fri")
        at, to = DAYS.index(first), DAYS.index(last) if dash else DAYS.index(first)
        days.update((at + step) % 7 for step in range((to - at) % 7 + 1))
    return frozenset(days)


def open_now(windows: Sequence[Window], now: datetime, zone: tzinfo) -> bool:
    """Is `now` (aware) inside a window? No windows at all: always."""
    return not windows or any(begin <= now < end for begin, end in _spans(windows, now, zone))


def next_opening(windows: Sequence[Window], now: datetime, zone: tzinfo) -> datetime | None:
    """When the next window begins, UTC; None when one is open or there are none."""
    if open_now(windows, now, zone):
        return None
    return min(begin for begin, _ in _spans(windows, now, zone) if begin > now)


def _spans(windows: Sequence[Window], now: datetime, zone: tzinfo) -> Iterator[tuple[datetime, datetime]]:
    """Begin and end, UTC, of every window from the day before yesterday to the same weekday of next week."""
    today = now.astimezone(zone).date()
    for offset in range(-2, 9):
        day = today + timedelta(days=offset)
        for window in windows:
            if day.weekday() in window.days:
                midnight = datetime.combine(day, time())
                begin = midnight + timedelta(minutes=window.begin)
                end = midnight + timedelta(minutes=window.end)
                yield _utc(begin, zone, fold=0), _utc(end, zone, fold=1)


def _utc(clock: datetime, zone: tzinfo, fold: int) -> datetime:
    return clock.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc)
