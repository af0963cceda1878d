"""How the data path ends: no new requests, answers to those in flight, "offline", and then what is on its way to the
broker is waited for. All of it by a deadline."""

from __future__ import annotations

from collections.abc import Callable

from agent.dataplane.admission import Admission
from agent.dataplane.mqtt.connection import Connection
from agent.dataplane.mqtt.outbound import Outbound
from agent.dataplane.router import Router


class Shutdown:
    """Only the data thread is in here."""

    def __init__(
        self,
        *,
        admission: Admission,
        router: Router,
        connection: Connection,
        outbound: Outbound,
        flush: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._router = router
        self._connection = connection
        self._outbound = outbound
        self._flush = flush
        self._clock = clock
        self._stop_at: float | None = None
        self._offline_said = False

    def begin(self, deadline_s: float) -> None:
        """Takes no new requests from now on. Idempotent: the first deadline holds."""
        if self._stop_at is None:
            self._stop_at = self._clock() + deadline_s
            self._admission.stopping = True

    def over(self) -> bool:
        """True once it has begun and nothing is left to wait for."""
        if self._stop_at is None:
            return False
        if self._clock() >= self._stop_at:
            return True
        if any(each.in_flight() for slot in self._router.live() for each in slot.servings()):
            return False
        if not self._offline_said:
            self._offline_said = True
            self._connection.say_offline()
            self._flush()
        return not self._connection.open or not (self._outbound.unacknowledged or self._outbound.waiting())
