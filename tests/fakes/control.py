"""The reconciler's ports in memory: no disk, no network, no processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from agent.core.fitness import Room
from agent.core.probation import Tally
from agent.core.slots import Choice, SlotRecord
from agent.errors import AgentError, TransientError
from agent.worker.measure import Measurement
from agent.worker.spec import Worker
from registry.contracts.api.devices import DeviceReports
from registry.contracts.catalogue.manifest import Golden, Parity
from registry.contracts.device.deployments import ShadowFigures
from registry.contracts.device.messages import DesiredModel, Event
from registry.contracts.fit.platforms import Platform
from tests.fakes.registry_simulator import one_file_manifest

MEASURED = Measurement(run_us=50.0, max_batch=8, lanes=1, fixed=True)


@dataclass(eq=False)
class FakeWorker:
    """A worker that remembers whether it was closed."""

    choice: Choice
    backend: str = "fake"
    provider: str = "Memory"
    execution: Literal["process", "inline"] = "process"
    max_batch: int = 8
    batching: str = "up to 8 together"
    measured: Measurement = MEASURED
    closed: bool = False

    def close(self, timeout_s: float) -> None:
        self.closed = True


class PowerCutError(BaseException):
    """Everything in memory is gone. No `except Exception` stops it."""


class MemoryJournal:
    """Survives a `Host.boot`. `broken` makes every write fail, as a full disk does; after `power_for` more writes the
    power is cut: that write is on disk, and nothing runs after it."""

    def __init__(self) -> None:
        self.records: dict[str, SlotRecord] = {}
        self.facts: dict[str, bytes] = {}
        self.measures: dict[tuple[str, str], Measurement] = {}
        self.broken = False
        self.unreadable = 0
        """So many reads of the slots fail."""
        self.power_for: int | None = None

    def slots(self) -> dict[str, SlotRecord]:
        if self.unreadable:
            self.unreadable -= 1
            raise TransientError("disk_error", "input/output error")
        return dict(self.records)

    def save(self, record: SlotRecord) -> None:
        self._check()
        self.records[record.model] = SlotRecord.model_validate_json(record.canonical())
        self._written()

    def forget(self, model: str) -> None:
        self._check()
        self.records.pop(model, None)
        self._written()

    def get(self, key: str) -> bytes | None:
        return self.facts.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._check()
        self.facts[key] = value

    def next_number(self, key: str) -> int:
        number = int(self.facts.get(key, b"0")) + 1
        self.put(key, str(number).encode())
        return number

    def measured(self, variant: str, facts: str) -> Measurement | None:
        return self.measures.get((variant, facts))

    def keep_measure(self, variant: str, facts: str, found: Measurement) -> None:
        self._check()
        self.measures[variant, facts] = found

    def _check(self) -> None:
        if self.broken:
            raise TransientError("disk_error", "no space left")

    def _written(self) -> None:
        if self.power_for is not None:
            self.power_for -= 1
            if self.power_for <= 0:
                self.power_for = None
                raise PowerCutError


class FakeSteps:
    """Does nothing, at once. `fail(step, *errors)` lets the next calls of a step fail, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.errors: dict[str, list[AgentError]] = {}
        self.started: list[FakeWorker] = []
        self.measured: list[Measurement | None] = []
        self.golden: Golden | None = None
        """Every version has these; None: none has."""
        self.parity = Parity(cases=1, max_abs=0.0, max_rel=0.0, passed=True)
        self.free: int | None = None
        self.platform = Platform(os="linux", arch="x86_64")
        self.looks = 0
        """How often the host was looked at again."""
        self.missing = False
        """Nothing of a candidate is on this disk."""

    def fail(self, step: str, *errors: AgentError) -> None:
        self.errors.setdefault(step, []).extend(errors)

    def facts(self) -> Platform:
        return self.platform

    def look_again(self) -> Platform:
        self.looks += 1
        return self.platform

    def resolve(self, model: str, desired: DesiredModel, cancel: threading.Event) -> Choice:
        self._do(f"resolve {desired.version}")
        manifest = one_file_manifest(desired.version.encode(), model=model, version=desired.version)
        variant = manifest.variants[0]
        return Choice(
            model=model,
            version=desired.version,
            manifest=desired.manifest,
            variant=variant,
            variant_digest=variant.canonical_digest(),
            backend="fake",
            profile=desired.profile,
            rollout=desired.rollout,
            record_results=desired.record_results,
            golden=self.golden,
        )

    def received(self, choice: Choice) -> int:
        return 0 if self.missing else choice.variant.size

    def compare(self, choice: Choice, worker: Worker, cancel: threading.Event) -> Parity:
        self._do(f"compare {choice.version}")
        return self.parity

    def room(self, active: Worker | None) -> Room:
        return Room(self.free, 100 if active is not None else None)

    def download(self, choice: Choice, keep: Set[str], cancel: threading.Event) -> None:
        self._do(f"download {choice.version}")

    def verify(self, choice: Choice, cancel: threading.Event) -> None:
        self._do(f"verify {choice.version}")

    def warm(self, choice: Choice, measured: Measurement | None, cancel: threading.Event) -> FakeWorker:
        self._do(f"warm {choice.version}")
        self.measured.append(measured)
        worker = FakeWorker(choice)
        self.started.append(worker)
        return worker

    def sweep(self, slots: Sequence[SlotRecord]) -> None:
        self._do("sweep")

    def _do(self, what: str) -> None:
        self.done.append(what)
        errors = self.errors.get(what.partition(" ")[0])
        if errors:
            raise errors.pop(0)


@dataclass(eq=False)
class FakeShadow:
    """A shadow that finds what the test says."""

    worker: Worker
    share: float
    found: ShadowFigures
    failure: AgentError | None = None
    ended: bool = False

    def figures(self) -> ShadowFigures:
        return self.found

    def end(self, timeout_s: float) -> bool:
        self.ended = True
        return self.failure is None


class FakeDataPath:
    """Who answers which model; a replaced worker drains at once."""

    def __init__(self) -> None:
        self.shadows: list[FakeShadow] = []
        self.found = ShadowFigures()
        """What the next shadow has found from its beginning."""
        self.serving: dict[str, Worker | None] = {}
        self.tallies: dict[str, Tally] = {}
        self.bound: dict[str, Choice] = {}
        """Under which choice the worker answers."""
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        self.events: list[Event] = []

    def assign(self, model: str) -> None:
        self.serving.setdefault(model, None)

    def serve(self, choice: Choice, worker: Worker, tally: Tally) -> Future[Worker | None]:
        assert all(shadow.ended for shadow in self.shadows if shadow.worker is worker)
        self.tallies[choice.model], self.bound[choice.model] = tally, choice
        return self._drained(self.serving.get(choice.model), choice.model, worker)

    def rebind(self, choice: Choice, worker: Worker) -> None:
        if self.serving.get(choice.model) is worker:
            self.bound[choice.model] = choice

    def shadow(self, choice: Choice, worker: Worker, share: float) -> FakeShadow:
        self.shadows.append(FakeShadow(worker, share, self.found))
        return self.shadows[-1]

    def clear(self, model: str) -> Future[Worker | None]:
        return self._drained(self.serving.get(model), model, None)

    def withdraw(self, model: str) -> Future[Worker | None]:
        done = self._drained(self.serving.get(model), model, None)
        self.serving.pop(model, None)
        return done

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if retain:
            self.retained[topic] = payload
        self.published.append((topic, payload))

    def publish_durable(self, topic: str, payload: bytes) -> None:
        self.events.append(Event.model_validate_json(payload))

    def _drained(self, old: Worker | None, model: str, worker: Worker | None) -> Future[Worker | None]:
        self.serving[model] = worker
        done: Future[Worker | None] = Future()
        done.set_result(old)
        return done


class FakeUplink:
    """The registry over HTTP. `error` makes it unreachable."""

    def __init__(self) -> None:
        self.document: bytes = b""
        self.error: AgentError | None = None
        self.asked: list[str | None] = []
        self.reports: list[DeviceReports] = []
        self.facts: list[Platform] = []

    def desired(self, etag: str | None) -> tuple[bytes, str | None, str] | None:
        self._check()
        self.asked.append(etag)
        current = str(hash(self.document))
        return None if etag == current else (self.document, current, "")

    def put_facts(self, facts: Platform) -> None:
        self._check()
        self.facts.append(facts)

    def post_reports(self, reports: DeviceReports) -> bool:
        self._check()
        self.reports.append(reports)
        told = reports.reported
        return told is not None and told.facts_digest not in {facts.facts_digest() for facts in self.facts}

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


class ManualPool:
    """Work waits until `Host.settle` runs it: a test sees what is under way."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None], /) -> object:
        self.waiting.append(work)
        return None
