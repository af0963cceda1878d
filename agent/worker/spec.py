"""What to load, and what a loaded model looks like to the rest of the agent."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, NamedTuple, Protocol

from agent.backends.base import VerifiedEntryPoint
from agent.core.joining import MAX_WHY, Joining, outcome
from agent.worker.arena import MAX_META_BYTES, MAX_TENSORS
from agent.worker.channel import Layout, fixed_form, make_layout
from agent.worker.main import MAX_LANES
from agent.worker.measure import MAX_VERDICT, Measurement
from registry.contracts.catalogue.manifest import Network, Requirements, TensorSpec

BUILD_KEYS = (
    *("mindspore_version", "soc_version", "cann_version", "opp_version", "tensorrt_version"),
    *("tensorrt_version_compatible", "compute_capability", "hardware_compat"),
)
"""Requirements that say how a file was built."""
DEFAULT_MEMORY_BYTES = 4 << 30


class Samples(NamedTuple):
    """The inputs of golden cases, in a verified file."""

    path: str
    cases: tuple[dict[str, tuple[str, tuple[int, ...], int, int]], ...]
    """Of each case by input: datatype, shape, first byte in the file, end."""


@dataclass(frozen=True)
class WorkerSpec:
    """What to load, and within which bounds."""

    model: str
    """For messages only."""
    backend: str
    """A name of agent.backends.catalog."""
    directory: str
    """Absolute; holds exactly the variant's files, plain files with one name each."""
    entry: str
    """The file to open, relative to `directory`."""
    inputs: tuple[TensorSpec, ...] = ()
    """As the manifest declares them; empty: not checked."""
    outputs: tuple[TensorSpec, ...] = ()
    optional_inputs: tuple[TensorSpec, ...] = ()
    """As the manifest declares them; others are not offered."""
    network: Network | None = None
    """Of a checkpoint."""
    entry_point: VerifiedEntryPoint | None = None
    """Of a checkpoint that brings its code. Only what `adapters.signatures` verified stands here."""
    requirements: Requirements = field(default_factory=Requirements)
    """As the manifest declares them: a backend refuses a file that was built for another host."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The operator's for this backend (worker.options of the configuration)."""
    engines: str = ""
    """A folder beside the artifact's files for what the backend compiles from it; empty: nothing is kept."""
    target: str = "cpu"
    profile: Literal["throughput", "latency"] = "throughput"
    cores: int = 1
    interpreter: str = sys.executable
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    """Address space of the worker: code, model, threads and the shared memory."""
    load_timeout_s: float = 60.0
    run_timeout_s: float = 30.0
    """For the data path, which kills a worker that takes longer."""
    slots: int = 256
    """Most fixed items in flight; large items get fewer (channel.make_layout)."""
    arenas: int = 4
    arena_bytes: int = 16 << 20
    max_batch: int = 1
    """A cap on what measuring may find: more than 1 only where the manifest permits joining."""
    joining: str = ""
    """Why `max_batch` is what it is, for reports."""
    independent: bool = False
    """The manifest says that items do not influence each other: a backend may add items to fill a fixed size."""
    known: Measurement | None = None
    """Of the same variant on this host: nothing is measured then, only warmed up."""
    samples: Samples | None = None
    """Requests that the publisher gave, to warm up with when nothing is known."""
    execution: Literal["process", "inline"] = "process"

    @property
    def trial_s(self) -> float:
        """What trial runs may take, seconds; then the model is served unmeasured. An accelerator may first compile."""
        return self.load_timeout_s * (0.25 if self.target == "cpu" else 0.75)


class Worker(Protocol):
    """A loaded model, in a process of its own or inline."""

    spec: WorkerSpec
    execution: Literal["process", "inline"]
    backend: str
    provider: str
    confined: str
    """Which sandbox holds it: "landlock 7", or "none: why"."""
    pid: int
    layout: Layout
    memory: memoryview
    lanes: tuple[socket.socket, ...]
    """The agent's ends of the doorbells, non-blocking; empty when inline."""
    max_batch: int
    run_us: float
    """One run of one item; 0 when unknown."""
    measured: Measurement
    batching: str
    """Whether requests are joined into one run, and why; for reports."""
    inputs: tuple[TensorSpec, ...]
    """As loaded, in the model's order, as in `layout`."""
    outputs: tuple[TensorSpec, ...]
    optional_inputs: tuple[TensorSpec, ...]
    """Those that a request may leave out."""

    def run(self, ids: Sequence[int]) -> None:
        """Inline only: runs these slots in the calling thread."""

    def run_alone(self, why: str) -> None:
        """From now on one request at a time; `why` is for reports. Not while the data path uses it.

        Raises TransientError (worker_crashed, load_timeout): then it is only fit to be closed.
        """

    def kill(self) -> None:
        """Ends it at once, from any thread, without waiting; `close` must still follow. Nothing when inline."""

    def close(self, timeout_s: float) -> None:
        """Hangs up, waits up to `timeout_s`, then kills; gives everything back. Not while the data path uses it."""

    def exit_reason(self) -> str:
        """Why the process ended: status or signal, and its last words. Bounded and printable."""


ARENAS_BYTES = 1 << 30
"""Of all arenas of a worker together; only what requests really fill becomes resident."""


def arenas_for(arenas: int, arena_bytes: int, max_payload: int, held: int) -> tuple[int, int]:
    """(how many, bytes of each): whatever the settings say of it, the largest request goes into an arena.

    `held`: what the model needs at least, `registry.contracts.fit.room.held_bytes`.
    """
    # What is aligned to 64 bytes takes up to 63 more, of each tensor.
    room = max(arena_bytes, max(max_payload, held) + MAX_META_BYTES + 64 * MAX_TENSORS)
    return max(1, min(arenas, ARENAS_BYTES // room)), room


def layout_for(spec: WorkerSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Layout:
    """The memory of a loaded model. What is answered in another shape than declared runs in arenas."""
    return make_layout(
        inputs,
        outputs,
        slots=spec.slots,
        arenas=spec.arenas,
        arena_bytes=spec.arena_bytes,
        fixed=fixed_form(inputs, outputs),
    )


def batching_outcome(spec: WorkerSpec, measured: Measurement) -> str:
    """What became of joining requests, in words."""
    said = outcome(Joining(spec.max_batch, spec.joining), measured.max_batch, measured.verdict)
    return f"{said}; served unmeasured: {measured.trial}"[:MAX_WHY] if measured.trial else said


def checked_measurement(values: Any, spec: WorkerSpec) -> Measurement:
    """A measurement within the bounds of `spec`. Raises TypeError or ValueError."""
    found: tuple[Any, ...] = Measurement(*values)
    run_us, max_batch, lanes, fixed, cap, verdict, trial = found
    if any(type(number) is not int for number in (max_batch, lanes, cap)):
        raise TypeError("a measurement has the wrong types")
    if type(fixed) is not bool or type(verdict) is not str or type(trial) is not str:
        raise TypeError("a measurement has the wrong types")
    if not isfinite(run_us) or run_us < 0 or max_batch < 1 or lanes < 1 or cap < 0:
        raise ValueError("a measurement is out of bounds")
    most, lanes = min(max_batch, spec.max_batch), min(lanes, spec.cores, MAX_LANES)
    return Measurement(float(run_us), most, lanes, fixed, cap, _printable(verdict), _printable(trial))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:MAX_VERDICT])


def build_facts(spec: WorkerSpec) -> dict[str, str]:
    """What the file was built with and for, in words that a worker needs no contracts to read."""
    need = spec.requirements.model_dump(include=set(BUILD_KEYS), exclude_none=True)
    return {name: str(value) for name, value in need.items()}
