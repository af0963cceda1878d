"""A simulated host: the ports of the agent's reconciler without processes, disk or accelerator.

The reconciler itself, its state machine, the resolution and the documents are the agent's own. What is simulated: a
download takes the time that its bytes would, a load takes a moment, and requests are numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from agent.core.probation import Tally
from agent.core.slots import Choice, SlotRecord
from agent.core.strategy import Room
from agent.errors import AgentError, PermanentError
from agent.reconciler.ports import LoadedWorker
from agent.worker.measure import Measurement
from registry.contracts.codes import DeploymentCode
from registry.contracts.deployments import ShadowFigures
from registry.contracts.digest import Digest
from registry.contracts.golden import Parity
from registry.contracts.manifest import Manifest
from registry.contracts.messages import DesiredModel, ModelHealth, Quantiles
from registry.contracts.platforms import Platform
from registry.contracts.resolution import resolve
from scripts.simulator.faults import Bad, Fault, Faults

RUN_US = 200.0
REQUESTS_A_SECOND = 5.0
MEASURED = Measurement(run_us=RUN_US, max_batch=8, lanes=1, fixed=True)


@dataclass(eq=False)
class SimulatedWorker:
    """A loaded model that computes nothing."""

    choice: Choice
    backend: str
    provider: str = "Simulated"
    execution: Literal["process", "inline"] = "process"
    max_batch: int = 8
    measured: Measurement = MEASURED

    def close(self, timeout_s: float) -> None:
        """Holds nothing."""


class MemoryJournal:
    """The journal of a device whose disk is this process's memory; survives `SimulatedDevice.reboot`."""

    def __init__(self) -> None:
        self._slots: dict[str, SlotRecord] = {}
        self._facts: dict[str, bytes] = {}
        self._measures: dict[tuple[str, str], Measurement] = {}

    def slots(self) -> dict[str, SlotRecord]:
        """As the port says."""
        return dict(self._slots)

    def save(self, record: SlotRecord) -> None:
        """As the port says."""
        self._slots[record.model] = record

    def forget(self, model: str) -> None:
        """As the port says."""
        self._slots.pop(model, None)

    def get(self, key: str) -> bytes | None:
        """As the port says."""
        return self._facts.get(key)

    def put(self, key: str, value: bytes) -> None:
        """As the port says."""
        self._facts[key] = value

    def next_number(self, key: str) -> int:
        """As the port says."""
        number = int(self._facts.get(key, b"0")) + 1
        self._facts[key] = str(number).encode()
        return number

    def measured(self, variant: str, facts: str) -> Measurement | None:
        """As the port says."""
        return self._measures.get((variant, facts))

    def keep_measure(self, variant: str, facts: str, found: Measurement) -> None:
        """As the port says."""
        self._measures[variant, facts] = found


@dataclass
class SimulatedSteps:
    """Steps that take their time in the pool and do nothing else, but resolve for real."""

    platform: Platform
    manifest: Callable[[Digest], Manifest]
    """From the registry, over HTTP; kept for all devices of this process."""
    fetch: Callable[[Choice], None]
    """Gets the blobs of a choice from the registry, checks them, and throws them away."""
    fault: Fault
    faults: Faults
    on_disk: set[Digest] = field(default_factory=set)
    """Variants that are there."""
    first: str | None = None
    """The version that served first: a device's own fault spares it."""
    told_another: bool = False
    """It was told to serve another version."""

    def facts(self) -> Platform:
        """As the port says."""
        return self.platform

    def resolve(self, model: str, desired: DesiredModel, cancel: threading.Event) -> Choice:
        """As the port says: the registry's manifest, the contracts' own resolution."""
        manifest = self.manifest(desired.manifest)
        resolution = resolve(manifest, self.platform, desired.variant)
        variant = manifest.variant(resolution.chosen) if resolution.chosen else None
        if variant is None:
            code = DeploymentCode.VARIANT_UNFIT if desired.variant else DeploymentCode.NO_FITTING_VARIANT
            raise PermanentError(code, f"{model}@{desired.version}: {resolution.explain()}")
        self.first = self.first or desired.version
        self.told_another |= desired.version != self.first
        return Choice(
            model=model,
            version=desired.version,
            manifest=desired.manifest,
            variant=variant,
            variant_digest=variant.canonical_digest(),
            backend=next(v.backend for v in resolution.verdicts if v.variant == variant.name) or "simulated",
            profile=desired.profile,
            rollout=desired.rollout,
            record_results=desired.record_results,
            golden=manifest.golden,
        )

    def download(self, choice: Choice, keep: Set[Digest], cancel: threading.Event) -> None:
        """As the port says."""
        if choice.variant_digest not in self.on_disk:
            self.fetch(choice)
            self.on_disk.add(choice.variant_digest)

    def received(self, choice: Choice) -> int:
        """As the port says."""
        return choice.variant.size if choice.variant_digest in self.on_disk else 0

    def verify(self, choice: Choice, cancel: threading.Event) -> None:
        """As the port says."""

    def warm(self, choice: Choice, measured: Measurement | None, cancel: threading.Event) -> SimulatedWorker:
        """As the port says; where the device or the version is bad in that way, it fails."""
        if self.bad(choice) is Bad.CRASH or (self.fault is Fault.FAILING and choice.version != self.first):
            raise PermanentError(DeploymentCode.LOAD_FAILED, "simulated: the model does not load")
        return SimulatedWorker(choice, choice.backend)

    def compare(self, choice: Choice, worker: LoadedWorker, cancel: threading.Event) -> Parity:
        """As the port says."""
        wrong = self.bad(choice) is Bad.WRONG
        return Parity(cases=1, max_abs=9.0 if wrong else 0.0, max_rel=9.0 if wrong else 0.0, passed=not wrong)

    def room(self, active: LoadedWorker | None) -> Room:
        """As the port says: always enough."""
        return Room(None)

    def sweep(self, slots: Sequence[SlotRecord]) -> None:
        """As the port says."""
        needed = {place.variant_digest for slot in slots for place in slot.places()}
        self.on_disk &= needed

    def bad(self, choice: Choice) -> Bad | None:
        """How this version is bad, if it is."""
        return self.faults.bad.get(choice.version)


@dataclass
class _Count:
    tally: Tally
    requests: int = 0
    errors: int = 0


class SimulatedShadow:
    """Compares the share of the made-up requests: all alike, or none."""

    failure: AgentError | None = None

    def __init__(self, model: str, share: float, agrees: bool) -> None:
        self._model = model
        self._share = share
        self._agrees = agrees
        self._due = 0.0
        self.ended = False

    def ask(self, model: str, count: int) -> None:
        """So many requests to a model were answered."""
        if model == self._model and not self.ended:
            self._due += count * self._share

    def figures(self) -> ShadowFigures:
        """As the port says."""
        compared = int(self._due)
        if not compared:
            return ShadowFigures()
        off = 0.0 if self._agrees else 9.0
        agreement = 1.0 if self._agrees else 0.0
        return ShadowFigures(compared=compared, agreement=agreement, max_abs=off, mean_abs=off, latency_ratio=1.0)

    def end(self, timeout_s: float) -> bool:
        """As the port says."""
        self.ended = True
        return True


class SimulatedDataPath:
    """Who answers which model. Requests are made up by `serve_for`, at a steady rate."""

    def __init__(self, publish: Callable[[str, bytes, bool], None], steps: SimulatedSteps) -> None:
        self._publish = publish
        self._steps = steps
        self.serving: dict[str, tuple[Choice, LoadedWorker, _Count] | None] = {}
        self._totals: dict[str, tuple[int, int]] = {}
        self._not_finite: dict[str, int] = {}
        self._shadows: list[SimulatedShadow] = []

    def assign(self, model: str) -> None:
        """As the port says."""
        self.serving.setdefault(model, None)

    def serve(self, choice: Choice, worker: LoadedWorker, tally: Tally) -> Future[LoadedWorker | None]:
        """As the port says."""
        return self._swap(choice.model, (choice, worker, _Count(tally)))

    def rebind(self, choice: Choice, worker: LoadedWorker) -> None:
        """As the port says."""
        place = self.serving.get(choice.model)
        if place is not None and place[1] is worker:
            self.serving[choice.model] = (choice, worker, place[2])

    def shadow(self, choice: Choice, worker: LoadedWorker, share: float) -> SimulatedShadow:
        """As the port says."""
        agrees = self._steps.bad(choice) not in (Bad.WRONG, Bad.NAN)
        self._shadows = [shadow for shadow in self._shadows if not shadow.ended]
        self._shadows.append(SimulatedShadow(choice.model, share, agrees))
        return self._shadows[-1]

    def clear(self, model: str) -> Future[LoadedWorker | None]:
        """As the port says."""
        return self._swap(model, None)

    def withdraw(self, model: str) -> Future[LoadedWorker | None]:
        """As the port says."""
        done = self._swap(model, None)
        self.serving.pop(model, None)
        return done

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """As the port says."""
        self._publish(topic, payload, retain)

    def publish_durable(self, topic: str, payload: bytes) -> None:
        """As the port says."""
        self._publish(topic, payload, False)

    def serve_for(self, seconds: float) -> None:
        """Answers the requests of so much time."""
        for place in self.serving.values():
            if place is not None:
                count = max(1, round(seconds * REQUESTS_A_SECOND))
                self._answer(*place, count=count)
                for shadow in self._shadows:
                    shadow.ask(place[0].model, count)

    def _answer(self, choice: Choice, _worker: LoadedWorker, count_: _Count, *, count: int) -> None:
        steps, tally = self._steps, count_.tally
        bad = steps.bad(choice)
        if steps.fault is Fault.ROLLING_BACK and choice.version != steps.first:
            bad = Bad.ERRORS
        failed = count // 3 + 1 if bad is Bad.ERRORS else 0
        for _ in range(count):
            tally.run.record(RUN_US * (10 if bad is Bad.SLOW else 1))
        tally.answered += count - failed
        if bad is Bad.NAN and tally.watching:
            tally.not_finite += count
            self._not_finite[choice.model] = self._not_finite.get(choice.model, 0) + count
        if failed:
            tally.errors["run_failed"] += failed
        requests, errors = self._totals.get(choice.model, (0, 0))
        self._totals[choice.model] = (requests + count, errors + failed)

    def health(self) -> dict[str, ModelHealth]:
        """For the health report."""
        found = {}
        for model, place in self.serving.items():
            requests, errors = self._totals.get(model, (0, 0))
            quick = Quantiles(p50=RUN_US, p90=RUN_US, p99=RUN_US, max=RUN_US)
            slow = place is not None and self._steps.bad(place[0]) is Bad.SLOW
            run = Quantiles(p50=RUN_US * 10, p90=RUN_US * 10, p99=RUN_US * 10, max=RUN_US * 10) if slow else quick
            found[model] = ModelHealth(
                version=place[0].version if place else None,
                requests=requests,
                errors={"run_failed": errors} if errors else {},
                run_us=run,
                latency_us=run,
                queue_limit=256,
                not_finite=self._not_finite.get(model, 0),
            )
        return found

    def _swap(self, model: str, place: tuple[Choice, LoadedWorker, _Count] | None) -> Future[LoadedWorker | None]:
        old, self.serving[model] = self.serving.get(model), place
        done: Future[LoadedWorker | None] = Future()
        done.set_result(old[1] if old else None)
        return done
