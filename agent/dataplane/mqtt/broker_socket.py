"""The broker's socket in the data thread's selector: what it waits for, and what it has not read yet.

paho opens and closes the socket; the selector is told of both before the number of a closed one can come back.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client

from agent.dataplane.mqtt.link import Link

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class BrokerSocket:
    """Only the data thread is in here."""

    def __init__(self, selector: selectors.BaseSelector, client: Client, link: Link) -> None:
        self._selector = selector
        self._client = client
        self._link = link
        self._registered: SocketLike | None = None
        self._interest = 0
        self.more = False
        """The last read left something that has arrived: the next turn must not wait."""
        client.on_socket_close = self._closed

    def read_rest(self) -> None:
        """What the last read left."""
        if self.more:
            self.more = self._link.readable()

    def flush(self) -> None:
        """Sends everything, and asks the selector for what the socket needs next."""
        left = self._link.flush()
        sock = self._client.socket()
        if sock is not self._registered:
            self._closed()
            if sock is not None:
                self._selector.register(sock, _READ, self._ready)
                self._registered, self._interest = sock, _READ
        if sock is None:
            return
        interest = (0 if self._link.congested() else _READ) | (_WRITE if left else 0)
        if interest != self._interest:
            self._interest = interest
            self._selector.modify(sock, interest or _WRITE, self._ready)

    def _ready(self, events: int) -> None:
        if events & _READ:
            self.more = self._link.readable()

    def _closed(self, *_: Any) -> None:
        """paho is about to close its socket."""
        registered, self._registered = self._registered, None
        if registered is not None:
            self.more = False
            self._selector.unregister(registered)
