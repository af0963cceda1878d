"""The broker connection as the loop sees it: connecting, subscribing, saying that the device is there, coming back.

States: away (waiting to try again), connecting (a thread does it), greeting (CONNACK or SUBACK is owed), open.
Presence: the will says offline; online is published after SUBACK, offline again before a clean DISCONNECT.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import paho.mqtt.client as mqtt

from agent.adapters.network.mqtt import MqttSession
from agent.core.events import Connected, ControlMessage, Disconnected, WorkerDied
from agent.dataplane.mqtt.outbound import Ack, Outbound, Outgoing
from agent.dataplane.mqtt.spooling import Spooling
from registry.contracts.backoff import Backoff
from registry.contracts.broker import BrokerLimits, subscribable
from registry.contracts.counters import Counters
from registry.contracts.device.messages import MAX_CONTROL_BYTES
from registry.inference.mqtt.intake import Receiver
from registry.inference.mqtt.link import Link, publish_of
from registry.inference.packets import Publish, text

RECONNECT = Backoff(first_s=0.2, cap_s=30.0)
"""Between tries to reach the broker; there is no last one."""
GREETING_SECONDS = 20.0
"""A broker that has not sent CONNACK and SUBACK by then is given up."""
STEADY_SECONDS = 10.0
"""After a connection that lasted so long the next one comes soon; shorter ones in a row are farther and farther apart,
or two agents of one name would take it from each other many times a second."""
MAX_FLAPS = 5
"""Pauses grow no longer than that (6 s): a bad network is not another agent."""
MAX_RETAINED = 1024
"""Documents that are kept to be sent again: a few of the agent, and one for each model where Home Assistant is told."""
Notice = Connected | Disconnected | ControlMessage | WorkerDied
"""What the control thread is told."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Greeting:
    """What is said on every new connection."""

    filters: tuple[str, ...]
    """Topics to subscribe to, shared subscriptions with their `$share/` in front."""
    presence_topic: str
    birth: bytes
    death: bytes
    control_topics: frozenset[str] = frozenset()
    """Messages on these are passed to the control thread."""


MAX_FAULT_CHARACTERS = 600
"""Of the reason that health reports have."""


class MetadataReceiver(Protocol):
    """Who takes metadata requests."""

    def takes(self, topic: str) -> bool:
        """Is it a topic of metadata requests?"""

    def ask(self, topic: str, publish: Publish, payload: bytes, ack: Ack | None) -> None:
        """A request came; it is acknowledged when its answer is on its way, or when there will be none."""

    def closed(self) -> None:
        """The connection has ended."""


class Connection:
    """Implements SessionEvents. Everything but `_connect` runs on the data thread."""

    def __init__(
        self,
        *,
        greeting: Greeting,
        session: MqttSession,
        link: Link,
        outbound: Outbound,
        receiver: Receiver,
        spooling: Spooling,
        metadata: MetadataReceiver,
        emit: Callable[[Notice], None],
        post: Callable[[Callable[[], None]], None],
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._greeting = greeting
        self._session = session
        self._link = link
        self._outbound = outbound
        self._receiver = receiver
        self._spooling = spooling
        self._metadata = metadata
        self._emit = emit
        self._post = post
        self._counters = counters
        self._clock = clock
        self._retained: dict[str, bytes] = {}
        self._subscribing: set[int] = set()
        """Packet identifiers of SUBSCRIBEs that are not answered yet."""
        self.limits = BrokerLimits()
        """What the broker of the last connection takes."""
        self._session_present = False
        self.connecting = False
        """True: another thread uses the client."""
        self._attempt = 0
        self._flaps = 0
        """Connections in a row that were open, but not for long."""
        self.retry_at: float | None = clock()
        """When to try to connect; None while connected, connecting or stopping."""
        self._greeting_until: float | None = None
        self._opened_at: float | None = None
        """Since when it is open; None: it is not."""
        self.open = False
        """True: subscribed; everything may be sent."""
        self.fault = ""
        """Why it is not open, after the broker's address; empty while it is, and before the first try has ended."""
        self._refusal = ""
        """What a CONNACK of this try said."""

    # --- coming and going ---------------------------------------------------------------------------------------------

    def due(self, now: float) -> None:
        """Starts a try to connect when it is time, and gives up a broker that does not answer."""
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self.connecting = True
            threading.Thread(target=self._connect, name="mqtt-connect", daemon=True).start()
        elif self._greeting_until is not None and now > self._greeting_until:
            _log.warning("the broker did not answer within %d s", GREETING_SECONDS)
            self._session.client.disconnect()

    def _connect(self) -> None:
        """In its own thread: name service, TCP and TLS block."""
        try:
            self._session.connect()
        except Exception as error:  # noqa: BLE001 - whatever keeps us from the broker: say so, try again
            reason = f"{type(error).__name__}: {error}"
            self._post(lambda: self._away(reason))
        else:
            self._post(self._opened)

    def _opened(self) -> None:
        self.connecting = False
        self._greeting_until = self._clock() + GREETING_SECONDS
        self._link.opened()

    def _away(self, reason: str) -> None:
        self.connecting = False
        self._greeting_until = None
        reason, self._refusal = self._refusal or reason, ""
        broker = self._session.settings.broker
        self.fault = f"{broker.host}:{broker.port}: {reason}"[:MAX_FAULT_CHARACTERS]
        lasted = self._clock() - self._opened_at if self._opened_at is not None else None
        self._opened_at = None
        if lasted is None:
            self._attempt += 1
        else:
            self._flaps = 0 if lasted >= STEADY_SECONDS else min(self._flaps + 1, MAX_FLAPS)
            self._attempt = 1 + self._flaps
        delay = RECONNECT.delay(self._attempt, random.random())  # noqa: S311 - spreads a fleet, guards nothing
        self.retry_at = self._clock() + delay
        self._counters.add("mqtt_disconnects", label=reason.partition(":")[0])
        if lasted is not None and self._flaps > 1:
            _log.warning(
                "the connection was ended after %.1f s (%s); next try in %.1f s. Does another agent have this name?",
                lasted,
                reason,
                delay,
            )
        elif lasted is not None or self._attempt == 1:
            _log.warning("no connection to the broker (%s); next try in %.1f s", reason, delay)
        self._emit(Disconnected(reason))

    def connected(self, *, session_present: bool, limits: BrokerLimits) -> None:
        """CONNACK: subscribes, to what the broker takes."""
        self._outbound.opened(limits)
        self._session_present = session_present
        self.limits = limits
        self._counters.add("mqtt_connections")
        filters, left = subscribable(self._greeting.filters, limits)
        if left:
            self._counters.add("subscriptions_refused", len(left))
            _log.error("the broker does not take subscriptions of this kind: %s", ", ".join(left))
        if not limits.control_is_whole:
            missing = ", no ".join(limits.missing())
            _log.warning("the broker has no %s: the registry is asked and told over HTTP, too", missing)
        self._subscribing = set(self._session.subscribe(filters, limits))
        for mid in self._subscribing:
            self._link.subscribing(mid)

    def refused(self, reason: str) -> None:
        """CONNACK with a failure."""
        _log.error("the broker refuses the connection: %s", reason)
        self._refusal = f"the broker refuses the connection: {reason}"

    def subscribed(self, mid: int, failures: Sequence[str]) -> None:
        """SUBACK: once all have come, the connection is open."""
        if mid not in self._subscribing:
            return
        self._subscribing.discard(mid)
        if failures:
            self._counters.add("subscriptions_refused", len(failures))
            _log.error("the broker refuses subscriptions: %s", ", ".join(failures))
        if self._subscribing:
            return
        self._greeting_until = None
        self._opened_at = self._clock()
        self.open, self.fault = True, ""
        self._send_retained(self._greeting.presence_topic, self._greeting.birth)
        for topic, payload in list(self._retained.items()):
            self._send_retained(topic, payload)
        _log.info("connected to the broker (session present: %s)", self._session_present)
        self._emit(Connected(self._session_present, self.limits.control_is_whole))

    def disconnected(self, reason: str) -> None:
        """The connection has ended: what is owed goes to the outbox."""
        self.open = False
        self._session.forget_unacknowledged()
        self._link.closed()
        self._outbound.closed()
        self._spooling.connection_closed()
        self._metadata.closed()
        self._away(reason)

    # --- messages -----------------------------------------------------------------------------------------------------

    def message(self, message: mqtt.MQTTMessage) -> None:
        """What paho has read, requests of the slow path included."""
        acks = self._outbound.acks
        if message.qos == 2:
            self._counters.add("malformed_dropped")
            self._session.client.ack(message.mid, 2)  # we subscribe at QoS 1: only a broken broker sends this
            return
        try:
            publish = publish_of(message, v5=self._session.settings.v5)
        except UnicodeError:
            self._counters.add("malformed_dropped")
            if message.qos:
                acks.settle(acks.owe(message.mid))
            return
        if self._receiver.is_request_topic(publish.topic):
            self._receiver.request(publish, bytes(message.payload), len(message.payload))
            return
        ack = acks.owe(message.mid) if message.qos else None
        if self._metadata.takes(message.topic):
            self._metadata.ask(message.topic, publish, bytes(message.payload), ack)
            return
        if message.topic in self._greeting.control_topics:
            if len(message.payload) <= MAX_CONTROL_BYTES:
                trace = publish.traceparent.decode("ascii", "replace")
                self._emit(ControlMessage(message.topic, bytes(message.payload), trace))
            else:
                self._counters.add("control_messages_dropped")
        if ack is not None:
            acks.settle(ack)

    def published(self, mid: int, reason: int) -> None:
        """A PUBACK that paho has read."""
        self._outbound.puback(mid, reason)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        """A control document. Retained ones are kept and sent again on every connection, others need one now. An empty
        one removes what was retained."""
        if retain:
            if topic not in self._retained and len(self._retained) >= MAX_RETAINED:
                raise ValueError(f"more than {MAX_RETAINED} retained topics")
            self._retained[topic] = payload
            if self.open:
                self._send_retained(topic, payload)
        elif self.open and qos:
            self._outbound.send(Outgoing(text(topic.encode()), b"", payload, settled=_nothing))
        elif self.open:
            self._outbound.reply(text(topic.encode()), b"", (payload,), None)
        else:
            self._counters.add("documents_dropped")

    def _send_retained(self, topic: str, payload: bytes) -> None:
        settled = _nothing if payload else lambda: self._removed(topic)
        self._outbound.send(Outgoing(text(topic.encode()), b"", payload, retain=True, settled=settled))

    def _removed(self, topic: str) -> None:
        """The broker has taken an empty document, which removes what was retained: it need not be sent again."""
        if self._retained.get(topic) == b"":
            del self._retained[topic]

    # --- the end ------------------------------------------------------------------------------------------------------

    def say_offline(self) -> None:
        """Before a clean stop: the will is not sent then."""
        if self.open:
            self._send_retained(self._greeting.presence_topic, self._greeting.death)

    def renew_credentials(self) -> None:
        """Connects again when there are others than this connection was made with, and at once when it is away."""
        if self.open and self._session.has_new_credentials():
            _log.info("connecting to the broker with new credentials")
            self._session.client.disconnect()
            self._link.flush()
        elif self.retry_at is not None:
            self.retry_at = self._clock()

    def disconnect(self) -> None:
        """For good."""
        if not self.connecting:
            self._session.client.disconnect()
            self._link.flush()
        self.retry_at = None


def _nothing() -> None:
    """A retained document at PUBACK: it is kept in `_retained` anyway."""
