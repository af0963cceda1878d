"""The MQTT connections of many simulated devices, each a client of its own, in one selector.

Every device has its own session, will and subscription, as a real one has; what is shared is the thread.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from registry.contracts.topics import Topics

if TYPE_CHECKING:
    from scripts.simulator.device import SimulatedDevice

MAX_WAITING = 1000
"""Messages of one device that wait for a connection; beyond them the oldest is dropped, and counted."""
RETRY_S = 2.0
KEEPALIVE_S = 60


class MqttLinks:
    """All connections. The world's thread only."""

    def __init__(self, host: str, port: int, topics: Topics, *, username: str | None, password: str | None) -> None:
        self.host, self.port, self.topics = host, port, topics
        self.username, self.password = username, password
        self.selector = selectors.DefaultSelector()
        self.links: list[MqttLink] = []
        self.sent = self.received = self.dropped = 0

    def link(self, name: str, call_later: Callable[[float, Callable[[], None]], None]) -> MqttLink:
        """A device's connection, not yet connected."""
        made = MqttLink(self, name, call_later)
        self.links.append(made)
        return made

    def turn(self, seconds: float) -> None:
        """Moves what can be moved; waits at most `seconds` for the first."""
        if not self.selector.get_map():
            return
        for key, events in self.selector.select(seconds):
            key.data(events)

    def keep_alive(self) -> None:
        """Pings, and notices connections that died silently."""
        for link in self.links:
            link.misc()


class MqttLink:
    """One device's connection."""

    def __init__(self, links: MqttLinks, name: str, call_later: Callable[[float, Callable[[], None]], None]) -> None:
        self.device: SimulatedDevice
        self._links, self._name, self._later = links, name, call_later
        self._client: mqtt.Client | None = None
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[str, bytes, bool]] = deque()
        self._wanted = False
        self._birth = self._death = b""
        self._up = False

    def connect(self, birth: bytes, death: bytes) -> None:
        """As `Link` says."""
        self._birth, self._death, self._wanted = birth, death, True
        self._try()

    def _try(self) -> None:
        if not self._wanted or self._client is not None:
            return
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"sim-{self._name}", protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )  # fmt: skip
        client.max_inflight_messages_set(100)
        if self._links.username is not None:
            client.username_pw_set(self._links.username, self._links.password)
        topics = self._links.topics
        client.will_set(topics.device(self._name, "presence"), self._death, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._on_up()
        client.on_message = self._on_message
        client.on_disconnect = lambda *_: self._on_down()
        client.on_socket_open = self._on_open
        client.on_socket_close = self._on_close
        client.on_socket_register_write = lambda *_: self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)
        client.on_socket_unregister_write = lambda *_: self._watch(selectors.EVENT_READ)
        self._client = client
        try:
            client.connect(self._links.host, self._links.port, KEEPALIVE_S)
        except OSError:
            self._client = None
            self._later(RETRY_S, self._try)

    def disconnect(self) -> None:
        """As `Link` says: the socket goes, the broker publishes the will."""
        self._wanted = False
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the broker may have been faster
                self._socket.shutdown(socket.SHUT_RDWR)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """As `Link` says."""
        if self._up and self._client is not None:
            self._links.sent += 1
            self._client.publish(topic, payload, qos=1, retain=retain)
            return
        if retain:  # Only the newest of each retained topic matters.
            self._waiting = deque(item for item in self._waiting if item[0] != topic)
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._links.dropped += 1
        self._waiting.append((topic, payload, retain))

    def misc(self) -> None:
        """Periodic."""
        if self._client is not None:
            self._client.loop_misc()

    def _on_connect(self, client: mqtt.Client, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if not reason.is_failure:
            client.subscribe(self._links.topics.device(self._name, "desired"), qos=1)

    def _on_up(self) -> None:
        self._up = True
        self.publish(self._links.topics.device(self._name, "presence"), self._birth, retain=True)
        while self._waiting:
            topic, payload, retain = self._waiting.popleft()
            self.publish(topic, payload, retain=retain)
        self.device.connected()

    def _on_down(self) -> None:
        self._client, was_up, self._up = None, self._up, False
        if was_up:
            self.device.disconnected()
        if self._wanted:
            self._later(RETRY_S, self._try)

    def _on_message(self, _client: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        self._links.received += 1
        self.device.message(message.topic, bytes(message.payload))

    def _on_open(self, _client: Any, _u: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._links.selector.register(sock, selectors.EVENT_READ, self._ready)

    def _on_close(self, _client: Any, _u: Any, sock: Any) -> None:
        self._socket = None
        self._links.selector.unregister(sock)

    def _watch(self, events: int) -> None:
        if self._socket is not None:
            self._links.selector.modify(self._socket, events, self._ready)

    def _ready(self, events: int) -> None:
        client = self._client
        if client is not None and events & selectors.EVENT_READ:
            client.loop_read(100)
        if self._client is client and client is not None and events & selectors.EVENT_WRITE:
            client.loop_write()
