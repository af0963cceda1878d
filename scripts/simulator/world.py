"""Many simulated devices in one thread: their clock, their connections, what they get from the registry.

Time may run faster than the wall clock (`speed`), so that a day offline passes in a minute. It stands still while a
device is turned: whatever keeps this process off its core, a device sees no time pass in which it did nothing. Registry
and broker keep their own time.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from agent.adapters.network.registry_client import RegistryClient
from agent.core.slots import Choice
from agent.errors import TransientError
from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.errors import ClientError
from registry.contracts.api.devices import DeviceCreate, DeviceCreated
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import blob_path, device_path, manifest_path
from registry.contracts.topics import DEFAULT_PREFIX, Topics
from registry.contracts.wire import Digest, digest_of
from scripts.simulator.device import SimulatedDevice
from scripts.simulator.faults import Faults, chance
from scripts.simulator.host import SimulatedSteps
from scripts.simulator.mqtt import MqttLinks

if TYPE_CHECKING:
    from collections.abc import Iterable

CLOSE_S = 10.0
FETCH_LIMIT = 1 << 20
"""Blobs up to this size are really downloaded by every device; of larger ones only the time passes."""


@dataclass(frozen=True)
class Settings:
    """Of one world."""

    registry: str
    token: str
    """Of a person who may register devices."""
    broker: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: str | None = None
    prefix: str = DEFAULT_PREFIX
    speed: float = 1.0
    seed: int = 1
    health_s: float = 30.0
    faults: Faults = field(default_factory=Faults)
    labels: dict[str, str] = field(default_factory=dict)
    fetch_blobs: bool = True


class World:
    """`add` devices, then `run`. One thread, but for HTTP."""

    def __init__(self, settings: Settings, platforms: Iterable[Platform]) -> None:
        self.settings = settings
        self.topics = Topics(settings.prefix)
        self.devices: dict[str, SimulatedDevice] = {}
        self._platforms = tuple(platforms)
        self._began = time.monotonic()
        self._seconds = 0.0
        self._epoch = datetime.fromtimestamp(time.time(), timezone.utc)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._awake: deque[SimulatedDevice] = deque()
        self._links = MqttLinks(
            settings.broker, settings.port, self.topics, username=settings.username, password=settings.password
        )
        self._client = ApiClient(Address(settings.registry.rstrip("/"), settings.token))
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="uplink")
        self._uplinks: list[RegistryClient] = []
        self._manifests: dict[Digest, Manifest] = {}
        self._lock = threading.Lock()
        self.errors: Counter[str] = Counter()

    # --- the clock ------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Simulated, since the world began."""
        return self._seconds

    def _move_on(self) -> float:
        self._seconds = (time.monotonic() - self._began) * self.settings.speed
        return self._seconds

    def now(self) -> datetime:
        """Simulated, UTC."""
        return self._epoch + timedelta(seconds=self.seconds())

    def call_at(self, seconds: float, call: Callable[[], None]) -> None:
        """As `device.Time` says."""
        heapq.heappush(self._due, (seconds, next(self._numbers), call))

    def _wake(self, device: SimulatedDevice) -> None:
        self._awake.append(device)

    # --- devices --------------------------------------------------------------------------------------------------

    def add(self, name: str) -> SimulatedDevice:
        """Registers a device, with the labels of the settings and its own, and makes it; `boot` starts it."""
        settings = self.settings
        labels = {"simulated": "yes", "fault": settings.faults.of(name, settings.seed).value, **settings.labels}
        answer = self._client.send("PUT", device_path(name), DeviceCreate(labels=labels))
        token = answer.decode(DeviceCreated).token if answer.status == 201 else None
        platform = self._platforms[int(chance(settings.seed, name, "platform") * len(self._platforms))]
        steps = SimulatedSteps(
            platform=platform,
            manifest=self._manifest,
            fetch=self._fetch,
            fault=settings.faults.of(name, settings.seed),
            faults=settings.faults,
        )
        link = self._links.link(name, lambda delay, call: self.call_at(self.seconds() + delay * settings.speed, call))
        uplink = None
        if token is not None:  # Registered before: its credential is not known here, MQTT is its only way.
            uplink = RegistryClient(settings.registry, name, token=token, ca_file=None, timeout_s=20)
            self._uplinks.append(uplink)
        device = SimulatedDevice(
            name,
            topics=self.topics,
            time=self,
            seed=settings.seed,
            faults=settings.faults,
            steps=steps,
            link=link,
            uplink=uplink,
            uplink_pool=self._pool,
            wake=self._wake,
            health_s=settings.health_s,
            traffic_s=min(5.0, settings.health_s),
        )
        link.device = device
        self.devices[name] = device
        return device

    def _manifest(self, digest: Digest) -> Manifest:
        with self._lock:
            if digest not in self._manifests:
                with self._asking():
                    data = self._client.call("GET", manifest_path(digest), repeatable=True).body
                if digest_of(data) != digest:
                    raise TransientError(DeploymentCode.DIGEST_MISMATCH, f"manifest {digest} has other bytes")
                self._manifests[digest] = Manifest.model_validate_json(data)
            return self._manifests[digest]

    def _fetch(self, choice: Choice) -> None:
        for file in choice.variant.files:
            if self.settings.fetch_blobs and file.size <= FETCH_LIMIT:
                with self._asking(), self._client.download(blob_path(file.digest), {}) as answer:
                    data = answer.read()
                if digest_of(data) != file.digest:
                    raise TransientError(DeploymentCode.DIGEST_MISMATCH, f"blob {file.digest} has other bytes")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A request to the registry that fails is an outage for the device."""
        try:
            yield
        except ClientError as error:
            self.errors["http"] += 1
            raise TransientError(DeploymentCode.REGISTRY_UNREACHABLE, str(error)) from None

    # --- running --------------------------------------------------------------------------------------------------

    def run_until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Turns until `true()` or so many seconds of the wall clock are over; which of them it was."""
        deadline = time.monotonic() + seconds
        next_misc = 0.0
        while not true():
            now = time.monotonic()
            if now >= deadline:
                return False
            if now >= next_misc:
                next_misc = now + 5.0
                self._links.keep_alive()
            self.turn()
        return True

    def turn(self, idle_s: float = 0.02) -> None:
        """Everything that is due now, and what came; waits at most `idle_s` when there is nothing."""
        now = self._move_on()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        for _ in range(len(self._awake)):
            self._move_on()
            self._awake.popleft().turn()
        self._links.turn(0.0 if self._awake or (self._due and self._due[0][0] <= self._move_on()) else idle_s)

    def serving(self, model: str) -> Counter[str | None]:
        """How many devices answer with which version."""
        return Counter(device.serves(model) for device in self.devices.values())

    @property
    def messages(self) -> tuple[int, int, int]:
        """MQTT messages sent, received, dropped."""
        return self._links.sent, self._links.received, self._links.dropped

    def close(self) -> None:
        """Ends connections."""
        for link in self._links.links:
            link.disconnect()
        deadline = time.monotonic() + CLOSE_S
        while self._links.selector.get_map() and time.monotonic() < deadline:
            self._links.turn(0.05)
        self._links.selector.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for uplink in self._uplinks:
            uplink.close()
        self._client.close()
