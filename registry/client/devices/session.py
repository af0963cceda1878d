"""The MQTT session of a client: paho with its external loop. Connects, subscribes, says what happened.

The session outlives a lost connection by a minute (MQTT 5), so that answers which come meanwhile are kept. `connect`
blocks and runs in a thread of its own while nobody else touches the client. TCP_NODELAY is set: without it a QoS 1
request takes 44 ms.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ...certificates import RenewedContext
from ...contracts.broker import BrokerLimits, limits_of
from .settings import ClientSettings

SESSION_SECONDS = 60
RECEIVE_MAXIMUM = 65535
_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told, on the thread that drives the client."""

    def session_open(self, session_present: bool, limits: BrokerLimits) -> None:
        """CONNACK with success."""

    def session_refused(self, reason: str) -> None:
        """CONNACK with a failure; the broker closes."""

    def session_ended(self, reason: str) -> None:
        """The connection has ended."""

    def session_subscribed(self, mid: int, failures: list[str]) -> None:
        """SUBACK; `failures` says what was refused."""

    def session_message(self, message: mqtt.MQTTMessage) -> None:
        """A message that paho has read; of QoS 1 it is to be acknowledged."""

    def session_published(self, mid: int, reason: int) -> None:
        """A PUBACK that paho has read."""


class ClientSession:
    """One paho client for the life of a client; the connection comes and goes."""

    def __init__(self, settings: ClientSettings, listener: Listener, client_class: type[mqtt.Client]) -> None:
        """Raises CertificateError for TLS files that cannot be used."""
        self._settings = settings
        self._listener = listener
        self._began = False
        websocket = settings.broker.websocket_path
        client = self.client = client_class(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=mqtt.MQTTv5 if settings.v5 else mqtt.MQTTv311,
            clean_session=None if settings.v5 else True,
            transport="websockets" if websocket else "tcp",
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if websocket:
            client.ws_set_options(path=websocket)
        client.suppress_exceptions = True
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(0)  # the owner keeps to the broker's Receive Maximum
        if settings.tls is not None:
            client.tls_set_context(RenewedContext(settings.tls))
        if settings.broker.username is not None:
            client.username_pw_set(settings.broker.username, settings.broker.password)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda _c, _u, _flags, reason, _p: self._tell(listener.session_ended, str(reason))
        client.on_subscribe = self._on_subscribe
        client.on_message = lambda _c, _u, message: self._tell(listener.session_message, message)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._tell(
            listener.session_published, mid, int(reason.value)
        )
        client.on_socket_open = _without_delay

    def connect(self) -> None:
        """Connects and sends CONNECT; the answer comes to the listener. Raises OSError."""
        if not self._began:
            broker, keepalive = self._settings.broker, self._settings.keepalive_s
            if self._settings.v5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = SESSION_SECONDS
                properties.ReceiveMaximum = RECEIVE_MAXIMUM
                self.client.connect_async(
                    broker.host, broker.port, keepalive, clean_start=mqtt.MQTT_CLEAN_START_FIRST_ONLY,
                    properties=properties,
                )  # fmt: skip
            else:
                self.client.connect_async(broker.host, broker.port, keepalive)
            self._began = True
        self.client.reconnect()

    def subscribe(self, topic: str, qos: int) -> int:
        """The packet identifier that the SUBACK will have."""
        return int(self.client.subscribe(topic, qos)[1] or 0)

    def disconnect(self) -> None:
        """For good: the broker keeps nothing of the session."""
        properties = None
        if self._settings.v5:
            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0
        self.client.disconnect(properties=properties)

    def release(self) -> None:
        """Takes the callbacks out, so that nothing is in a cycle and the client's sockets close at once."""
        client = self.client
        client.on_socket_open = client.on_connect = client.on_subscribe = client.on_socket_close = None
        client.on_message = client.on_publish = client.on_disconnect = None

    def forget_unacknowledged(self) -> None:
        """What paho has published and the broker not acknowledged: the owner keeps it itself."""
        drop: Any = getattr(self.client, "drop_out_messages", None)
        if drop is not None:
            drop()

    def _on_connect(self, _client: mqtt.Client, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._tell(self._listener.session_refused, str(reason))
        else:
            self._tell(self._listener.session_open, bool(flags.session_present), limits_of(properties))

    def _on_subscribe(self, _client: mqtt.Client, _userdata: Any, mid: int, reasons: Any, _properties: Any) -> None:
        failures = [str(reason) for reason in reasons if reason.is_failure]
        self._tell(self._listener.session_subscribed, mid, failures)

    @staticmethod
    def _tell(listener: Callable[..., None], *arguments: Any) -> None:
        """A fault in the owner's handler must not unwind paho in the middle of a packet."""
        try:
            listener(*arguments)
        except Exception:  # noqa: BLE001 - see above; logged with its traceback
            _log.exception("handling an event of the MQTT session failed")


def _without_delay(_client: mqtt.Client, _userdata: Any, sock: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):  # a websocket wrapper has no options
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
