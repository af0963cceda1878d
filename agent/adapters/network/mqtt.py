"""The MQTT session: paho with its external loop. Connects, keeps alive, subscribes, says what happened; moves no data.

All methods but `connect` belong to the thread that runs the loop. `connect` blocks (name service, TCP, TLS) and runs
in a thread of its own while nobody else touches the client. Callbacks never raise: paho would lose its loop by it.
MQTT 5 with a session that outlives the connection (clean start off, session expiry), so that the broker keeps QoS 1
requests while the agent is away. TCP_NODELAY is set: without it a QoS 1 round trip takes 44 ms.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.config.sections import MqttSettings
from agent.config.settings import secret_reader
from agent.errors import PermanentError
from registry.certificates import CertificateError, Fingerprint, RenewedContext
from registry.contracts.broker import (
    QOS_NOT_SUPPORTED,
    RETAIN_NOT_SUPPORTED,
    BrokerLimits,
    in_packets,
    limits_of,
)

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 10.0
RECEIVE_MAXIMUM = 4096
"""QoS 1 messages that the broker may leave unacknowledged here."""


@dataclass(frozen=True)
class SessionSettings:
    """How to reach the broker, as whom, and what it says when this device is gone."""

    broker: MqttSettings
    client_id: str
    will_topic: str = ""
    """Retained, QoS 1; empty: no will."""
    will_payload: bytes = b""

    @property
    def v5(self) -> bool:
        """True: MQTT 5."""
        return self.broker.protocol == "5"


class SessionEvents(Protocol):
    """What the session tells its owner, on the thread that drives the client."""

    def connected(self, *, session_present: bool, limits: BrokerLimits) -> None:
        """CONNACK with success, and what the broker states there that it takes."""

    def refused(self, reason: str) -> None:
        """CONNACK with a failure; the broker closes."""

    def disconnected(self, reason: str) -> None:
        """The connection has ended, whoever ended it."""

    def subscribed(self, mid: int, failures: Sequence[str]) -> None:
        """SUBACK; `failures` names what was refused."""

    def message(self, message: mqtt.MQTTMessage) -> None:
        """A PUBLISH that paho has read. QoS 1 and 2 are to be acknowledged by the owner."""

    def published(self, mid: int, reason: int) -> None:
        """PUBACK of a message that paho published."""


class MqttSession:
    """One client for the life of the agent; the connection comes and goes."""

    def __init__(self, settings: SessionSettings, client_class: type[mqtt.Client] = mqtt.Client) -> None:
        self.settings = settings
        self._password = secret_reader(settings.broker.password, settings.broker.password_file)
        self._tls = settings.broker.tls_files()
        self.events: SessionEvents | None = None
        """Set before the first `connect`."""
        self._will_qos, self._will_retain = 1, True
        self.client = self._make_client(client_class)
        self._began = False
        self._connected_with: tuple[str | None, Fingerprint] = (None, None)

    def _make_client(self, client_class: type[mqtt.Client]) -> mqtt.Client:
        settings = self.settings
        client = client_class(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=mqtt.MQTTv5 if settings.v5 else mqtt.MQTTv311,
            clean_session=None if settings.v5 else False,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the owner keeps to the broker's Receive Maximum, paho does not
        if self._tls is not None:
            try:
                client.tls_set_context(RenewedContext(self._tls))
            except CertificateError as error:
                raise PermanentError("bad_config", f"mqtt.{error}") from None
        if settings.will_topic:
            self._set_will(client)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        return client

    def connect(self) -> None:
        """Connects and sends CONNECT; the answer comes through `SessionEvents`. Blocks at most for the time-outs.

        Credentials are taken from their files as they are now.

        Raises:
            OSError: the broker is not there, or TLS failed (ssl.SSLError).
            PermanentError: bad_config, the password's file cannot be read.
        """
        self._connected_with = self._credentials()
        broker = self.settings.broker
        if broker.username is not None:
            self.client.username_pw_set(broker.username, self._connected_with[0])
        if not self._began:
            session: dict[str, Any] = {}
            if self.settings.v5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = broker.session_expiry_s
                properties.ReceiveMaximum = RECEIVE_MAXIMUM
                session = {"clean_start": False, "properties": properties}
            self.client.connect_async(broker.host, broker.port, broker.keepalive_s, **session)
            self._began = True
        self.client.reconnect()

    def has_new_credentials(self) -> bool:
        """Are there others on disk than this connection was made with?"""
        try:
            return self._credentials() != self._connected_with
        except PermanentError:
            return False

    def _credentials(self) -> tuple[str | None, Fingerprint]:
        """Raises PermanentError (bad_config): the password's file cannot be read, and never could."""
        return self._password(), self._tls.fingerprint() if self._tls is not None else None

    def subscribe(self, filters: Sequence[str], limits: BrokerLimits) -> list[int]:
        """Asks for these topics, at QoS 1 where the broker has it, in packets that it takes; answers the packet
        identifiers that their SUBACKs will have."""
        packets = ([(each, limits.qos) for each in packet] for packet in in_packets(filters, limits))
        return [int(self.client.subscribe(packet)[1] or 0) for packet in packets]

    def forget_unacknowledged(self) -> None:
        """Drops what paho has published and the broker not acknowledged: the owner keeps such messages itself."""
        getattr(self.client, "drop_out_messages", lambda: None)()

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._adapt_will(int(reason.value))
            self._tell("refused", str(reason))
            return
        self._tell("connected", session_present=bool(flags.session_present), limits=limits_of(properties))

    def _adapt_will(self, reason: int) -> None:
        """The broker does not take a will like this: the next try is with one that it may take."""
        if reason not in (RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED) or not self.settings.will_topic:
            return
        self._will_retain &= reason != RETAIN_NOT_SUPPORTED
        self._will_qos = 0 if reason == QOS_NOT_SUPPORTED else self._will_qos
        self._set_will(self.client)

    def _set_will(self, client: mqtt.Client) -> None:
        settings = self.settings
        client.will_set(settings.will_topic, settings.will_payload, qos=self._will_qos, retain=self._will_retain)

    def _on_disconnect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._tell("disconnected", str(reason))

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        self._tell("subscribed", mid, [str(reason) for reason in reasons if reason.is_failure])

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._tell("message", message)

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._tell("published", mid, int(reason.value))

    def _tell(self, what: str, *arguments: Any, **named: Any) -> None:
        """A fault in the owner's handler must not unwind paho in the middle of a packet."""
        try:
            getattr(self.events, what)(*arguments, **named)
        except Exception:  # noqa: BLE001 - see above; logged with its traceback
            _log.exception("handling %s of the MQTT session failed", what)

    @staticmethod
    def _on_socket_open(client: mqtt.Client, userdata: Any, sock: Any) -> None:
        with contextlib.suppress(OSError, AttributeError):  # a Unix socket has no Nagle, a websocket wrapper no option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
