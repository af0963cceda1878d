"""The data thread: one selector over the broker's socket, the workers' doorbells and a wake-up socket, with timers.

A turn: read what has come, admit it, hand batches to workers, take their answers, bring the outbox up to date, send
everything in one piece. Nothing in it blocks but the outbox's fsync, and that only when messages cannot be delivered.
Other threads use the methods of `DataPlane`; all of them may be called from any thread.
"""

from __future__ import annotations

import logging
import queue
import random
import selectors
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from agent.adapters.disk.outbox import EVENT, NewMessage, Outbox
from agent.adapters.network.mqtt import MqttSession, SessionSettings
from agent.core.probation import Tally
from agent.dataplane.admission import Admission
from agent.dataplane.answers import Answers
from agent.dataplane.dedupe import Dedupe
from agent.dataplane.detections import Detections
from agent.dataplane.dispatch import Dispatch
from agent.dataplane.long_requests import LongRequests
from agent.dataplane.metadata import MetadataRequests
from agent.dataplane.mqtt.connection import Connection, Greeting, Notice
from agent.dataplane.mqtt.outbound import Outbound
from agent.dataplane.mqtt.spooling import Spooling
from agent.dataplane.oip.plan import Binding
from agent.dataplane.pool import DecodePool
from agent.dataplane.router import Router
from agent.dataplane.slot import Request, Tap
from agent.dataplane.stats import DataPlaneStats
from agent.pictures.process import PictureProcesses
from agent.worker.spec import Worker
from registry import tracing
from registry.contracts.counters import AGENT_METRICS, Counters
from registry.contracts.device.messages import ReportedModel
from registry.contracts.topics import Topics
from registry.inference.mqtt.fast import FastClient, FastLink, fast_path_fault
from registry.inference.mqtt.link import BrokerSocket, Link, PublicLink
from registry.inference.mqtt.wakeup import Wakeup


@dataclass(frozen=True)
class DataPlaneSettings:
    """Names, what is said to the broker, and limits."""

    device: str
    topics: Topics = field(default_factory=Topics)
    agent_version: str = ""
    """Of the agent's package."""
    birth: bytes = b""
    """The presence document of a device that is there; the will (MqttSettings) says the contrary."""
    death: bytes = b""
    """The presence document of a clean stop."""
    pools: tuple[tuple[str, str], ...] = ()
    """(pool, model): shared subscriptions that this device takes part in."""
    fast_path: bool = True
    """False: only paho's public API, whatever the installed paho can do."""
    decode_threads: int = 2
    dedupe_entries: int = 4096
    dedupe_bytes: int = 16 << 20
    dedupe_ttl_s: float = 300.0


TICK_SECONDS = 0.1
"""How often hung runs and keepalive are looked at."""
CALL_SECONDS = 5.0
"""How long another thread waits for the data thread; it answers within milliseconds when all is well."""
_log = logging.getLogger(__name__)


class DataPlane:
    """Serves requests from `start` to `stop`, whether the broker is there or not."""

    def __init__(
        self, settings: DataPlaneSettings, mqtt: SessionSettings, outbox: Outbox, events: queue.Queue[Any]
    ) -> None:
        self.settings = settings
        self._events = events
        self._outbox = outbox
        self._clock = time.monotonic
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        self._counters = Counters(AGENT_METRICS)
        self._spooling = Spooling(outbox, self._counters)
        self.data_path_reason = fast_path_fault()[:500] if settings.fast_path else "switched off in the configuration"
        self._wire(mqtt)
        self._thread = threading.Thread(target=self._run, name="data", daemon=True)

    def _wire(self, mqtt: SessionSettings) -> None:
        """Makes the parts and connects them."""
        settings = self.settings
        fast = not self.data_path_reason
        session = MqttSession(mqtt, *((FastClient,) if fast else ()))
        make_link = FastLink if fast else PublicLink
        self._link: Link = make_link(session.client, v5=mqtt.v5)
        dedupe: Dedupe[Request] = Dedupe(
            self._counters, settings.dedupe_entries, settings.dedupe_bytes, settings.dedupe_ttl_s
        )
        self._router = Router(settings.topics, settings.device, settings.pools)
        self._outbound = Outbound(
            self._link, self._spooling, counters=self._counters, is_clients=self._router.allows_reply
        )
        self._answers = Answers(self._outbound, dedupe, self._clock)
        self._pool = DecodePool(self._wakeup.post, settings.decode_threads)
        self._detecting = DecodePool(self._wakeup.post, settings.decode_threads, "detect")
        self._pictures = PictureProcesses()
        self._admission = Admission(
            router=self._router,
            outbound=self._outbound,
            answers=self._answers,
            dedupe=dedupe,
            pool=self._pool,
            decode_picture=self._pictures.decode,
            counters=self._counters,
            clock=self._clock,
        )
        if tracing.is_on():
            self._answers.recorder, self._admission.traced = tracing.Recorder(), True
        long_requests = LongRequests(self._admission)
        self._link.serve(long_requests, self._outbound.puback, self._outbound.unacknowledged)
        self._dispatch = Dispatch(
            selector=self._selector,
            admission=self._admission,
            long_requests=long_requests,
            answers=self._answers,
            discard_body=self._link.discard_body,
            emit=self._emit,
            clock=self._clock,
        )
        Detections(self._detecting, self._pictures.detect, self._answers, self._dispatch.released, self._clock)
        self._metadata = MetadataRequests(
            device=settings.device,
            agent_version=settings.agent_version,
            topics=settings.topics,
            pools=settings.pools,
            router=self._router,
            outbound=self._outbound,
            counters=self._counters,
            clock=self._clock,
            chance=random.random,
        )
        self._connection = Connection(
            greeting=self._greeting(),
            session=session,
            link=self._link,
            outbound=self._outbound,
            receiver=long_requests,
            spooling=self._spooling,
            metadata=self._metadata,
            emit=self._emit,
            post=self._wakeup.post,
            counters=self._counters,
            clock=self._clock,
        )
        session.events = self._connection
        self._client = session.client
        self._socket = BrokerSocket(self._selector, self._client, self._link)
        self._keepalive_tick = max(0.5, mqtt.broker.keepalive_s / 4)
        self._next_keepalive = 0.0
        self._stop_at: float | None = None
        """When it ends, whatever is left; None: it goes on."""
        self._offline_said = False

    def _greeting(self) -> Greeting:
        settings, topics = self.settings, self.settings.topics
        desired = topics.device(settings.device, "desired")
        notice = topics.device(settings.device, "notice")
        shared = (topics.shared_pool(pool, model) for pool, model in settings.pools)
        metadata = (
            topics.metadata(settings.device, "#"),
            *map(topics.pool_metadata, sorted({model for _, model in settings.pools})),
        )
        return Greeting(
            filters=(desired, notice, topics.infer(settings.device, "+"), *shared, *metadata),
            presence_topic=topics.device(settings.device, "presence"),
            birth=settings.birth,
            death=settings.death,
            control_topics=frozenset((desired, notice)),
        )

    # --- for other threads --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to serve; returns at once."""
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Answers what is in flight, says offline, disconnects. QoS 1 requests that still come are left to the broker,
        which delivers them again. After `deadline_s` it ends whatever is left. Idempotent."""
        if not self._thread.is_alive():
            return
        self._wakeup.post(lambda: self._begin_to_stop(deadline_s))
        self._thread.join(deadline_s + CALL_SECONDS)
        if self._thread.is_alive():
            _log.error("the data thread did not end within %.0f s", deadline_s + CALL_SECONDS)

    def swap(
        self, model: str, worker: Worker | None, binding: Binding | None, tally: Tally | None = None
    ) -> Future[Worker | None]:
        """Has `worker` serve the model from now on; None: the model is assigned, but nothing serves it (yet).

        `tally` counts what it does. The future has the worker that served before, drained, for the caller to close;
        None when there was none.
        It is fulfilled with the worker also when that dies while draining.
        """
        done: Future[Worker | None] = Future()

        def swap() -> None:
            try:
                slot = self._router.assign(model)
                old = slot.active
                leaving = slot.swap(worker, binding, tally)
                leaving.add_done_callback(lambda future: done.set_result(future.result()))
            except Exception as error:  # noqa: BLE001 - a binding that does not fit its worker: the caller's to handle
                done.set_exception(error)
                return
            if slot.active is not None:
                self._dispatch.watch(slot.active)
            if old is not None:
                self._dispatch.release_drained(old)

        self._wakeup.post(swap)
        return done

    def attach(self, model: str, tap: Tap) -> Future[None]:
        """Has `tap` see what the active worker of the model answers, until another one takes its place."""
        return self._wakeup.call(lambda: self._router.attach(model, tap))

    def detach(self, model: str, tap: Tap) -> Future[None]:
        """`tap` sees nothing any more once the future is fulfilled."""
        return self._wakeup.call(lambda: self._router.detach(model, tap))

    def rebind(self, model: str, worker: Worker, binding: Binding) -> None:
        """Has `worker`, if it still serves, go on under another binding: between two batches, without a swap."""
        self._wakeup.post(lambda: self._router.rebind(model, worker, binding))

    def withdraw(self, model: str) -> Future[Worker | None]:
        """As `swap` with nothing, and the model is not assigned any more: its requests are `unknown_model`."""
        done = self.swap(model, None, None)
        self._wakeup.call(lambda: self._router.withdraw(model))
        return done

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> None:
        """A control document. The newest of each retained topic is sent again on every connection; others are dropped
        while there is none."""
        self._wakeup.post(lambda: self._connection.publish(topic, payload, qos, retain=retain))

    def publish_durable(self, topic: str, payload: bytes) -> None:
        """An event: on disk when this returns, sent at QoS 1 in order, removed when the broker has taken it.

        Raises:
            TransientError: the disk did not take it.
        """
        self._outbox.add([NewMessage(EVENT, topic.encode(), b"", payload)])
        self._wakeup.post(lambda: None)

    def take_reports(self, reports: Mapping[str, ReportedModel]) -> None:
        """What the control thread says of the models, for metadata of those that do not serve."""
        self._wakeup.post(lambda: setattr(self._metadata, "reports", reports))

    def renew_credentials(self) -> None:
        """Connects again when the broker's credentials on the disk are others than the connection was made with."""
        self._wakeup.post(self._connection.renew_credentials)

    def snapshot(self) -> DataPlaneStats:
        """What was counted so far. Raises concurrent.futures.TimeoutError when the data thread does
        not answer, or has ended."""
        return self._wakeup.call(self._snapshot).result(CALL_SECONDS)

    def _snapshot(self) -> DataPlaneStats:
        figures: dict[str, dict[tuple[str, ...], float]] = self._counters.figures()
        outbound, outbox, router = self._outbound, self._outbox, self._router
        figures["outbox_dropped"][()] += outbox.dropped
        figures["unassigned_refused"] = {(code,): count for code, count in router.unassigned.stats.errors.items()}
        for name, value in (
            ("outbox_queued", outbox.rows),
            ("outbox_bytes", outbox.bytes),
            ("results_unwritten", self._spooling.unwritten()),
            ("unacknowledged", len(outbound.unacknowledged) + outbound.waiting()),
            ("mqtt_connected", self._connection.open),
        ):
            figures[name] = {(): float(value)}
        path = "public" if self.data_path_reason else "fast"
        figures["data_path_info"] = {(path, self.data_path_reason): 1}
        return DataPlaneStats(
            connected=self._connection.open,
            data_path=path,
            data_path_reason=self.data_path_reason,
            broker_fault=self._connection.fault,
            figures=figures,
            models={name: slot.snapshot() for name, slot in router.slots.items()},
            withdrawn={name: stats.snapshot() for name, stats in router.counted.items()},
        )

    # --- the data thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._selector.register(self._wakeup.socket, selectors.EVENT_READ, lambda _events: self._wakeup.run())
        next_tick = 0.0
        try:
            while not self._is_over():
                next_tick = self._turn(next_tick)
        finally:
            self._pool.close()
            self._detecting.close()
            self._pictures.close()
            self._connection.disconnect()
            self._spooling.finish()
            self._selector.close()
            self._wakeup.close()

    def _begin_to_stop(self, deadline_s: float) -> None:
        """Takes no new requests from now on. Idempotent: the first deadline holds."""
        if self._stop_at is None:
            self._stop_at = self._clock() + deadline_s
            self._admission.stopping = True

    def _is_over(self) -> bool:
        """True once it was told to stop and nothing is left to wait for: answers to what is in flight, "offline", and
        what is on its way to the broker. All of it by the deadline."""
        if self._stop_at is None:
            return False
        if self._clock() >= self._stop_at:
            return True
        if any(each.in_flight() for slot in self._router.live() for each in slot.servings()):
            return False
        if not self._offline_said:
            self._offline_said = True
            self._connection.say_offline()
            self._flush()
        return not self._connection.open or not (self._outbound.unacknowledged or self._outbound.waiting())

    def _turn(self, next_tick: float) -> float:
        """One round. A fault in it is logged and costs one message at most, not the agent."""
        try:
            now = self._clock()
            at_once = self._socket.more or self._dispatch.again or self._metadata.busy
            timeout = 0.0 if at_once else max(0.0, next_tick - now)
            events = self._selector.select(timeout)
            self._admission.now = now = self._clock()
            if self._wakeup.waiting:  # before the socket: what was asked before a request came holds for it
                self._wakeup.run()
            self._socket.read_rest()
            for key, mask in events:
                key.data(mask)
            self._dispatch.run()
            self._metadata.run(now)
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                self._tick(now)
            if self._connection.open:
                self._spooling.replay(self._outbound.send, self._outbound.muted)
            self._spooling.end_turn(self._outbound.acks.settle)
            self._flush()
        except Exception:  # noqa: BLE001 - see above; logged with its traceback
            _log.exception("a turn of the data thread failed")
        return next_tick

    def _tick(self, now: float) -> None:
        self._connection.due(now)
        self._dispatch.check(self._router.live(), now)
        if now >= self._next_keepalive and not self._connection.connecting:
            stated = self._connection.limits.keepalive_s
            tick = self._keepalive_tick if stated is None else min(self._keepalive_tick, max(0.25, stated / 4))
            self._next_keepalive = now + tick
            self._link.alive()
            self._client.loop_misc()

    def _flush(self) -> None:
        """Sends everything that is ready."""
        if not self._connection.connecting:
            self._socket.flush()

    def _emit(self, notice: Notice) -> None:
        try:
            self._events.put_nowait(notice)
        except queue.Full:
            self._counters.add("notices_dropped")
            _log.error("the control thread is behind: %s was dropped", type(notice).__name__)
