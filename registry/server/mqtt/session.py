"""The registry's MQTT 5 session: paho keeps the connection; this gives it the rules that the bridge needs.

- The session outlives the connection (clean start off, expiry SESSION_EXPIRY_S): messages of devices wait at the
  broker while the registry is away. A message is acknowledged only when `ack` is called, on the connection it came on.
- What the broker states in its CONNACK is kept: it would end the connection otherwise, each time again.
- The credentials lie in files that may be replaced at any time: they are read for each connection. A password that
  cannot be read now leaves the one of before; for the files of TLS see `registry.certificates`.
- TCP_NODELAY: without it a QoS 1 round trip takes 44 ms.
- paho calls back in its own thread; an exception there would end it, so none leaves a callback.
"""

from __future__ import annotations

import enum
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from registry import tracing
from registry.certificates import CertificateError, RenewedContext, TlsFiles
from registry.config import Mqtt
from registry.contracts.broker import BrokerLimits, in_packets, limits_of, subscribable
from registry.contracts.counters import Counters
from registry.contracts.wire import DIGEST_PREFIX, digest_of
from registry.errors import StartError
from registry.server.mqtt.polling import PollingClient

log = logging.getLogger(__name__)
_RENEWED = ("username", "password", "password_file", "ca_file", "cert_file", "key_file")


class Credentials:
    """Of one set of settings, which `renew` replaces. Thread-safe."""

    def __init__(self, config: Mqtt) -> None:
        """Raises StartError: the certificates cannot be used; OSError: the password's file cannot be read."""
        self._lock = threading.Lock()
        self._config = config
        self._password = config.read_password()
        try:
            self.context = RenewedContext(_files(config)) if config.tls else None
        except CertificateError as error:
            raise StartError("mqtt_tls", f"The broker's certificates cannot be used: {error}") from error

    def login(self) -> tuple[str | None, str | None]:
        """User name and password as they are now."""
        with self._lock:
            try:
                self._password = self._config.read_password()
            except (OSError, ValueError) as error:
                log.warning("MQTT: the password of before is used on: %s", error)
            return self._config.username, self._password

    def renew(self, config: Mqtt) -> bool:
        """Take these settings' credentials; host, port and the like stay. True: they are others than before."""
        with self._lock:
            before = self._config.username, self._password
            self._config = self._config.model_copy(update={name: getattr(config, name) for name in _RENEWED})
            other_files = self.context is not None and self.context.renew(_files(self._config))
        return self.login() != before or other_files


def _traced(traceparent: str) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = (tracing.PROPERTY, traceparent)
    return properties


def _files(config: Mqtt) -> TlsFiles:
    return TlsFiles(config.ca_file, config.cert_file, config.key_file)


RECEIVE_MAXIMUM = 500
"""QoS 1 messages that the broker may have sent and not yet seen acknowledged."""
SESSION_EXPIRY_S = 86400
MAX_PACKET_BYTES = 32 << 20
"""A longer message is dropped by the broker."""
CONNECT_TIMEOUT_S = 5.0
MAX_RECONNECT_S = 30
MAX_INFLIGHT = 20
"""Publications on the way at once, where the broker's Receive Maximum is not less."""
MAX_QUEUED = 2000
"""Messages that paho holds while they are not acknowledged; more are refused."""


@dataclass(frozen=True)
class PendingPublish:
    """A publication at QoS 1, where the broker has it."""

    topic: str
    payload: bytes
    retain: bool = True
    """Where the broker keeps retained messages."""
    traceparent: str = ""
    """The trace that led to it, as user property; empty: none."""


class DeliveryOutcome(enum.Enum):
    """What became of a publication."""

    TAKEN = "taken"
    REFUSED = "refused"
    """The broker said no, or nothing in time."""
    TOO_LARGE = "too_large"
    """Longer than the broker takes; it was not sent."""


OnMessage = Callable[[paho.MQTTMessage, int], None]
"""Gets a message and the number of the connection it came on. Must not block."""


class BridgeSession:
    """Thread-safe. `on_message` and `on_ready` are called in paho's thread."""

    def __init__(
        self,
        config: Mqtt,
        subscriptions: Sequence[str],
        on_message: OnMessage,
        on_ready: Callable[[], None],
        counters: Counters,
    ) -> None:
        self._config = config
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_ready = on_ready
        self._changed = threading.Condition()
        self._connection = 0
        self._connected = False
        self._ready = False
        self._lost = True
        self._acks: dict[int, bool] = {}
        self._subscribing: dict[int, list[str]] = {}
        """Filters by packet identifier, until their SUBACK came."""
        self.limits = BrokerLimits()
        """What the broker of the last connection takes."""
        self._counters = counters
        self._refused_filters: list[str] = []
        self.lacks = ""
        """What the broker does not have, in words; empty when it has all."""
        self.error = "not connected yet"
        self._credentials = Credentials(config)
        self._client = self._make_client()

    @property
    def ready(self) -> bool:
        """Connected, and the broker has answered about the subscriptions; `error` says what it refused."""
        return self._ready

    def certificate(self) -> bytes | None:
        """What the broker showed, DER; None without TLS or connection."""
        connection = self._client.socket()
        if not isinstance(connection, ssl.SSLSocket):
            return None
        with suppress(OSError, ValueError):  # it has just ended
            return connection.getpeercert(binary_form=True)
        return None

    def start(self) -> None:
        """Begin to connect; goes on trying for ever, up to MAX_RECONNECT_S apart."""
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connect.SessionExpiryInterval = SESSION_EXPIRY_S
        connect.ReceiveMaximum = RECEIVE_MAXIMUM
        connect.MaximumPacketSize = MAX_PACKET_BYTES
        self._client.connect_async(
            self._config.host or "",
            self._config.effective_port,
            keepalive=self._config.keepalive_s,
            clean_start=False,
            properties=connect,
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect; the session stays at the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def take_lost(self) -> bool:
        """Whether the broker came up without our session, or this process is new: what it retains is not known.

        Asking resets it; `lost_again` puts it back.
        """
        with self._changed:
            lost, self._lost = self._lost, False
        return lost

    def lost_again(self) -> None:
        """What followed from `take_lost` could not be done yet."""
        with self._changed:
            self._lost = True

    def ack(self, mid: int, connection: int) -> None:
        """Acknowledge a QoS 1 message; nothing when its connection is gone: the broker sends it again."""
        with self._changed:
            if connection == self._connection and self._connected:
                self._client.ack(mid, 1)

    def cut(self, connection: int) -> None:
        """End that connection, as a network would; nothing when it is gone. On the next one the broker sends again,
        in order, what was not acknowledged."""
        with self._changed:
            if connection == self._connection and self._connected:
                self._hang_up()

    def _hang_up(self) -> None:
        """paho sees the socket's end and comes back; a disconnect would be for good."""
        sock: Any = self._client.socket()
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def publish(self, messages: Sequence[PendingPublish], timeout: float) -> list[DeliveryOutcome]:
        """Publish, as many at once as the broker allows; for one thread.

        Returns:
            For each what became of it within `timeout` seconds.
        """
        limits, deadline = self.limits, time.monotonic() + timeout
        answers: list[DeliveryOutcome] = []
        window = min(MAX_INFLIGHT, limits.receive_maximum)
        for start in range(0, len(messages), window):
            answers += self._publish_some(messages[start : start + window], limits, deadline)
        return answers

    def _publish_some(
        self, messages: Sequence[PendingPublish], limits: BrokerLimits, deadline: float
    ) -> list[DeliveryOutcome]:
        with self._changed:
            self._acks.clear()
        sent: list[int | None] = []
        """Packet identifiers; None: it was not sent."""
        for message in messages:
            mid = None
            if self._ready and limits.takes(message.topic, len(message.payload)):
                retain = message.retain and limits.retain
                properties = _traced(message.traceparent) if message.traceparent else None
                info = self._client.publish(message.topic, message.payload, limits.qos, retain, properties)
                mid = info.mid if info.rc == paho.MQTT_ERR_SUCCESS else None
            sent.append(mid)
        mids = [mid for mid in sent if mid is not None]
        with self._changed:
            left = max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: not self._ready or all(mid in self._acks for mid in mids), left)
            taken = {mid for mid in mids if self._acks.get(mid, False)}
        return [
            DeliveryOutcome.TAKEN
            if mid in taken
            else DeliveryOutcome.REFUSED
            if mid is not None or limits.takes(message.topic, len(message.payload))
            else DeliveryOutcome.TOO_LARGE
            for message, mid in zip(messages, sent, strict=True)
        ]

    def _make_client(self) -> paho.Client:
        config = self._config
        client = PollingClient(
            CallbackAPIVersion.VERSION2, client_id=_client_id(config), protocol=paho.MQTTv5, manual_ack=True
        )
        client.suppress_exceptions = True  # it logs them
        client.enable_logger(log)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(1, MAX_RECONNECT_S)
        client.on_pre_connect = self._log_in
        if self._credentials.context is not None:
            client.tls_set_context(self._credentials.context)
        client.on_socket_open = _no_delay
        client.on_connect = self._connect_answered
        client.on_connect_fail = self._connect_failed
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_publish = self._published
        client.on_message = self._received
        return client

    def _log_in(self, client: paho.Client, _data: Any) -> None:
        username, password = self._credentials.login()
        client.username_pw_set(username, password)

    def renew(self, config: Mqtt) -> None:
        """Take the credentials of these settings as they are now; where they are others, connect again with them."""
        if self._credentials.renew(config):
            log.info("MQTT: connects again with other credentials")
            self._hang_up()

    def _connect_answered(
        self, client: paho.Client, _data: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self.error = f"the broker refused the connection: {reason}"
            log.error("MQTT: %s", self.error)
            return
        limits = limits_of(properties)
        filters, left = subscribable(self._subscriptions, limits)
        with self._changed:
            self._connection += 1
            self._connected = True
            self._lost = self._lost or not flags.session_present or limits != self.limits
            self.limits = limits
            self._subscribing.clear()
            self._refused_filters = left
        self._say_limits(limits)
        options = SubscribeOptions(qos=limits.qos, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
        with self._changed:
            for packet in in_packets(filters, limits):
                _, mid = client.subscribe([(topic, options) for topic in packet])
                if mid is not None:
                    self._subscribing[mid] = packet
        if not filters:
            self._open()

    def _say_limits(self, limits: BrokerLimits) -> None:
        missing = limits.missing()
        self.lacks = f"the broker has no {', no '.join(missing)}: devices ask and tell over HTTP" if missing else ""
        if self.lacks:
            log.warning("MQTT: %s", self.lacks)

    def _connect_failed(self, _client: paho.Client, _data: Any) -> None:
        self.error = f"no connection to {at(self._config.host or '', self._config.effective_port)}"

    def _subscribed(self, _client: paho.Client, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        with self._changed:
            filters = self._subscribing.pop(mid, [])
            refused = [(t, reason) for t, reason in zip(filters, reasons, strict=False) if reason.is_failure]
            self._refused_filters += [topic for topic, _ in refused]
            done = not self._subscribing
        for topic, reason in refused:
            self._refuse(f"the subscription {topic}", str(reason))
        if done:
            self._open()

    def _open(self) -> None:
        """What was refused keeps nobody from the rest: desired state goes out, and what can be heard is heard."""
        self.error = self.lacks
        if self._refused_filters and not self.lacks:
            self.error = f"the broker refused the subscriptions {', '.join(self._refused_filters)}"
        with self._changed:
            self._ready = True
        log.info("MQTT: connected to %s", at(self._config.host or "", self._config.effective_port))
        self._on_ready()

    def _refuse(self, what: str, reason: str) -> None:
        """Counted; the first of a reason is logged."""
        if self._counters.add("registry_mqtt_refusals", label=reason):
            log.error("MQTT: the broker refused %s: %s; more of these are only counted", what, reason)

    def _disconnected(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self.error = f"disconnected: {reason}"
        with self._changed:
            self._connected = self._ready = False
            self._changed.notify_all()
        log.warning("MQTT: %s", self.error)

    def _published(self, _client: paho.Client, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            self._refuse("a publication", str(reason))
        with self._changed:
            self._acks[mid] = not reason.is_failure
            self._changed.notify_all()

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._on_message(message, self._connection)


def _client_id(config: Mqtt) -> str:
    """As configured; the default gets the prefix's mark, so that two fleets on a broker do not cut each other off."""
    if "client_id" in config.model_fields_set:
        return config.client_id
    return f"{config.client_id}-{digest_of(config.prefix.encode()).removeprefix(DIGEST_PREFIX)[:8]}"


def _no_delay(_client: paho.Client, _data: Any, sock: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def at(host: str, port: int) -> str:
    """`host:port` as people read it; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
