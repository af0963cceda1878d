"""One simulated device: the agent's own reconciler over a simulated host, turned by hand, in simulated time.

INVARIANT: only the thread that turns the world calls `turn`; `put` may be called from any.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import uuid4

from agent.core.events import Connected, ControlMessage, Disconnected, Tick
from agent.core.slots import Choice
from agent.errors import TransientError
from agent.reconciler.context import Context, EventPublisher
from agent.reconciler.desired import DesiredState
from agent.reconciler.exchange import Exchange
from agent.reconciler.loop import Reconciler
from agent.reconciler.ports import Clock, Uplink
from registry.contracts.api.devices import DeviceReports
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import Health, Presence, Reported
from registry.contracts.fit.platforms import Platform
from registry.contracts.topics import Topics
from scripts.simulator.data_path import SimulatedDataPath
from scripts.simulator.faults import Fault, Faults, chance
from scripts.simulator.host import MemoryJournal, SimulatedSteps

SLOW_FACTOR = 20.0
BYTES_A_SECOND = 10e6
"""A device's download."""
LOAD_S = 1.0
FLAP_S = 20.0
"""A flapping device is there so long, then away for a quarter of it."""


class Link(Protocol):
    """A device's way to broker and registry."""

    def connect(self, birth: bytes, death: bytes) -> None:
        """Connects, and says so with `birth`; `death` is the will."""

    def disconnect(self) -> None:
        """The connection is lost, as by a cable: the broker publishes the will."""

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """QoS 1. Kept until there is a connection."""


class Time(Protocol):
    """Simulated time."""

    def seconds(self) -> float:
        """Since the world began."""

    def now(self) -> datetime:
        """UTC."""

    def call_at(self, seconds: float, call: Callable[[], None]) -> None:
        """Runs `call` in the world's thread, not before `seconds`."""


@dataclass
class _DelayedPool:
    """A pool whose work is done at once, and whose outcome comes later."""

    time: Time
    seconds: Callable[[], float]

    def submit(self, work: Callable[[], None], /) -> object:
        """As the reconciler's Pool says."""
        self.time.call_at(self.time.seconds() + self.seconds(), work)
        return None


@dataclass(frozen=True)
class _Network:
    """The way to the registry over HTTP, as long as the device is there."""

    is_there: Callable[[], bool]
    uplink: Uplink | None = None

    def check(self) -> None:
        """TransientError while it is away."""
        if not self.is_there():
            raise TransientError(DeploymentCode.REGISTRY_UNREACHABLE, "simulated: the device is away")

    def fetching(self, fetch: Callable[[Choice], None]) -> Callable[[Choice], None]:
        """A download that fails while it is away."""

        def fetch_here(choice: Choice) -> None:
            self.check()
            fetch(choice)

        return fetch_here

    def desired(self, etag: str | None) -> tuple[bytes, str | None] | None:
        """As `Uplink` says."""
        self.check()
        return self.uplink.desired(etag) if self.uplink else None

    def put_facts(self, facts: Platform) -> None:
        """As `Uplink` says."""
        self.check()
        if self.uplink:
            self.uplink.put_facts(facts)

    def post_reports(self, reports: DeviceReports) -> bool:
        """As `Uplink` says."""
        self.check()
        return self.uplink is not None and self.uplink.post_reports(reports)


class SimulatedDevice:
    """`boot`, then `turn` whenever `put` or the clock says so."""

    def __init__(
        self,
        name: str,
        *,
        topics: Topics,
        time: Time,
        seed: int,
        faults: Faults,
        steps: SimulatedSteps,
        link: Link,
        uplink: Uplink | None,
        uplink_pool: Any,
        wake: Callable[[SimulatedDevice], None],
        health_s: float,
        traffic_s: float,
        poll_s: float = 30.0,
    ) -> None:
        self.name = name
        self.fault = steps.fault
        self.journal = MemoryJournal()
        self.steps = steps
        self.link = link
        self.reported: Reported | None = None
        self._topics, self._time, self._seed, self._faults = topics, time, seed, faults
        self.there = False
        """Reached by broker and registry, and reaching them."""
        network = _Network(lambda: self.there, uplink)
        steps.fetch = network.fetching(steps.fetch)
        self._uplink = network if uplink is not None else None
        self._uplink_pool, self._wake = uplink_pool, wake
        self._health_s, self._traffic_s, self._poll_s = health_s, traffic_s, poll_s
        self._epoch = 0
        self._sequence = 0
        self._turns = 0

    def boot(self) -> None:
        """Starts the agent over its journal, and connects unless it is away."""
        self._epoch += 1
        self.session_id = uuid4().hex
        self._events: queue.Queue[Any] = queue.Queue()
        clock = Clock(self._time.now, self._time.seconds, lambda: chance(self._seed, self.name, str(self._sequence)))
        self.data_path = SimulatedDataPath(self._say, self.steps, self._time.seconds)
        factor = SLOW_FACTOR if self.fault is Fault.SLOW else 1.0
        self._context = Context(
            journal=self.journal,
            steps=self.steps,
            data_path=self.data_path,
            clock=clock,
            desired=DesiredState(self.name, self.journal),
            publisher=EventPublisher(self.name, self._topics, self.data_path, self.journal, clock),
            network=_DelayedPool(self._time, lambda: factor * self._download_s()),
            loads=_DelayedPool(self._time, lambda: factor * LOAD_S * (0.5 + self._dice("load"))),
            put=self.put,
            drain_timeout_s=1.0,
        )
        exchange = Exchange(self._context, self._uplink, self._uplink_pool) if self._uplink is not None else None
        self.reconciler = Reconciler(
            device=self.name,
            session_id=self.session_id,
            topics=self._topics,
            context=self._context,
            exchange=exchange,
            events=self._events,
            on_report=self._keep,
            make_health=self._health,
        )
        self.reconciler.begin()
        epoch = self._epoch
        self._every(self._health_s, lambda: self.put(Tick("health")), epoch)
        self._every(self._poll_s, lambda: self.put(Tick("poll")), epoch)
        self._every(self._traffic_s, self.data_path.catch_up, epoch)
        if self.fault is Fault.OFFLINE:
            self._time.call_at(self._time.seconds() + self._faults.offline_s, self.connect)
        else:
            self.connect()
            if self.fault is Fault.FLAPPING:
                self._time.call_at(self._time.seconds() + FLAP_S * self._dice("flap"), self._flap)
        self.turn()

    def connect(self) -> None:
        """It is there, and connects to the broker."""
        self.there = True
        birth = Presence(
            device=self.name, online=True, session_id=self.session_id, agent_version="simulated", at=self._time.now()
        )
        death = Presence(device=self.name, online=False, session_id=self.session_id)
        self.link.connect(birth.canonical(), death.canonical())

    def leave(self) -> None:
        """The network is gone, for MQTT and HTTP."""
        self.there = False
        self.link.disconnect()

    def _flap(self) -> None:
        self.leave()
        self._time.call_at(self._time.seconds() + FLAP_S / 4, self.connect)
        self._time.call_at(self._time.seconds() + FLAP_S, self._flap)

    def connected(self) -> None:
        """The broker has taken connection and subscription."""
        self.put(Connected(session_present=False))

    def disconnected(self) -> None:
        """The connection is gone."""
        self.put(Disconnected("simulated"))

    def message(self, topic: str, payload: bytes) -> None:
        """Something came on a control topic."""
        self.put(ControlMessage(topic, payload))

    def put(self, event: Any) -> None:
        """Into the control queue; the device is turned soon."""
        self._events.put_nowait(event)
        self._wake(self)

    def turn(self) -> None:
        """Answers requests, handles what came, looks, and asks to be turned again when something is due."""
        self.data_path.catch_up()
        self.reconciler.handle_waiting()
        self.reconciler.look()
        self._turns += 1
        turn = self._turns
        due = self._time.seconds() + self.reconciler.patience()
        # Only the newest turn's due counts, or every event would begin another chain of them.
        self._time.call_at(due, lambda: self._wake(self) if turn == self._turns else None)

    def serves(self, model: str) -> str | None:
        """The version that answers."""
        place = self.data_path.serving.get(model)
        return place.choice.version if place else None

    def _say(self, topic: str, payload: bytes, retain: bool) -> None:
        if self.fault is Fault.SILENT and self.steps.told_another and not topic.endswith("presence"):
            return
        self.link.publish(topic, payload, retain=retain)

    def _keep(self, reported: Reported) -> None:
        self.reported = reported

    def _every(self, seconds: float, call: Callable[[], None], epoch: int) -> None:
        def again() -> None:
            if epoch == self._epoch:
                call()
                self._time.call_at(self._time.seconds() + seconds, again)

        self._time.call_at(self._time.seconds() + seconds * self._dice("phase"), again)

    def _download_s(self) -> float:
        record = next(iter(self.journal.slots().values()), None)
        candidate = record.candidate if record else None
        size = 0 if candidate is None or candidate.variant_digest in self.steps.on_disk else candidate.variant.size
        return 0.05 + size / BYTES_A_SECOND

    def _dice(self, what: str) -> float:
        self._sequence += 1
        return chance(self._seed, self.name, what, str(self._sequence))

    def _health(self, restarts: Any) -> Health:
        self._sequence += 1
        return Health(
            device=self.name,
            session_id=self.session_id,
            seq=self._sequence,
            at=self._time.now(),
            window_s=self._health_s,
            uptime_s=self._time.seconds(),
            models=self.data_path.health(),
        )
