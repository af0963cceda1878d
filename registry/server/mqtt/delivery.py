"""Does the broker carry a message of this registry back to it? One is published where devices publish, and has to come.

Asked by any thread, published by the bridge's publisher, seen by paho's thread. One test at a time; the topic is of a
device that no registry has, so that what comes after the deadline is dropped like any message of an unknown device.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from registry.contracts.topics import Topics
from registry.server.mqtt.session import PendingPublish

KIND = "events"
PREFIX = "registry-probe-"


class DeliveryTest:
    """Thread-safe."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._one = threading.Lock()
        self._changed = threading.Condition()
        self._topic = ""
        self._pending = False
        self._refused = False
        self._came = False

    def run(self, wake: Callable[[], None], timeout_s: float) -> float | str:
        """Seconds that it took; or why it did not come. `wake` has the publisher look."""
        with self._one:
            began = time.monotonic()
            with self._changed:
                self._topic = self._topics.device(PREFIX + secrets.token_hex(8), KIND)
                self._pending, self._refused, self._came = True, False, False
            wake()
            with self._changed:
                self._changed.wait_for(lambda: self._came or self._refused, timeout_s)
                pending, refused, came = self._pending, self._refused, self._came
                self._pending, self._topic = False, ""
            if came:
                return time.monotonic() - began
            if refused:
                return "the broker did not take a message of this registry"
            if pending:
                return f"the message was not sent within {timeout_s:g} s"
            return f"the broker took a message, and did not bring it back within {timeout_s:g} s"

    def take(self) -> PendingPublish | None:
        """What the publisher is to publish now."""
        with self._changed:
            if not self._pending:
                return None
            self._pending = False
            return PendingPublish(self._topic, b"{}", retain=False)

    def refuse(self) -> None:
        """The broker did not take it."""
        with self._changed:
            self._refused = True
            self._changed.notify_all()

    def is_it(self, topic: str) -> bool:
        """Is a message on this topic the one that is waited for? Then it has come."""
        if not self._topic or topic != self._topic:
            return False
        with self._changed:
            self._came = True
            self._changed.notify_all()
        return True
