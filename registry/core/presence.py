"""Is a device there? One rule for lists, plans, rollouts and metrics.

Presence is a state with an expiry. Each sign of life (any message of the device itself, over MQTT or HTTP) makes it
online until its patience is over; the end of its session at the broker, told by its will, makes it offline at once,
until the next sign of life. What the broker retained says something only where it is news: a session, or the end of
one, that the registry had not heard of. So a device that died together with the broker, and whose retained
`online: true` nobody will ever replace, is offline when its patience is over, however often it is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DEFAULT_EXPIRY_S = 600.0
"""A device that says nothing of how often it speaks is offline after so long without a sign of life."""
MISSED = 2
"""And one that does, at the earliest when it has missed so many."""
MAX_PATIENCE_S = 7 * 86400.0
AFTERWARDS_S = 60.0
"""The registry notes at least so often that it listens; see `as_of`."""
RIVAL_WINDOW_S = 600.0
MIN_RETURNS = 3
"""An earlier session that speaks again so often, each time within RIVAL_WINDOW_S of the last, is another agent of the
same name. One or two may be messages of before a restart that came late by another way."""
MAX_SESSIONS = 8


def patience_s(heard_every_s: float | None, expiry_s: float = DEFAULT_EXPIRY_S) -> float:
    """How long a device may be silent.

    Args:
        heard_every_s: How often it says that it speaks, in seconds; None: it does not say.
        expiry_s: The registry's setting, the least patience.
    """
    return min(max(expiry_s, MISSED * (heard_every_s or 0.0)), MAX_PATIENCE_S)


def is_online(heard_until: datetime | None, gone_at: datetime | None, now: datetime) -> bool:
    """The rule. `registry.services.fleet.presence.is_online` is the same as a condition on rows.

    Args:
        heard_until: The end of its patience, counted from its last sign of life; None: it never gave one.
        gone_at: When its session ended, if no sign of life came since.
        now: What `as_of` says.
    """
    return gone_at is None and heard_until is not None and heard_until > now


def as_of(listened_at: datetime | None, now: datetime) -> datetime:
    """The time for which presence is judged: silence counts only while the registry listened.

    Args:
        listened_at: When it noted last that it did; None: never.
    """
    return now if listened_at is None else min(now, listened_at + timedelta(seconds=AFTERWARDS_S))


def unheard(listened_at: datetime | None, now: datetime) -> timedelta:
    """How long the registry did not listen before `now`, by which every patience is extended; zero when it did."""
    gap = now - listened_at if listened_at is not None else timedelta()
    return gap if gap > timedelta(seconds=AFTERWARDS_S) else timedelta()


@dataclass(frozen=True)
class Speakers:
    """Which sessions of a device spoke, the newest last; and how often an earlier one came back."""

    sessions: tuple[str, ...] = ()
    returns: int = 0
    returned_at: datetime | None = None

    def heard(self, session: str, now: datetime) -> Speakers:
        """After a live message of this session. The same object when nothing changed."""
        if self.sessions and self.sessions[-1] == session:
            return self
        sessions = (*(known for known in self.sessions if known != session), session)[-MAX_SESSIONS:]
        if session not in self.sessions:
            return Speakers(sessions, self.returns, self.returned_at)
        recent = self.returned_at is not None and now - self.returned_at <= timedelta(seconds=RIVAL_WINDOW_S)
        return Speakers(sessions, self.returns + 1 if recent else 1, now)

    def rivals(self, now: datetime) -> tuple[str, ...]:
        """The sessions of agents that run at the same time under one name; empty where there is one agent."""
        if self.returned_at is None or self.returns < MIN_RETURNS:
            return ()
        recent = now - self.returned_at <= timedelta(seconds=RIVAL_WINDOW_S)
        return self.sessions[-2:] if recent else ()


def ended_before(sessions: Sequence[str], session: str) -> bool:
    """Is this a session that another one has followed? What the broker retained of it is out of date."""
    return session in sessions[:-1]
