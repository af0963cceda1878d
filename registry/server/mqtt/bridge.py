"""Between the broker and the database: what devices say goes in, what they should serve goes out.

In: paho's thread checks a message and queues it, bounded and in order; one writer takes up to BATCH of them or what
comes within GATHER_S, stores them in one transaction and acknowledges them after the commit, so that a killed registry
loses nothing. What cannot be parsed is poison: counted, acknowledged, dropped. So is, unread, what a device sends
beyond its budget (`services.intake.budgets`): else a flood of one device would keep the others waiting.
RULE: what cannot be stored is tried again, in order and for ever, unless it is proven to be the message's own fault: it
failed PROOFS times alone, and each time the same database took another write right after. Only then it is poison.
Out: one publisher sends every document that the broker has not acknowledged, and clears deleted devices' topics.
It starts from the rows, not from events: after a change, a reconnect, and every IDLE_S.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import paho.mqtt.client as paho

from registry import tracing
from registry.config import Mqtt
from registry.contracts.backoff import Backoff
from registry.contracts.counters import Counters
from registry.contracts.device.messages import Notice
from registry.contracts.tensors import HEADER_LENGTH_PROPERTY
from registry.contracts.topics import Topics
from registry.core.intake import KINDS, DeviceMessage, read_message
from registry.errors import TemporaryError
from registry.server.metric_table import REGISTRY_METRICS
from registry.server.mqtt.delivery import DeliveryTest
from registry.server.mqtt.session import RECEIVE_MAXIMUM, BridgeSession, DeliveryOutcome, PendingPublish
from registry.services.fleet.desired import NEWEST, Publication, Unpublished
from registry.services.intake.budgets import IntakeBudgets
from registry.services.telemetry import Telemetry


@dataclass(frozen=True)
class Received:
    """A message that was checked. `intake` None: it was poison, it is only to be acknowledged, in its turn."""

    intake: DeviceMessage | None
    qos: int
    mid: int
    connection: int
    came: float = 0.0
    """Monotonic seconds."""
    device: str = ""
    """Of the topic."""


class Inbox:
    """Holds at most `limit` messages, those of each device in their order; devices take turns.

    Those of QoS 0 fill only what `reserve` leaves, so that they never push out messages that their senders rely on.
    Those of QoS 1 wait for room, up to `patience_s` each: whoever reads from the broker stops reading meanwhile, and
    the broker keeps the rest. The broker should never send so many; Mosquitto 2.0.11 forgets the Receive Maximum once
    messages have queued up for a client. Messages of different devices are acknowledged in another order than they came
    in: brokers find an acknowledged message by its identifier.
    """

    def __init__(self, limit: int, reserve: int, patience_s: float = 0.0) -> None:
        self._limit = limit
        self._reserve = reserve
        self._patience_s = patience_s
        self._closed = False
        self._waiting: dict[str, deque[Received]] = {}
        """By device, whose turn is next first."""
        self._count = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._count

    def oldest(self) -> float | None:
        """When the message came that has waited longest; None: none waits."""
        with self._changed:
            return min((waiting[0].came for waiting in self._waiting.values()), default=None)

    def put(self, message: Received) -> bool:
        """False: there is no room; the message is not taken, and not acknowledged either."""
        most = self._limit - (self._reserve if message.qos == 0 else 0)
        patience = self._patience_s if message.qos else 0.0
        with self._changed:
            there_is_room = self._changed.wait_for(lambda: self._closed or self._count < most, patience)
            if not there_is_room or self._closed:
                return False
            self._waiting.setdefault(message.device, deque()).append(message)
            self._count += 1
            self._changed.notify_all()
            return True

    def take(self, most: int, gather_s: float, wait_s: float) -> list[Received]:
        """Up to `most` messages: what came within `gather_s` seconds of the first; empty after `wait_s` without one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count, wait_s):
                return []
            deadline = time.monotonic() + gather_s
            while self._count < most and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            taken = [self._next() for _ in range(min(most, self._count))]
            self._changed.notify_all()
            return taken

    def _next(self) -> Received:
        device = next(iter(self._waiting))
        waiting = self._waiting.pop(device)
        message = waiting.popleft()
        if waiting:
            self._waiting[device] = waiting
        self._count -= 1
        return message

    def close(self) -> None:
        """Nothing is taken any more, and nobody waits for room."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


BATCH = 1000
GATHER_S = 0.05
INBOX = 4000
PATIENCE_S = 3.0
"""A message of QoS 1 waits so long for room in the inbox; less than the shortest keepalive."""
IDLE_S = 1.0
PUBLISH_BATCH = 200
PUBLISH_RATE = 2000.0
"""Documents a second at most, so that a fleet-wide change does not starve the broker."""
PUBLISH_TIMEOUT_S = 10.0
RETRY = Backoff(first_s=0.1, cap_s=5.0)
"""After the broker refused a document, and at most between two tries to reach the database."""
JOIN_S = 5.0
"""For each thread at the end; a thread that hangs in the database is left behind, its batch not acknowledged."""
RETAINED_KINDS = ("desired", "presence", "reported")
PROOFS = 3
NOTICE_PAUSE_S = 20.0
MAX_NOTICED = 1 << 17
"""Devices of which is known when they were asked last."""
TEMPORARY = (TemporaryError, OSError, MemoryError)
"""The registry's own condition; the same messages pass later. The database logs and counts it."""
log = logging.getLogger(__name__)


BRIDGE_METRICS = {name: metric for name, metric in REGISTRY_METRICS.items() if name.startswith("registry_mqtt_")}
OUTCOMES = {
    "registry_mqtt_messages": ("stored", "unknown", "repeated", "unrecorded", "poison", "over_share", "dropped"),
    "registry_mqtt_documents": ("published", "refused", "too_large"),
}
"""Labels that are shown from the start, at 0."""


class MqttBridge:
    """Runs from `start` to `stop`; once."""

    def __init__(
        self,
        config: Mqtt,
        clock: Callable[[], datetime],
        telemetry: Telemetry,
        publication: Publication,
        *,
        probe: Callable[[], None],
        budgets: IntakeBudgets,
    ) -> None:
        """`probe` writes something to the database; it raises when that fails."""
        self._budgets = budgets
        self._topics = Topics(config.prefix)
        self._clock = clock
        self._telemetry = telemetry
        self._publication = publication
        self._probe = probe
        self._inbox = Inbox(INBOX, reserve=2 * RECEIVE_MAXIMUM, patience_s=PATIENCE_S)
        self._missed: int | None = None
        """The connection on which a message of QoS 1 could not be taken."""
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._notices_lock = threading.Lock()
        self._notices: dict[str, Notice] = {}
        self._noticed: dict[str, float] = {}
        subscriptions = [self._topics.device("+", kind) for kind in KINDS if kind != "results"]
        subscriptions.append(self._topics.results("+", "+"))
        self.counters = Counters(BRIDGE_METRICS)
        for name, outcomes in OUTCOMES.items():
            for outcome in outcomes:
                self.counters.add(name, 0, outcome)
        self._delivery = DeliveryTest(self._topics)
        self._session = BridgeSession(config, subscriptions, self._received, self._wake.set, self.counters)
        self._writer = threading.Thread(target=self._write, name="mqtt-writer", daemon=True)
        self._publisher = threading.Thread(target=self._publish, name="mqtt-publisher", daemon=True)
        publication.listen(self._wake.set)

    @property
    def queued(self) -> int:
        """Messages that wait for the writer."""
        return len(self._inbox)

    @property
    def waits_s(self) -> float:
        """How long the first of them has waited."""
        oldest = self._inbox.oldest()
        return 0.0 if oldest is None else max(time.monotonic() - oldest, 0.0)

    def certificate(self) -> bytes | None:
        """Of the broker, DER, on the connection that there is now; None without TLS or connection."""
        return self._session.certificate()

    @property
    def connected(self) -> bool:
        """Connected and subscribed."""
        return self._session.ready

    def renew(self, config: Mqtt) -> None:
        """Take the broker's credentials as they are now, in these settings and the files that they name."""
        self._session.renew(config)

    @property
    def problem(self) -> str:
        """Why it is not connected, or what the broker does not let it do; empty when all is well."""
        return self._session.error

    def test_delivery(self, timeout_s: float) -> float | str:
        """Seconds that a message took to the broker and back; or why it did not come back."""
        return self._delivery.run(self._wake.set, timeout_s)

    def start(self) -> None:
        """Begin; returns at once, whether the broker is there or not."""
        self._writer.start()
        self._publisher.start()
        self._session.start()

    def stop(self) -> None:
        """End. What was not stored was not acknowledged: the broker keeps it."""
        self._stopping.set()
        self._wake.set()
        self._inbox.close()
        self._writer.join(JOIN_S)  # before the connection goes: it acknowledges what it has just stored
        self._session.stop()
        self._publisher.join(JOIN_S)

    def _received(self, message: paho.MQTTMessage, connection: int) -> None:
        """In paho's thread. Checks here, so that the inbox never holds a large result that is not kept."""
        intake, device = None, ""
        if self._delivery.is_it(message.topic):  # to be acknowledged in its turn, and nothing else
            self._inbox.put(Received(None, message.qos, message.mid, connection, time.monotonic()))
            return
        try:
            device, kind, model = self._topics.parse_device(message.topic) or ("", "", "")
            if not self._budgets.spend(device, kind, len(message.payload)):
                self.counters.add("registry_mqtt_messages", label="over_share")
                if message.qos and connection != self._missed:
                    self._session.ack(message.mid, connection)
                return
            user = {name.lower(): value for name, value in getattr(message.properties, "UserProperty", ())}
            intake = read_message(
                device,
                kind,
                model,
                bytes(message.payload),
                self._clock(),
                retained=message.retain,
                content_type=getattr(message.properties, "ContentType", ""),
                header_length=user.get(HEADER_LENGTH_PROPERTY, ""),
            )
        except ValueError as error:
            self.counters.add("registry_mqtt_messages", label="poison")
            log.warning("MQTT: dropped a message on %.200s: %.500s", message.topic, error)
        except MemoryError:
            self._miss(message.qos, connection)
            return
        except Exception:
            self.counters.add("registry_mqtt_messages", label="poison")
            log.exception("MQTT: dropped a message that broke its reader")
        if message.qos and connection == self._missed:
            self.counters.add("registry_mqtt_messages", label="dropped")  # in its turn, after the one that was missed
        elif not self._inbox.put(Received(intake, message.qos, message.mid, connection, time.monotonic(), device)):
            self._miss(message.qos, connection)

    def _miss(self, qos: int, connection: int) -> None:
        """A message that could not be taken. At QoS 1 nothing more is taken of its connection, so that all come again
        in their order on the next one, which the writer asks for when it has stored the others."""
        self.counters.add("registry_mqtt_messages", label="dropped")
        if qos:
            self._missed = connection

    def _write(self) -> None:
        while not self._stopping.is_set():
            self._store(self._inbox.take(BATCH, GATHER_S, IDLE_S))
            if self._missed is not None and not self.queued:
                self._session.cut(self._missed)

    def _store(self, batch: Sequence[Received]) -> None:
        """Store and acknowledge, in order; one by one when they do not go together."""
        retries, failed = 0, 0
        while True:
            error = self._try(batch)
            if error is None:
                break
            if not isinstance(error, TEMPORARY) and len(batch) > 1:
                for message in batch:
                    self._store([message])
                return
            if not isinstance(error, TEMPORARY) and self._database_works():
                failed += 1
                if failed == PROOFS:
                    self.counters.add("registry_mqtt_messages", label="poison")
                    log.error("MQTT: dropped a message that cannot be stored", exc_info=error)
                    break
                continue
            self.counters.add("registry_mqtt_database_retries")
            retries += 1
            if self._stopping.wait(RETRY.delay(retries)):
                return
        for message in batch:
            if message.qos:
                self._session.ack(message.mid, message.connection)

    def _try(self, batch: Sequence[Received]) -> Exception | None:
        """Store them in one transaction; why that failed."""
        intakes = [message.intake for message in batch if message.intake is not None]
        if not intakes:
            return None
        if self._stopping.is_set():
            return TemporaryError("The bridge stops.")
        try:
            taken = self._telemetry.take(intakes)
        except Exception as error:  # noqa: BLE001 - whatever it was, its caller judges it
            return error
        for outcome in OUTCOMES["registry_mqtt_messages"][:4]:
            self.counters.add("registry_mqtt_messages", getattr(taken, outcome), outcome)
        self._ask_facts(taken.facts_wanted)
        return None

    def _ask_facts(self, devices: Collection[str]) -> None:
        """At most once in NOTICE_PAUSE_S each; who does not answer is asked again with his next report."""
        if not devices:
            return
        now = time.monotonic()
        with self._notices_lock:
            if len(self._noticed) > MAX_NOTICED:
                self._noticed.clear()
            for device in devices:
                if self._noticed.get(device, float("-inf")) + NOTICE_PAUSE_S <= now:
                    self._noticed[device] = now
                    self._notices[device] = Notice(device=device, facts_wanted=True)
        self._wake.set()

    def _send_notices(self) -> None:
        """What is lost is asked for again: the state that called for it is still there."""
        with self._notices_lock:
            notices, self._notices = list(self._notices.values()), {}
        for start in range(0, len(notices), PUBLISH_BATCH):
            some = notices[start : start + PUBLISH_BATCH]
            messages = [
                PendingPublish(self._topics.device(n.device, "notice"), n.canonical(), retain=False) for n in some
            ]
            answers = self._session.publish(messages, PUBLISH_TIMEOUT_S)
            taken = answers.count(DeliveryOutcome.TAKEN)
            self.counters.add("registry_mqtt_notices", taken)
            if self.counters.add("registry_mqtt_notices_refused", len(answers) - taken):
                log.error("MQTT: the broker did not take a notice to a device; more of these are only counted")

    def _database_works(self) -> bool:
        try:
            self._probe()
        except Exception:  # noqa: BLE001 - then nothing is proven
            return False
        return True

    def _publish(self) -> None:
        complete = True
        while not self._stopping.is_set():
            self._wake.wait(IDLE_S if complete else RETRY.cap_s)
            self._wake.clear()
            if not self._session.ready:
                continue
            try:
                self._send_test()
                complete = self._publish_all()
            except TemporaryError:
                complete = False
            except Exception:
                log.exception("MQTT: publishing desired documents failed; trying again")
                complete = False

    def _send_test(self) -> None:
        message = self._delivery.take()
        if message is not None and self._session.publish([message], PUBLISH_TIMEOUT_S) != [DeliveryOutcome.TAKEN]:
            self._delivery.refuse()

    def _publish_all(self) -> bool:
        """One pass over what is to be published; False when something of it was refused."""
        if self._session.take_lost():
            try:
                self._publication.forget()
            except Exception:
                self._session.lost_again()
                raise
        self._send_notices()
        complete = self._clear_deleted()
        after = NEWEST
        while not self._stopping.is_set() and self._session.ready:
            began = time.monotonic()
            if complete and self._wake.is_set():  # something newer goes first; not what was refused, again and again
                self._wake.clear()
                after = NEWEST
            pending = self._publication.pending(after, PUBLISH_BATCH)
            if pending:
                complete &= self._publish_batch(pending)
            if len(pending) < PUBLISH_BATCH:
                break
            after = pending[-1].place
            self._stopping.wait(max(0.0, len(pending) / PUBLISH_RATE - (time.monotonic() - began)))
        return complete

    def _publish_batch(self, documents: Sequence[Unpublished]) -> bool:
        messages = [
            PendingPublish(
                self._topics.device(d.device, "desired"),
                d.document,
                traceparent=tracing.recalled(d.device, d.generation),
            )
            for d in documents
        ]
        answers = self._session.publish(messages, PUBLISH_TIMEOUT_S)
        done = [
            document for document, answer in zip(documents, answers, strict=True) if answer is DeliveryOutcome.TAKEN
        ]
        large = [
            document for document, answer in zip(documents, answers, strict=True) if answer is DeliveryOutcome.TOO_LARGE
        ]
        told = [document for document in large if self._tell_to_ask(document)]
        self._publication.acknowledged([*done, *told])
        self._count_documents(len(done), len(documents) - len(done) - len(told))
        return len(done) + len(told) == len(documents)

    def _count_documents(self, published: int, refused: int) -> None:
        self.counters.add("registry_mqtt_documents", published, "published")
        if self.counters.add("registry_mqtt_documents", refused, "refused"):
            log.error("MQTT: the broker did not take a desired document; it is tried again, more are only counted")

    def _tell_to_ask(self, document: Unpublished) -> bool:
        """The broker does not take a document so long: its device gets it over HTTP, now or at its next poll; what was
        retained for it is out of date and goes. False: the broker did not take that either."""
        device = document.device
        notice = Notice(device=device, poll=True).canonical()
        messages = [
            PendingPublish(self._topics.device(device, "desired"), b""),
            PendingPublish(self._topics.device(device, "notice"), notice, retain=False),
        ]
        if any(answer is DeliveryOutcome.REFUSED for answer in self._session.publish(messages, PUBLISH_TIMEOUT_S)):
            return False
        self.counters.add("registry_mqtt_documents", label="too_large")
        log.warning(
            "MQTT: the desired state of %s has %d bytes, the broker takes packets of %d: it is told to ask over HTTP",
            device,
            len(document.document),
            self._session.limits.maximum_packet or 0,
        )
        return True

    def _clear_deleted(self) -> bool:
        while devices := self._publication.deleted(PUBLISH_BATCH // len(RETAINED_KINDS)):
            topics = [self._topics.device(device, kind) for device in devices for kind in RETAINED_KINDS]
            answers = self._session.publish([PendingPublish(topic, b"") for topic in topics], PUBLISH_TIMEOUT_S)
            if any(answer is DeliveryOutcome.REFUSED for answer in answers):
                self._count_documents(0, answers.count(DeliveryOutcome.REFUSED))
                return False
            self._publication.cleared(devices)
        return True
