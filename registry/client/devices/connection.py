"""One connection to the broker and the requests that go over it, for a thread or an event loop to drive.

States of the connection: away (waiting to try again), connecting (another thread does it), greeting (CONNACK or SUBACK
is owed), open. Whoever drives it calls `turn` after events of the socket, after calls, and at `wake_at`.
Requests and answers go through the framing that agents use (`registry.inference.mqtt`): beside paho where this paho is
known, else through paho's public interface.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from math import inf
from typing import Any, Optional

import paho.mqtt.client as mqtt

from ...contracts.backoff import Backoff
from ...contracts.broker import BrokerLimits
from ...contracts.codes import RequestCode
from ...contracts.tensors import BINARY_MAGIC
from ...inference.header import MAGIC_BYTES, header_end
from ...inference.mqtt.fast import FastClient, FastLink, fast_path_fault
from ...inference.mqtt.intake import Body
from ...inference.mqtt.link import BrokerSocket, Link, PublicLink, SocketSelector, publish_of
from ...inference.packets import MAX_REMAINING, Buffer, Publish, text
from .answer import Answer, AnswerReader
from .errors import DeviceError, NotConnectedError, error_of
from .figures import Latencies, Statistics
from .presence import DevicePresence, Presences, read_presence
from .requests import PendingRequest, Requests
from .session import ClientSession
from .settings import ClientSettings

RECONNECT = Backoff(first_s=0.1, cap_s=10.0)
"""Between tries to reach the broker; there is no last one."""
PRESENCE_SECONDS = 1.0
"""A broker that has not sent a presence document by then has none."""
MAX_WINDOW = 60000
_FENCE = b"fence "
_fault = lru_cache(maxsize=None)(fast_path_fault)
Background = Callable[[Callable[[], None], Callable[[Optional[Exception]], None]], None]
"""Runs the first in a thread of its own, and has the second called with what it raised, on the owner's thread."""


class _LongAnswer(Body):
    """A payload that is read straight to where it stays."""

    def __init__(self, publish: Publish, size: int) -> None:
        self.publish = publish
        self.payload = bytearray(size)
        super().__init__([memoryview(self.payload)])


class ClientConnection:
    """Everything but the constructor runs on the thread, or event loop, that drives it."""

    def __init__(
        self,
        settings: ClientSettings,
        selector: SocketSelector,
        background: Background,
        clock: Callable[[], float],
        told: Callable[[DeviceError | None], None],
    ) -> None:
        """`told` is called when the connection is open for the first time, or with why that failed."""
        self.settings = settings
        self._clock = clock
        self._background = background
        self._told: Callable[[DeviceError | None], None] | None = told
        self.slow_reason = "over websockets" if settings.broker.websocket_path else _fault()
        """Why paho's public interface is used; empty: it is not."""
        fast = not self.slow_reason
        self._session = ClientSession(settings, self, FastClient if fast else mqtt.Client)
        self._presences = Presences(watched=settings.watch_presence)
        self.requests = Requests(self, random.random, self._presences, tells_of_nobody=settings.v5)
        client = self._session.client
        make_link = FastLink if fast else PublicLink
        self._link: Link = make_link(client, v5=settings.v5)
        self._link.serve(self, self._puback, self.requests.unacknowledged)
        self._socket = BrokerSocket(selector, client, self._link)
        self.reader = AnswerReader()
        self._latencies = Latencies()
        self._reply_topic = settings.reply_topic.encode()
        self._subscribing = 0
        self._limits = BrokerLimits()
        self._connecting = False
        self._attempt = 0
        self._retry_at = inf
        self._try_until = inf
        """When the try to connect that is under way has had its time."""
        self._greeting_until = inf
        self._unanswered = ""
        """Why this client ends the connection: its broker is silent."""
        self._keepalive_at = 0.0
        self._fences: dict[str, float] = {}
        """Devices whose presence document was asked for, and when there is none."""
        self.open = False
        self.closed = False

    # --- driving ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The first try to connect begins."""
        self._connect()

    def turn(self) -> None:
        """Does what is due, and sends what is queued."""
        self._socket.read_rest()
        now = self._clock()
        if now >= self._retry_at:
            self._connect()
        if now >= self._greeting_until:
            self._greeting_until = inf
            seconds = self.settings.connect_timeout_s
            self._unanswered = f"accepted the connection and did not answer within {seconds:g} s"
            self._session.client.disconnect()
        for device in [each for each, until in self._fences.items() if now >= until]:
            self._no_presence(device)
        self.requests.due(now)
        if now >= self._keepalive_at and not self._connecting:
            self._keepalive_at = now + max(0.5, (self._limits.keepalive_s or self.settings.keepalive_s) / 4)
            self._link.alive()
            self._session.client.loop_misc()
        if not self._connecting:
            self._socket.flush()

    def wake_at(self) -> float:
        """When the next turn is due, if nothing else happens."""
        if self._socket.more:
            return 0.0
        fence = min(self._fences.values(), default=inf)
        return min(self._retry_at, self._greeting_until, self._keepalive_at, self.requests.next_due, fence)

    def submit(self, request: PendingRequest) -> None:
        """A call."""
        if self.closed:
            request.outcome = error_of(RequestCode.CLIENT_CLOSED, "the client is closed", device=request.device)
            request.done(request)
            return
        self.requests.submit(request, self._clock())

    def close(self) -> None:
        """Ends everything; what is under way fails."""
        if self.closed:
            return
        self.closed = True
        self.requests.fail_all(RequestCode.CLIENT_CLOSED, "the client was closed")
        self._retry_at = self._greeting_until = self._keepalive_at = inf
        if not self._connecting:
            self._session.disconnect()
            self._socket.flush()
        self._session.release()

    def statistics(self) -> Statistics:
        """What was counted so far."""
        requests, counts = self.requests, self.requests.counts
        return Statistics(
            requests=counts["requests"],
            sent=counts["sent"],
            answered=counts["answered"],
            errors=dict(requests.errors),
            retries=counts["retries"],
            cancelled=counts["cancelled"],
            late=counts["late"],
            bytes_sent=counts["bytes_sent"],
            bytes_received=counts["bytes_received"],
            in_flight=len(requests),
            bytes_in_flight=requests.bytes,
            p50_seconds=self._latencies.quantile(0.5),
            p99_seconds=self._latencies.quantile(0.99),
            connected=self.open,
            slow_reason=self.slow_reason,
        )

    def _tell(self, error: DeviceError | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(error)

    # --- the connection -----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._retry_at = inf
        self._connecting = True
        self._try_until = self._clock() + self.settings.connect_timeout_s
        self._background(self._session.connect, self._connect_ended)

    def _connect_ended(self, error: Exception | None) -> None:
        self._connecting = False
        if self.closed:
            self._session.client.disconnect()
            return
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
            self._away(reason, f"cannot be reached ({reason})")
            return
        self._greeting_until = self._try_until
        self._link.opened()

    def _away(self, reason: str, said: str) -> None:
        """`reason`: in the errors of requests; `said`: what the broker did, in that of the first try."""
        self._greeting_until = inf
        self._attempt += 1
        now = self._clock()
        self._retry_at = now + RECONNECT.delay(self._attempt, random.random())  # noqa: S311 - guards nothing
        self.requests.away = reason
        self._tell(NotConnectedError(RequestCode.NOT_CONNECTED, f"{self.settings.broker} {said}"))

    def session_open(self, session_present: bool, limits: BrokerLimits) -> None:
        """CONNACK: the answers are subscribed to before anything is asked."""
        self._limits = limits
        if session_present:
            self._opened()
            return
        self._subscribing = self._session.subscribe(self.settings.reply_topic, limits.qos)
        self._link.subscribing(self._subscribing)

    def session_refused(self, reason: str) -> None:
        """CONNACK with a failure; paho closes."""
        self.requests.away = f"refused: {reason}"
        text = f"{self.settings.broker} refuses the connection: {reason}"
        self._tell(NotConnectedError(RequestCode.CONNECTION_REFUSED, text))

    def session_subscribed(self, mid: int, failures: list[str]) -> None:
        """SUBACK: of the answers, or of a device's presence."""
        if mid != self._subscribing or self.open:
            return
        if failures:
            text = f"{self.settings.broker} refuses the subscription to {self.settings.reply_topic}: {failures[0]}"
            self._tell(NotConnectedError(RequestCode.CONNECTION_REFUSED, text))
            self._session.client.disconnect()
            return
        self._opened()

    def _opened(self) -> None:
        self._greeting_until = inf
        self._attempt = 0
        self.open = True
        longest = min(self._limits.maximum_packet or MAX_REMAINING, MAX_REMAINING)
        self.requests.connected(min(self._limits.receive_maximum, MAX_WINDOW), longest, self._clock())
        self._tell(None)

    def session_ended(self, reason: str) -> None:
        """The connection has ended, whoever ended it."""
        self.open = False
        self._session.forget_unacknowledged()
        self._link.closed()
        self._fences.clear()
        unanswered, self._unanswered = self._unanswered, ""
        if not self.closed:
            self.requests.disconnected(unanswered or reason, self._clock())
            self._away(unanswered or reason, unanswered or f"cannot be reached ({reason})")

    # --- what goes out ------------------------------------------------------------------------------------------------

    def send(self, request: PendingRequest, expiry: int) -> int:
        """Publishes a request; its packet identifier."""
        properties = b"\x02" + expiry.to_bytes(4, "big") + request.properties + request.key
        if request.qos and self._limits.qos:
            return self._link.publish_acknowledged(request.topic, properties, request.pieces)
        self._link.publish(request.topic, properties, request.pieces)
        return 0

    def watch(self, device: str) -> None:
        """Subscribes to its presence. A message to this client itself follows, behind which there is no document."""
        mid = self._session.subscribe(self.settings.topics.device(device, "presence"), self._limits.qos)
        self._link.subscribing(mid)
        self._fences[device] = self._clock() + PRESENCE_SECONDS
        self._link.publish_acknowledged(text(self._reply_topic), b"", (_FENCE + device.encode(),))

    def _no_presence(self, device: str) -> None:
        if self._fences.pop(device, None) is not None:
            self.requests.presence(device, None, self._clock())

    # --- what comes in: Receiver of the fast link, and what paho has read ---------------------------------------------

    def is_request_topic(self, topic: bytes) -> bool:
        """Everything on the reply topic is read here."""
        return topic == self._reply_topic

    def request(self, publish: Publish, data: Buffer, end: int) -> None:
        """A whole answer: its payload is `data[publish.payload:end]`."""
        if publish.mid:
            self._link.acknowledge(publish.mid)
        self._answer(publish, bytes(data[publish.payload : end]))

    def announce(self, publish: Publish, data: bytes, size: int) -> Body | None:
        """A long answer is on its way: where it goes. None: nobody waits for it, and no memory is taken for it."""
        if (publish.correlation or self.settings.v5) and not self.requests.awaits(publish.correlation):
            self.oversized(publish)
            return None
        return _LongAnswer(publish, size)

    def arrived(self, body: Body) -> None:
        """A long answer has come whole."""
        if isinstance(body, _LongAnswer):
            if body.publish.mid:
                self._link.acknowledge(body.publish.mid)
            self._answer(body.publish, bytes(body.payload))

    def abort(self) -> None:
        """The rest of a long answer will not come: its request is sent again, or fails, with the connection."""

    def oversized(self, publish: Publish) -> None:
        """A message that nobody takes; it is discarded as it arrives."""
        self.requests.counts["late"] += 1
        if publish.mid:
            self._link.acknowledge(publish.mid)

    def session_message(self, message: mqtt.MQTTMessage) -> None:
        """What paho has read: presence documents, and the answers where it reads everything."""
        publish = publish_of(message, v5=self.settings.v5)
        payload = bytes(message.payload)
        if self.is_request_topic(publish.topic):
            self._answer(publish, payload)
        else:
            self._other(publish, payload)
        if message.qos:
            self._session.client.ack(message.mid, message.qos)

    def _other(self, publish: Publish, payload: bytes) -> None:
        found = self.settings.topics.parse_device(publish.topic.decode())
        if found is None or found[1] != "presence":
            return
        said = read_presence(payload)
        if said is not None and not said.online and not publish.retain:
            said = DevicePresence(
                False, datetime.fromtimestamp(time.time(), tz=timezone.utc).isoformat(timespec="seconds")
            )
        self._fences.pop(found[0], None)
        self.requests.presence(found[0], said, self._clock())

    def session_published(self, mid: int, reason: int) -> None:
        """A PUBACK that paho has read."""
        self._puback(mid, reason)

    def _puback(self, mid: int, reason: int) -> bool:
        return self.requests.puback(mid, reason, self._clock())

    def _answer(self, publish: Publish, payload: bytes) -> None:
        requests = self.requests
        requests.counts["bytes_received"] += len(payload)
        key = publish.correlation
        if not key:
            if payload.startswith(_FENCE):
                self._no_presence(payload[len(_FENCE) :].decode("utf-8", "replace"))
                return
            key = _correlation(payload)
        request = requests.find(key)
        if request is None:
            return
        now = self._clock()
        try:
            outcome: Any = request.read(payload, publish.header_length, request.expected)
            if isinstance(outcome, Answer):
                outcome.seconds = now - request.started
                self._latencies.add(outcome.seconds)
        except DeviceError as error:
            outcome = error
        requests.answered(request, outcome, now)


def _correlation(payload: bytes) -> bytes:
    """The key of the request that a payload of MQTT 3.1.1 answers; empty where it says none."""
    try:
        header = payload
        if payload[: len(BINARY_MAGIC)] == BINARY_MAGIC:
            header = payload[MAGIC_BYTES : header_end(payload)]
        return b"\x09" + text(str(json.loads(header)["parameters"]["correlation_id"]).encode())
    except (ValueError, KeyError, TypeError, RecursionError, IndexError, OverflowError):
        return b""
