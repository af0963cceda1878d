"""What to load, and what a loaded model looks like to the rest of the agent.

What a loaded model says it takes and gives, and what it measured, comes from a process that is not trusted, and is
checked here.
"""

from __future__ import annotations

import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from agent.backends.base import LoadOptions, VerifiedEntryPoint
from agent.core.joining import MAX_WHY, Joining, outcome
from agent.errors import PermanentError
from agent.worker.channel import MAX_META_BYTES, MAX_TENSORS, fixed_form, make_layout
from agent.worker.main import MAX_LANES
from agent.worker.measure import MAX_VERDICT, Measurement
from registry.contracts.catalogue.manifest import Network, Requirements, TensorSpec
from registry.contracts.codes import DeploymentCode

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

    def load_options(self) -> LoadOptions:
        """What the backend is told, in words that a worker needs no contracts to read."""
        build = self.requirements.model_dump(include=set(BUILD_KEYS), exclude_none=True)
        return LoadOptions(
            target=self.target,
            profile=self.profile,
            cores=self.cores,
            input_names=tuple(tensor.name for tensor in self.inputs),
            output_names=tuple(tensor.name for tensor in self.outputs),
            input_shapes=tuple(tensor.shape for tensor in self.inputs),
            network=None if self.network is None else (self.network.name, dict(self.network.arguments)),
            build={name: str(value) for name, value in build.items()},
            settings={name: value for name, value in self.settings.items() if isinstance(value, (str, int, float))},
            engines=self.engines,
            input_datatypes=tuple(str(tensor.datatype) for tensor in self.inputs),
            independent=self.independent,
            entry_point=self.entry_point,
        )


class Worker(ABC):
    """A loaded model, in a process of its own or inline."""

    confined: str
    """Which sandbox holds it: "landlock 7, seccomp", or what is missing, and why."""
    pid: int
    memory: memoryview
    lanes: tuple[socket.socket, ...]
    """The agent's ends of the doorbells, non-blocking; empty when inline."""

    def __init__(self, spec: WorkerSpec, sides: Sequence[object], measured: Measurement, provider: str) -> None:
        """`sides`: the inputs, inputs with a default and outputs that the model says it has: see `parse_tensors`.

        Raises PermanentError: as `agreed`. Raises TypeError or ValueError: as `parse_tensors`.
        """
        self.spec = spec
        self.execution = spec.execution
        self.backend = spec.backend
        self.provider = provider
        self.inputs, self.optional_inputs, self.outputs = agreed(spec, *map(parse_tensors, sides))
        self.layout = make_layout(
            self.inputs,
            self.outputs,
            slots=spec.slots,
            arenas=spec.arenas,
            arena_bytes=spec.arena_bytes,
            fixed=fixed_form(self.inputs, self.outputs),
        )
        self._take(measured)

    def _take(self, measured: Measurement) -> None:
        self.measured = measured
        self.max_batch = measured.max_batch
        said = outcome(Joining(self.spec.max_batch, self.spec.joining), measured.max_batch, measured.verdict)
        self.batching = f"{said}; served unmeasured: {measured.trial}"[:MAX_WHY] if measured.trial else said
        """Whether requests are joined into one run, and why; for reports."""

    @property
    def any_rank(self) -> list[str]:
        """The inputs whose shape is not declared."""
        return [tensor.name for tensor in (*self.inputs, *self.optional_inputs) if tensor.any_rank]

    def run_alone(self, why: str) -> None:
        """From now on one request at a time; `why` is for reports. Not while the data path uses it.

        Raises TransientError (worker_crashed, load_timeout): then it is only fit to be closed.
        """
        self._run_alone()
        self._take(self.measured._replace(max_batch=1, verdict=why[:MAX_VERDICT]))

    @abstractmethod
    def _run_alone(self) -> None:
        """Tells what runs the requests."""

    def run(self, ids: Sequence[int]) -> None:
        """Inline only: runs these slots in the calling thread."""
        raise RuntimeError(f"slots {list(ids)} belong to a worker process: ring a lane")

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once, from any thread, without waiting; `close` must still follow. Nothing when inline."""

    @abstractmethod
    def close(self, timeout_s: float) -> None:
        """Hangs up, waits up to `timeout_s`, then kills; gives everything back. Not while the data path uses it."""

    @abstractmethod
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


def checked_measurement(values: Any, spec: WorkerSpec) -> Measurement:
    """A measurement within the bounds of `spec`. Raises TypeError or ValueError."""
    found: tuple[Any, ...] = Measurement(*values)
    run_us, max_batch, lanes, fixed, cap, verdict, trial = found
    if [type(value) for value in found[1:]] != [int, int, bool, int, str, str]:
        raise TypeError("a measurement has the wrong types")
    if not isfinite(run_us) or run_us < 0 or max_batch < 1 or lanes < 1 or cap < 0:
        raise ValueError("a measurement is out of bounds")
    most, lanes = min(max_batch, spec.max_batch), min(lanes, spec.cores, MAX_LANES)
    return Measurement(float(run_us), most, lanes, fixed, cap, _printable(verdict), _printable(trial))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:MAX_VERDICT])


_SHOWN = 100
"""Characters of a name in a message."""


def parse_tensors(tensors: object) -> tuple[TensorSpec, ...]:
    """From [[name, datatype, shape], ...]. Raises ValueError when it is not that, within the contract's bounds."""
    if not isinstance(tensors, (list, tuple)) or len(tensors) > MAX_TENSORS:
        raise ValueError(f"not a list of at most {MAX_TENSORS} tensors")
    try:
        parsed = tuple(
            TensorSpec.model_validate(dict(zip(("name", "datatype", "shape"), entry, strict=True))) for entry in tensors
        )
    except ValidationError as error:
        raise ValueError(f"not a tensor: {error.errors()[0]['msg']}") from None
    if len({spec.name for spec in parsed}) != len(parsed):
        raise ValueError("a tensor's name appears twice")
    return parsed


def agreed(
    declared: WorkerSpec, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs, inputs with a default, and outputs of a loaded model, once they are those of the manifest.

    What has no declared shape says so, which the loaded model cannot. Inputs with a default are those that both know.
    Raises PermanentError: signature_mismatch, or load_failed for a model without outputs.
    """
    if not outputs:
        raise PermanentError(DeploymentCode.LOAD_FAILED, f"the model of {declared.model} has no outputs")
    require("input", inputs, declared.inputs)
    require("output", outputs, declared.outputs)
    names = {spec.name: spec.datatype for spec in declared.optional_inputs}
    known = [spec for spec in optional if names.get(spec.name) == spec.datatype]
    return (
        _open(inputs, declared.inputs),
        _open(known, declared.optional_inputs),
        _open(outputs, declared.outputs),
    )


def _open(loaded: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    free = {spec.name for spec in declared if spec.any_rank}
    return tuple(spec.model_copy(update={"any_rank": True}) if spec.name in free else spec for spec in loaded)


def require(kind: str, loaded: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> None:
    """The loaded model is the declared one: names, datatypes, ranks of inputs; a dimension of -1 agrees with any.

    An output's shape is not compared: files declare wrong ones, and an answer has the shape that the model gave. An
    empty declaration asks for nothing. Raises PermanentError(signature_mismatch).
    """
    if not declared:
        return
    by_name = {spec.name: spec for spec in declared}
    for spec in loaded:
        wanted = by_name.pop(spec.name, None)
        if (
            wanted is None
            or wanted.datatype != spec.datatype
            or not (kind == "output" or wanted.any_rank or _shapes_agree(wanted.shape, spec.shape))
        ):
            raise PermanentError(
                DeploymentCode.SIGNATURE_MISMATCH,
                f"the model's {kind} {_show(spec)} is {_show(wanted) if wanted else 'not there'} in the manifest: "
                "publish the version again from this file",
            )
    if by_name:
        missing = ", ".join(map(_show, by_name.values()))
        raise PermanentError(
            DeploymentCode.SIGNATURE_MISMATCH, f"the model has no {kind} {missing}, which the manifest declares"
        )


def _shapes_agree(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _show(spec: Any) -> str:
    return f"{spec.name[:_SHOWN]!r} {spec.datatype}{list(spec.shape)}"
