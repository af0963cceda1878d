"""A host in memory: the reconciler over its fakes, whose time stands until it is moved."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from agent.jobs.executor import JobExecutor, Work
from agent.reconciler.context import Context, EventPublisher
from agent.reconciler.desired import DesiredState
from agent.reconciler.exchange import Exchange
from agent.reconciler.freshness import FreshnessLook
from agent.reconciler.loop import Reconciler
from agent.reconciler.ports import Clock, SignedMetadata
from registry.contracts.device.deployments import DeploymentProgress
from registry.contracts.device.messages import Desired, DesiredModel, Health, Reported, ServingState
from registry.contracts.topics import Topics
from tests.fakes.control import FakeDataPath, FakeSteps, FakeUplink, FakeWorker, ManualPool, MemoryJournal
from tests.fakes.registry_simulator import one_file_manifest

DEVICE = "edge-1"
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass
class Host:
    """A reconciler with its fakes, driven by hand: no threads."""

    journal: MemoryJournal = field(default_factory=MemoryJournal)
    uplink: FakeUplink = field(default_factory=FakeUplink)
    elapsed: float = 0.0
    set_by: timedelta = timedelta()
    """By how much somebody has set the wall clock."""
    work: Work | None = None
    """Does the jobs; without it this host does none."""
    cuts: int = 0
    """Of power: each makes another boot of the host."""
    metadata: SignedMetadata | None = None
    """Checks signatures; without it this host checks none."""
    folder: Path = Path("/nonexistent")
    """Below it the jobs have their folders."""

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> Host:
        """A fresh start of the agent over what the journal has; not yet `settle`d."""
        self.steps, self.data_path, self.pool = FakeSteps(), FakeDataPath(), ManualPool()
        self.reports: list[Reported] = []
        topics = Topics()
        clock = Clock(now=self.now, monotonic=lambda: self.elapsed, chance=lambda: 1.0)
        events: queue.Queue[Any] = queue.Queue()
        self.context = Context(
            journal=self.journal,
            steps=self.steps,
            data_path=self.data_path,
            clock=clock,
            desired=DesiredState(DEVICE, self.journal, self.metadata),
            publisher=EventPublisher(DEVICE, topics, self.data_path, self.journal, clock),
            network=self.pool,
            loads=self.pool,
            put=events.put_nowait,
            drain_timeout_s=1.0,
            boot=f"boot {self.cuts}",
        )
        self.job_pool = ManualPool()
        self.jobs = JobExecutor(self.context, self.work, self.job_pool, self.folder) if self.work else None
        self.reconciler = Reconciler(
            device=DEVICE,
            session_id="s1",
            topics=topics,
            context=self.context,
            exchange=Exchange(self.context, self.uplink, self.pool),
            events=events,
            on_report=self.reports.append,
            make_health=self._health,
            jobs=self.jobs,
            freshness=FreshnessLook(self.context, self.metadata, self.pool),
        )
        self._events = events
        self.reconciler.begin()
        return self

    def cut_power(self) -> Host:
        """The host goes off and comes back, and the agent with it."""
        self.cuts += 1
        return self.boot()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed) + self.set_by

    def tell(self, *events: object) -> Host:
        for event in events:
            self._events.put_nowait(event)
        return self

    def step(self) -> bool:
        """Handles what is queued, looks once, runs one piece of slow work. False when nothing is left to do."""
        self.reconciler.handle_waiting()
        self.reconciler.look()
        if self.pool.waiting:
            self.pool.waiting.pop(0)()
            return True
        return not self._events.empty()

    def settle(self) -> Host:
        for _ in range(1000):
            if not self.step():
                return self
        raise AssertionError("the reconciler does not come to rest")

    def wait(self, seconds: float) -> Host:
        self.elapsed += seconds
        return self.settle()

    def desire(
        self,
        generation: int,
        *,
        expires_at: datetime | None = None,
        wish: Mapping[str, Any] | None = None,
        **models: str,
    ) -> Host:
        """The registry desires these versions from now on; `wish`: fields of `DesiredModel`."""
        self.context.offer(desired(generation, expires_at=expires_at, wish=wish, **models))
        return self

    def commit(self) -> Host:
        """Until the longest probation is over."""
        return self.settle().wait(100.0)

    def progress(self, model: str = "lenet") -> DeploymentProgress:
        """What the last report says of the deployment."""
        found = self.reports[-1].models[model].deployment
        assert found is not None
        return found

    def serves(self, model: str = "lenet") -> str | None:
        worker = self.data_path.serving.get(model)
        return worker.choice.version if isinstance(worker, FakeWorker) else None

    def state(self, model: str = "lenet") -> ServingState:
        return self.reports[-1].models[model].state

    def phases(self) -> list[str]:
        return [event.phase for event in self.data_path.events if event.kind == "deployment"]

    def _health(self, restarts: Any) -> Health:
        return Health(device=DEVICE, session_id="s1", seq=1, at=self.now(), window_s=1, uptime_s=self.elapsed)


def desired(
    generation: int,
    *,
    expires_at: datetime | None = None,
    device: str = DEVICE,
    wish: Mapping[str, Any] | None = None,
    **models: str,
) -> bytes:
    """A desired document: model to version."""
    wanted = {
        model: DesiredModel(
            version=version, manifest=one_file_manifest(b"", version=version).canonical_digest(), **(wish or {})
        )
        for model, version in models.items()
    }
    document = Desired(device=device, generation=generation, issued_at=START, expires_at=expires_at, models=wanted)
    return document.canonical()
