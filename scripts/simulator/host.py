"""A simulated host: the ports of the agent's reconciler without processes, disk or accelerator.

The reconciler itself, its state machine, the resolution and the documents are the agent's own. What is simulated: a
download takes the time that its bytes would and a load takes a moment. Its requests: `data_path`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from agent.core.fitness import Room
from agent.core.slots import Choice, SlotRecord
from agent.errors import PermanentError
from agent.worker.measure import Measurement
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import Manifest, Parity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import DesiredModel
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import resolve
from registry.contracts.wire import Digest
from scripts.simulator.faults import Bad, Fault, Faults

RUN_US = 200.0
MEASURED = Measurement(run_us=RUN_US, max_batch=8, lanes=1, fixed=True)


@dataclass(eq=False)
class SimulatedWorker:
    """A loaded model that computes nothing."""

    choice: Choice
    backend: str
    provider: str = "Simulated"
    execution: Literal["process", "inline"] = "process"
    max_batch: int = 8
    batching: str = ""
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

    def look_again(self) -> Platform:
        """A simulated host does not change by itself."""
        return self.facts()

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

    def compare(self, choice: Choice, worker: Worker, cancel: threading.Event) -> Parity:
        """As the port says."""
        wrong = self.bad(choice) is Bad.WRONG
        return Parity(cases=1, max_abs=9.0 if wrong else 0.0, max_rel=9.0 if wrong else 0.0, passed=not wrong)

    def room(self, active: Worker | None) -> Room:
        """As the port says: always enough."""
        return Room(None)

    def sweep(self, slots: Sequence[SlotRecord]) -> None:
        """As the port says."""
        needed = {place.variant_digest for slot in slots for place in slot.places()}
        self.on_disk &= needed

    def bad(self, choice: Choice) -> Bad | None:
        """How this version is bad, if it is."""
        return self.faults.bad.get(choice.version)
