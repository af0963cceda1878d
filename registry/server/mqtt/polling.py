"""paho's loop with `poll` instead of `select`, which takes no file whose number is above 1023.

A registry that serves thousands of connections has such files: without this it would never reach the broker again once
it lost it. It overrides `Client._loop` of paho 2; tests/unit/registry/server/test_polling.py fails when paho has it no
more.
"""

from __future__ import annotations

import select
from contextlib import suppress

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

_READABLE = select.POLLIN | select.POLLPRI | select.POLLERR | select.POLLHUP
_WRITABLE = select.POLLOUT | select.POLLERR


class PollingClient(paho.Client):
    """See the module."""

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """One turn, as paho's own: wait, read, write, look after the connection."""
        sock, wakes = self.socket(), self._sockpairR
        if sock is None:
            return paho.MQTT_ERR_NO_CONN
        pending = getattr(sock, "pending", None)
        waits = pending is not None and pending() > 0
        poll = select.poll()
        try:
            poll.register(sock, select.POLLIN | (select.POLLOUT if self.want_write() else 0))
            if wakes is not None:
                poll.register(wakes, select.POLLIN)
            found = dict(poll.poll(0 if waits else timeout * 1000))
            number, waking = sock.fileno(), wakes.fileno() if wakes is not None else -1
        except (OSError, ValueError, TypeError):  # it was closed meanwhile: reading says so, as paho expects
            return self.loop_read() or paho.MQTT_ERR_CONN_LOST
        if waits or found.get(number, 0) & _READABLE:
            error = self.loop_read()
            if error or self.socket() is None:
                return error
        woken = bool(found.get(waking, 0) & _READABLE)
        if woken and wakes is not None:
            with suppress(BlockingIOError):
                wakes.recv(10000)
        if woken or found.get(number, 0) & _WRITABLE:
            error = self.loop_write()
            if error or self.socket() is None:
                return error
        return self.loop_misc()
