"""A data path with fake workers, connected to a broker: what the integration tests of the data path start from."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.adapters.disk.outbox import Outbox
from agent.adapters.network.mqtt import SessionSettings
from agent.config.sections import MqttSettings
from agent.core.events import Connected
from agent.dataplane.loop import DataPlane, DataPlaneSettings
from registry.certificates import TlsFiles
from registry.contracts.topics import Topics
from tests.fakes.workers import FakeWorker, binding_for

_numbers = itertools.count()
BIRTH = b'{"online":true}'
DEATH = b'{"online":false}'


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Polls until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.005)


class Serving:
    """One device with its data path. Topics have a prefix of their own, so that tests can share a broker."""

    def __init__(
        self,
        port: int,
        folder: Path,
        *,
        fast: bool = True,
        protocol: int = 5,
        keepalive_s: int = 30,
        outbox_rows: int = 100_000,
        tls: TlsFiles | None = None,
        host: str = "127.0.0.1",
        inherit: Serving | None = None,
        prefix: str = "",
        pools: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.name = inherit.name if inherit is not None else f"dev{next(_numbers)}"
        self.topics = Topics(prefix or f"test/{self.name}")
        self.outbox = Outbox(folder / f"{self.name}.db", rows=outbox_rows)
        self.events: queue.Queue[Any] = queue.Queue(1000)
        broker = MqttSettings(host=host, port=port, protocol="5" if protocol == 5 else "3.1.1", session_expiry_s=86400)
        broker = broker.model_copy(update={"keepalive_s": keepalive_s})  # less than the settings allow
        if tls is not None:
            broker = broker.model_copy(update={"tls": True, **vars(tls)})
        self.mqtt = SessionSettings(broker, self.name, self.topics.device(self.name, "presence"), DEATH)
        settings = DataPlaneSettings(self.name, self.topics, birth=BIRTH, death=DEATH, pools=pools, fast_path=fast)
        self.plane = DataPlane(settings, self.mqtt, self.outbox, self.events)
        self.workers: list[FakeWorker] = []

    def start(self) -> Serving:
        """Begins, and waits until the broker has taken the subscriptions."""
        self.plane.start()
        self.connected()
        return self

    def connected(self) -> None:
        """Until the next Connected event."""
        self.event(Connected)

    def event(self, kind: type, seconds: float = 60.0) -> Any:
        """The next event of that kind; others are passed over."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            if isinstance(found, kind):
                return found

    def serve(self, worker: FakeWorker, model: str = "double", **binding: Any) -> Any:
        """Has the worker serve `model`; returns the future of the one before."""
        self.workers.append(worker)
        return self.plane.swap(model, worker, binding_for(worker, model, device=self.name, **binding))

    def infer(self, model: str = "double") -> str:
        """The request topic."""
        return self.topics.infer(self.name, model)

    def results(self, model: str = "double") -> str:
        """The results topic."""
        return self.topics.results(self.name, model)

    def stop(self) -> None:
        """Ends the data path and its workers."""
        self.plane.stop(5)
        for worker in self.workers:
            worker.close()
        self.outbox.close()
