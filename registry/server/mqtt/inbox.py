"""Messages between paho's thread and the writer: bounded, in order, with how each is to be acknowledged."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from registry.core.intake import DeviceMessage


@dataclass(frozen=True)
class Received:
    """A message that was checked. `intake` None: it was poison, it is only to be acknowledged, in its turn."""

    intake: DeviceMessage | None
    qos: int
    mid: int
    connection: int


class Inbox:
    """Holds at most `limit` messages; those of QoS 0 fill only what `reserve` leaves, so that they never push out
    messages that their senders rely on. Those of QoS 1 wait for room, up to `patience_s` each: whoever reads from the
    broker stops reading meanwhile, and the broker keeps the rest. The broker should never send so many; Mosquitto
    2.0.11 forgets the Receive Maximum once messages have queued up for a client."""

    def __init__(self, limit: int, reserve: int, patience_s: float = 0.0) -> None:
        self._limit = limit
        self._reserve = reserve
        self._patience_s = patience_s
        self._closed = False
        self._messages: deque[Received] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Received) -> bool:
        """False: there is no room; the message is not taken, and not acknowledged either."""
        most = self._limit - (self._reserve if message.qos == 0 else 0)
        patience = self._patience_s if message.qos else 0.0
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or len(self._messages) < most, patience):
                return False
            if self._closed:
                return False
            self._messages.append(message)
            self._changed.notify_all()
            return True

    def take(self, most: int, gather_s: float, wait_s: float) -> list[Received]:
        """Up to `most` messages: what came within `gather_s` seconds of the first; empty after `wait_s` without one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages, wait_s):
                return []
            deadline = time.monotonic() + gather_s
            while len(self._messages) < most and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            taken = [self._messages.popleft() for _ in range(min(most, len(self._messages)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Nothing is taken any more, and nobody waits for room."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
