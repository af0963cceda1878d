"""The connection as the loop drives it, and its socket in the data thread's selector.

Two links read and write: `fast` reads the socket itself, `public` leaves that to paho. Both pass requests to one
receiver and take replies from one `Outbound`. paho opens and closes the socket; the selector is told of both before the
number of a closed one can come back.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from paho.mqtt.client import Client

from ..packets import Buffer
from .intake import Receiver

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

MAX_READS = 16
"""Reads per turn, so that a broker that never pauses cannot keep the loop from dispatching."""
LAST_MID = 65535
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Transport(Protocol):
    """Hands messages to the connection."""

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """At QoS 0. `topic` has its u16 length; `properties` are raw MQTT 5 properties, left out in 3.1.1."""

    def publish_acknowledged(
        self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], *, retain: bool = False
    ) -> int:
        """At QoS 1; answers the packet identifier that the PUBACK will have."""

    def acknowledge(self, mid: int) -> None:
        """Sends the PUBACK of a message that came."""


class Link(Transport):
    """One connection's reading and writing, as the loop drives it. What a link does not need does nothing."""

    def serve(self, receiver: Receiver, puback: Callable[[int, int], bool], taken: Collection[int]) -> None:
        """Who takes what comes; once, before anything does.

        Args:
            receiver: Takes the requests.
            puback: Takes the acknowledgements of what was published; it answers False for what is paho's.
            taken: The packet identifiers that wait for one; a publication takes another.
        """

    def opened(self) -> None:
        """The client has a new connection; CONNECT is on its way."""

    def closed(self) -> None:
        """The connection has ended."""

    def subscribing(self, mid: int) -> None:
        """paho uses this packet identifier on the current connection."""

    def readable(self) -> bool:
        """Reads what has come. True: there may be more although the socket does not say so (TLS)."""
        raise NotImplementedError

    def flush(self) -> bool:
        """Writes what is queued. True: something is left, ask for writability."""
        raise NotImplementedError

    def congested(self) -> bool:
        """True: do not read now."""
        return False

    def alive(self) -> None:
        """Called a few times a keepalive: bytes of a long payload prove that the broker lives."""

    def discard_body(self) -> None:
        """Nobody wants the rest of the long request that is coming in."""


class SocketSelector(Protocol):
    """Who watches the socket: a selector, or an event loop in the form of one."""

    def register(self, sock: Any, events: int, ready: Callable[[int], None], /) -> Any:
        """Calls `ready` with the events of `selectors` that happen."""

    def modify(self, sock: Any, events: int, ready: Callable[[int], None], /) -> Any:
        """From now on for these events."""

    def unregister(self, sock: Any, /) -> Any:
        """Not any more."""


class BrokerSocket:
    """Only the thread that owns the connection is in here."""

    def __init__(self, selector: SocketSelector, client: Client, link: Link) -> None:
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
