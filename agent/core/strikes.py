"""Which reply topics seem to end the broker's connections, and for how long nothing is sent to them. Pure.

A broker may end the connection because of a reply: a response topic that breaks a rule of its own. The reply would be
sent again on the next connection, and so for ever, and every other client of the device would suffer from it. But a
network that is cut while a reply is on its way looks the same from here. So a suspicion costs a topic only a while,
which grows each time it is confirmed, and is forgotten as soon as the broker takes one message for it.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_STRIKES = 5
"""Connections that may end in a row with a reply to the same topic in front."""
FIRST_MUTE_S, LONGEST_MUTE_S = 5.0, 3600.0
LOST_AFTER = 16
"""Strikes in a row after which what is meant for the topic is dropped, not kept: that took hours."""
MAX_TOPICS = 1024


@dataclass
class _Suspect:
    strikes: int = 0
    muted_until: float = 0.0


class Strikes:
    """By topic; times are monotonic seconds."""

    def __init__(self) -> None:
        self._suspects: dict[bytes, _Suspect] = {}

    def __bool__(self) -> bool:
        """Is anything suspected?"""
        return bool(self._suspects)

    def strike(self, topic: bytes, now: float) -> float:
        """A connection has ended with a reply to this topic in front; for how long it is muted now, 0: not."""
        if topic not in self._suspects and len(self._suspects) >= MAX_TOPICS:
            self._suspects.pop(next(iter(self._suspects)))
        suspect = self._suspects.setdefault(topic, _Suspect())
        suspect.strikes += 1
        over = suspect.strikes - MAX_STRIKES
        mute = 0.0 if over < 0 else min(FIRST_MUTE_S * 2.0 ** min(over, 32), LONGEST_MUTE_S)
        suspect.muted_until = now + mute
        return mute

    def clear(self, topic: bytes) -> None:
        """The broker has taken a message for it."""
        self._suspects.pop(topic, None)

    def muted(self, topic: bytes, now: float) -> bool:
        """Nothing is sent to it now."""
        suspect = self._suspects.get(topic)
        return suspect is not None and now < suspect.muted_until

    def hopeless(self, topic: bytes) -> bool:
        """What is meant for it while it is muted is not worth keeping."""
        suspect = self._suspects.get(topic)
        return suspect is not None and suspect.strikes >= LOST_AFTER
