"""Simulated devices beside the registry's own services, in one process and on a clock that is turned by hand.

No broker, no HTTP, no waiting: a day passes in as long as its events take. What a device publishes is checked and
stored as from a topic; its desired document is what the registry would have retained. One thread.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent.core.slots import Choice
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.fit.platforms import Platform
from registry.contracts.topics import Topics
from registry.contracts.wire import Digest
from registry.core.intake import read_message
from registry.services.fleet.desired import DesiredDocuments
from registry.services.fleet.devices import Devices
from registry.services.rollouts.ticker import Ticker
from registry.services.telemetry import Telemetry
from scripts.simulator.device import SimulatedDevice
from scripts.simulator.faults import Fault, Faults
from scripts.simulator.host import SimulatedSteps

TICK_S = 900.0
"""How often the registry looks at rollouts by the clock. What devices say is looked at within a second."""
HEALTH_S = 3600.0


@dataclass(frozen=True)
class Services:
    """Of a registry, and how its manifests are had."""

    documents: DesiredDocuments
    devices: Devices
    telemetry: Telemetry
    ticker: Ticker
    manifest: Callable[[Digest], Manifest]


@dataclass
class InProcessLink:
    """A device's way to the registry: a call."""

    network: InProcess
    name: str
    device: SimulatedDevice | None = None
    connected: bool = False
    etag: str = ""
    """Of the desired document that it was given in this session."""
    _will: bytes = b""
    _waiting: list[tuple[str, bytes]] = field(default_factory=list)

    def connect(self, birth: bytes, death: bytes) -> None:
        """As `Link` says."""
        self.connected, self.etag, self._will = True, "", death
        self.network.take(self.network.topics.device(self.name, "presence"), birth)
        for topic, payload in self._waiting:
            self.network.take(topic, payload)
        self._waiting.clear()
        if self.device is not None:
            self.device.connected()

    def disconnect(self) -> None:
        """As `Link` says."""
        self.connected = False
        self.network.take(self.network.topics.device(self.name, "presence"), self._will)
        if self.device is not None:
            self.device.disconnected()

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """As `Link` says; of a retained topic only the newest waits."""
        if self.connected:
            self.network.take(topic, payload)
            return
        self._waiting = [each for each in self._waiting if not retain or each[0] != topic] + [(topic, payload)]

    def deliver(self) -> None:
        """The desired document, unless it has it."""
        if self.connected and self.device is not None:
            document = self.network.services.documents.load(self.name)
            if document.digest != self.etag:
                self.etag = document.digest
                self.device.message(self.network.topics.device(self.name, "desired"), document.body)


class InProcess:
    """`add` and boot devices, then `advance`."""

    def __init__(self, services: Services, start: datetime, faults: Faults | None = None, seed: int = 1) -> None:
        self.services = services
        self.topics = Topics("simulated/v1")
        self.devices: dict[str, SimulatedDevice] = {}
        self._faults, self._seed = faults or Faults(), seed
        self._start, self._seconds, self._next_tick = start, 0.0, 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._awake: deque[SimulatedDevice] = deque()
        self._links: list[InProcessLink] = []
        self._heard = False

    def seconds(self) -> float:
        """As `device.Time` says."""
        return self._seconds

    def now(self) -> datetime:
        """As `device.Time` says."""
        return self._start + timedelta(seconds=self._seconds)

    def call_at(self, seconds: float, call: Callable[[], None]) -> None:
        """As `device.Time` says."""
        heapq.heappush(self._due, (seconds, next(self._numbers), call))

    def take(self, topic: str, payload: bytes) -> None:
        """What came on a topic, as the registry's bridge takes it."""
        place = self.topics.parse_device(topic)
        assert place is not None, topic
        device, kind, model = place
        self.services.telemetry.take([read_message(device, kind, model, payload, self.now())])
        self._heard = True

    def add(self, name: str, platform: Platform, fault: Fault = Fault.NONE, **labels: str) -> SimulatedDevice:
        """Registers a device and makes it; `boot` starts it."""
        self.services.devices.put(name, labels, self.now())
        link = InProcessLink(self, name)
        steps = SimulatedSteps(
            platform=platform, manifest=self.services.manifest, fetch=_arrives, fault=fault, faults=self._faults
        )
        device = link.device = self.devices[name] = SimulatedDevice(
            name,
            topics=self.topics,
            time=self,
            seed=self._seed,
            faults=self._faults,
            steps=steps,
            link=link,
            uplink=None,
            uplink_pool=None,
            wake=self._awake.append,
            health_s=HEALTH_S,
            traffic_s=60.0,
            poll_s=HEALTH_S,
        )
        self._links.append(link)
        return device

    def advance(self, seconds: float) -> None:
        """So much simulated time passes."""
        end = self._seconds + seconds
        while True:
            self._settle()
            at = min(self._due[0][0] if self._due else end, self._next_tick, end)
            self._seconds = max(self._seconds, at)
            if self._seconds >= end:
                return
            if self._next_tick <= self._seconds:
                self._look()
            while self._due and self._due[0][0] <= self._seconds:
                heapq.heappop(self._due)[2]()

    def advance_until(self, true: Callable[[], bool], seconds: float, step_s: float = 10.0) -> bool:
        """Until it is true, at most so much simulated time; whether it became true."""
        end = self._seconds + seconds
        while not true():
            if self._seconds >= end:
                return False
            self.advance(step_s)
        return True

    def _settle(self) -> None:
        """What happened now has its consequences: devices turn, the registry looks, documents arrive."""
        while self._awake or self._heard:
            while self._awake:
                self._awake.popleft().turn()
            if self._heard:
                self._look()

    def _look(self) -> None:
        self._heard, self._next_tick = False, self._seconds + TICK_S
        self.services.ticker.plan(self.now)
        self.services.ticker.tick(self.now())
        for link in self._links:
            link.deliver()


def _arrives(_choice: Choice) -> None:
    """A download: only its time passes."""
