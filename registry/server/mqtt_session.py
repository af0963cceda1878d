"""The registry's MQTT 5 session: paho keeps the connection; this gives it the rules that the bridge needs.

- The session outlives the connection (clean start off, expiry SESSION_EXPIRY_S): messages of devices wait at the
  broker while the registry is away. A message is acknowledged only when `ack` is called, on the connection it came on.
- TCP_NODELAY: without it a QoS 1 round trip takes 44 ms.
- paho calls back in its own thread; an exception there would end it, so none leaves a callback.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from registry.config import Mqtt
from registry.contracts.digest import PREFIX, digest_of
from registry.errors import StartError

RECEIVE_MAXIMUM = 500
"""QoS 1 messages that the broker may have sent and not yet seen acknowledged."""
SESSION_EXPIRY_S = 86400
MAX_PACKET_BYTES = 32 << 20
"""A longer message is dropped by the broker."""
CONNECT_TIMEOUT_S = 5.0
MAX_RECONNECT_S = 30
MAX_INFLIGHT = 20
"""Publications on the way at once. What Mosquitto and others announce as their own Receive Maximum: paho ignores that,
and takes no other number once it is connected."""
MAX_QUEUED = 2000
"""Messages that paho holds while they are not acknowledged; more are refused."""
log = logging.getLogger(__name__)

OnMessage = Callable[[paho.MQTTMessage, int], None]
"""Gets a message and the number of the connection it came on. Must not block."""


class MqttSession:
    """Thread-safe. `on_message` and `on_ready` are called in paho's thread."""

    def __init__(
        self, config: Mqtt, subscriptions: Sequence[str], on_message: OnMessage, on_ready: Callable[[], None]
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
        self.error = "not connected yet"
        self._client = self._make_client()

    @property
    def ready(self) -> bool:
        """Connected and subscribed."""
        return self._ready

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

    def publish(self, messages: Sequence[tuple[str, bytes]], timeout: float) -> list[bool]:
        """Publish retained at QoS 1, all at once; for one thread.

        Returns:
            For each whether the broker took it within `timeout` seconds.
        """
        with self._changed:
            self._acks.clear()
        infos = [self._client.publish(topic, payload, qos=1, retain=True) for topic, payload in messages]
        mids = [info.mid for info in infos if info.rc == paho.MQTT_ERR_SUCCESS]
        with self._changed:
            self._changed.wait_for(lambda: not self._ready or all(mid in self._acks for mid in mids), timeout)
            return [info.rc == paho.MQTT_ERR_SUCCESS and self._acks.get(info.mid, False) for info in infos]

    def _make_client(self) -> paho.Client:
        config = self._config
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=_client_id(config), protocol=paho.MQTTv5, manual_ack=True
        )
        client.suppress_exceptions = True  # it logs them
        client.enable_logger(log)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(1, MAX_RECONNECT_S)
        if config.username is not None:
            client.username_pw_set(config.username, config.read_password())
        if config.tls:
            files = (config.ca_file, config.cert_file, config.key_file)
            ca, cert, key = (str(file) if file is not None else None for file in files)
            try:
                client.tls_set(ca_certs=ca, certfile=cert, keyfile=key)
            except (OSError, ValueError) as error:
                named = ", ".join(str(file) for file in files if file is not None) or "the system's certificates"
                raise StartError("mqtt_tls", f"The broker's certificates cannot be used ({named}): {error}") from error
        client.on_socket_open = _no_delay
        client.on_connect = self._connect_answered
        client.on_connect_fail = self._connect_failed
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_publish = self._published
        client.on_message = self._received
        return client

    def _connect_answered(
        self, client: paho.Client, _data: Any, flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self.error = f"the broker refused the connection: {reason}"
            log.error("MQTT: %s", self.error)
            return
        with self._changed:
            self._connection += 1
            self._connected = True
            self._lost = self._lost or not flags.session_present
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
        client.subscribe([(topic, options) for topic in self._subscriptions])

    def _connect_failed(self, _client: paho.Client, _data: Any) -> None:
        self.error = f"no connection to {self._config.host}:{self._config.effective_port}"

    def _subscribed(self, _client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = [topic for topic, reason in zip(self._subscriptions, reasons, strict=False) if reason.is_failure]
        if refused:
            self.error = f"the broker refused the subscriptions {', '.join(refused)}"
            log.error("MQTT: %s", self.error)
            return
        self.error = ""
        with self._changed:
            self._ready = True
        log.info("MQTT: connected to %s:%s", self._config.host, self._config.effective_port)
        self._on_ready()

    def _disconnected(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self.error = f"disconnected: {reason}"
        with self._changed:
            self._connected = self._ready = False
            self._changed.notify_all()
        log.warning("MQTT: %s", self.error)

    def _published(self, _client: paho.Client, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        with self._changed:
            self._acks[mid] = not reason.is_failure
            self._changed.notify_all()

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._on_message(message, self._connection)


def _client_id(config: Mqtt) -> str:
    """As configured; the default gets the prefix's mark, so that two fleets on a broker do not cut each other off."""
    if "client_id" in config.model_fields_set:
        return config.client_id
    return f"{config.client_id}-{digest_of(config.prefix.encode()).removeprefix(PREFIX)[:8]}"


def _no_delay(_client: paho.Client, _data: Any, sock: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
