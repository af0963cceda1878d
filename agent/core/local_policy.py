"""The local policy: when a deployment may download, and when it may switch. Pure.

The registry comes first: a policy that is `urgent` is never held up. Nothing here holds for ever: a window
opens again, and leases and a metered network hold a deployment no longer than `max_defer_s` after it was offered.

A maintenance window is written `mon-fri 22:00-05:00`, `sat,sun 00:00-24:00` or `22:00-05:00` (every day), in the host's
own time zone. The days name the day on which it begins; one that ends before it begins ends on the next day. Where
summer time begins or ends, a clock time that exists twice opens the first time and closes the second, and one that does
not exist opens after the clocks have jumped and closes before: a window is never open at a moment whose clock time lies
outside it.

How long a lease or a deferred deployment lasts is counted on the monotonic clock while the agent runs. A date that was
written down is all that is left of a duration after a restart; while the agent runs, a wall clock that is set forward
must not end what waits, nor one that is set back stretch it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone, tzinfo

from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy

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


TOLERANCE = timedelta(seconds=2)
"""Clocks that differ by less agree: what was told stays, so that nothing is written down again for it."""


class SteadySince:
    """When one thing began, as the wall clock of now would have shown it then."""

    def __init__(self) -> None:
        self._stamp: datetime | None = None
        self._began = 0.0
        self._told: datetime | None = None

    def at(self, stamp: datetime, now: datetime, monotonic: float) -> datetime:
        """`stamp`: when it began, as it was written down; another stamp is another thing."""
        if stamp != self._stamp:
            self._stamp, self._told = stamp, stamp
            self._began = monotonic - max((now - stamp).total_seconds(), 0.0)
        began = now - timedelta(seconds=monotonic - self._began)
        if self._told is None or abs(began - self._told) > TOLERANCE:
            self._told = began
        return self._told


class SteadyUntil:
    """When one thing ends, as the wall clock of now will show it then."""

    def __init__(self, until: datetime, now: datetime, monotonic: float, longest: timedelta) -> None:
        """`longest`: nothing lasts longer, whatever its date says."""
        self.until = until
        self._ends = monotonic + min(until - now, longest).total_seconds()

    def at(self, now: datetime, monotonic: float) -> datetime:
        """The date, corrected for how the wall clock was set since."""
        ends = now + timedelta(seconds=self._ends - monotonic)
        return self.until if abs(ends - self.until) <= TOLERANCE else ends


@dataclass(frozen=True)
class Lease:
    """A local program's request that nothing be switched for a while: it has a deadline, so it cannot leak."""

    id: str
    until: datetime
    reason: str
    model: str | None = None
    """None: every model."""


@dataclass(frozen=True)
class HostPolicy:
    """As the settings say it."""

    windows: tuple[Window, ...] = ()
    """Empty: always."""
    zone: tzinfo | None = None
    """The host's, for the windows. None: UTC."""
    max_defer: timedelta = timedelta(days=1)
    """After being offered for so long, a deployment is held up by leases and a metered network no more."""


@dataclass(frozen=True)
class HostNow:
    """What holds at this moment."""

    now: datetime
    offered_at: datetime
    """When this device first saw the deployment."""
    metered: bool = False
    """The network costs by the byte."""
    leases: Sequence[Lease] = ()


@dataclass(frozen=True)
class Wait:
    """Not now: why, and when it will be looked at again at the latest."""

    code: DeploymentCode
    message: str
    until: datetime


def may_download(
    model: str, policy: DeploymentPolicy, host: HostPolicy, at: HostNow, missing_bytes: int
) -> Wait | None:
    """None: go on. Nothing that is on this disk already is held up by a metered network."""
    if policy.urgent or not at.metered or missing_bytes == 0:
        return None
    deadline = at.offered_at + host.max_defer
    if at.now >= deadline:
        return None
    text = f"{missing_bytes} bytes of {model} wait for a network that does not cost by the byte"
    return Wait(DeploymentCode.METERED, text, deadline)


def may_switch(model: str, policy: DeploymentPolicy, host: HostPolicy, at: HostNow) -> Wait | None:
    """None: go on. Asked just before the switch, after everything was downloaded and verified."""
    if policy.urgent:
        return None
    lease = _holding(model, host, at)
    if lease is not None:
        until = min(lease.until, at.offered_at + host.max_defer)
        return Wait(DeploymentCode.LEASE, f"lease {lease.id}: {lease.reason}", until)
    zone = host.zone or at.now.tzinfo
    if zone is None or open_now(host.windows, at.now, zone):
        return None
    opens = next_opening(host.windows, at.now, zone)
    if opens is None:
        return None
    return Wait(DeploymentCode.MAINTENANCE_WINDOW, f"the next maintenance window opens at {opens.isoformat()}", opens)


def _holding(model: str, host: HostPolicy, at: HostNow) -> Lease | None:
    """The lease that lasts longest, of those that hold this model now."""
    if at.now >= at.offered_at + host.max_defer:
        return None
    living = [lease for lease in at.leases if lease.model in (None, model) and lease.until > at.now]
    return max(living, key=lambda lease: (lease.until, lease.id), default=None)
