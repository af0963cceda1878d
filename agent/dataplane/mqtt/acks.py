"""QoS 1 requests are acknowledged in the order in which they came, each once its reply is on its way.

So the broker delivers the requests of a killed agent again, and nothing is written to disk for them.
Source: MQTT 5.0 section 4.6: PUBACKs are sent in the order of the PUBLISHes (MQTT-4.6.0-2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Ack = list[int]
"""One acknowledgement that is owed: [packet identifier, 1 when it may be sent]."""


class AckQueue:
    """Of one connection at a time."""

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._owed: deque[Ack] = deque()

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, mid: int) -> Ack:
        """A QoS 1 message came."""
        ack = [mid, 0]
        self._owed.append(ack)
        return ack

    def settle(self, ack: Ack) -> None:
        """Its message is dealt with. One of an earlier connection is ignored: the broker sends the message again."""
        ack[1] = 1
        owed = self._owed
        while owed and owed[0][1]:
            self._send(owed.popleft()[0])

    def clear(self) -> None:
        """The connection has ended."""
        self._owed.clear()
