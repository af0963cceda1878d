"""What every backend offers: probe the host, load an artifact, run it.

Imported by workers, whose interpreter may be a vendor's: standard library, NumPy and the vendor's package only, Python
3.9 syntax. Datatypes are the names of the Open Inference Protocol; BF16 and 8-bit float arrays
are unsigned integers (the raw bits), BYTES arrays are objects of type bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

NUMPY_DTYPES = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<u2",
    "FP8E4M3FN": "|u1",
    "FP8E4M3FNUZ": "|u1",
    "FP8E5M2": "|u1",
    "FP8E5M2FNUZ": "|u1",
    "FP8E8M0": "|u1",
    "BYTES": "|O",
}
"""How an array of a datatype is held, the bytes of an element at the end; registry.contracts.tensors.NUMPY_NAME with
plain names, and BYTES."""


RAW = frozenset(name for name in NUMPY_DTYPES if name == "BF16" or name.startswith("FP8"))
"""Held as their raw bits: NumPy has no type for them."""


class BackendError(Exception):
    """A backend cannot do what was asked.

    `code` is a DeploymentCode (from probe and load) or an InferenceCode (from run) of registry.contracts.codes.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


RETRY = "retry"
DEVICE_UNHEALTHY = "device_unhealthy"
ARTIFACT_FAULT = "artifact_fault"
CALL_FAILED = "call_failed"
_LOAD_CODES = {ARTIFACT_FAULT: "load_failed", CALL_FAILED: "load_failed"}
_RUN_CODES = {RETRY: "overloaded", DEVICE_UNHEALTHY: "model_not_ready"}


class DeviceCallError(BackendError):
    """A call of an accelerator's library that failed. `number` is the vendor's, `family` one of the four above.

    From load: load_failed for a fault of the artifact or the call, backend_unavailable for the device or its resources.
    From run: overloaded, model_not_ready and run_failed.
    """

    meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {}
    """By family: the vendor's error numbers, and what they mean. Any other is of CALL_FAILED."""
    advice: ClassVar[Mapping[str, str]] = {}
    """By family: what helps."""

    def __init__(self, call: str, number: int, detail: str = "", *, running: bool = False) -> None:
        self.number = number
        self.family = family = self.family_of(number)
        told = "; ".join(filter(None, (self.meanings.get(family, {}).get(number), detail)))
        code = _RUN_CODES.get(family, "run_failed") if running else _LOAD_CODES.get(family, "backend_unavailable")
        super().__init__(
            code, f"{family}: {call} failed with {number}{f' ({told})' if told else ''}: {self.advice[family]}"
        )

    @classmethod
    def family_of(cls, number: int) -> str:
        """What an error number asks for: try again, look at the device, look at the artifact, or read the log."""
        return next((family for family, numbers in cls.meanings.items() if number in numbers), CALL_FAILED)


_MEMORY_WORDS = (
    *("bad_alloc", "bad allocation", "failed to allocate memory", "out of memory", "cannot allocate memory"),
    *("cuda_error_out_of_memory", "cuda failure 2:", "memory not enough"),
)
"""As C++ libraries (std::bad_alloc), ONNX Runtime's arena, CUDA and MindSpore say it."""


def is_memory_fault(error: BaseException) -> bool:
    """Did it fail for want of memory? Vendors pass such a fault on under types of their own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _MEMORY_WORDS)


class TensorInfo(NamedTuple):
    """One input or output of a loaded model. A dimension of -1 has any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class DeviceTensor(NamedTuple):
    """One input or output with its buffer on an accelerator."""

    info: TensorInfo
    pointer: int
    size: int
    """Bytes of the buffer, for the largest shape."""


def size_of(info: TensorInfo, shape: Sequence[int]) -> int:
    """Bytes of a tensor of that shape; not for BYTES."""
    return prod(shape) * int(NUMPY_DTYPES[info.datatype][2:])


def checked_feed(info: TensorInfo, feeds: Mapping[str, Array]) -> Array:
    """The array for that input. Raises BackendError: missing_input, wrong_datatype, wrong_shape."""
    array = feeds.get(info.name)
    if array is None:
        raise BackendError("missing_input", f"input {info.name!r} is missing")
    if array.dtype.str != NUMPY_DTYPES[info.datatype]:
        raise BackendError("wrong_datatype", f"input {info.name!r} is {info.datatype}, not {array.dtype}")
    if len(array.shape) != len(info.shape) or any(w not in (-1, h) for w, h in zip(info.shape, array.shape)):
        raise BackendError("wrong_shape", f"input {info.name!r} has shape {list(info.shape)}, not {list(array.shape)}")
    return array


class BackendProbe(NamedTuple):
    """What a backend is on this host, found by using it. The fields are those of `fit.platforms.BackendFacts`."""

    usable: bool
    reason: str = ""
    """Why it is not usable, and what to install."""
    version: str = ""
    targets: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    max_onnx_ir: int | None = None
    max_onnx_opset: int | None = None
    networks: tuple[str, ...] = ()
    """Architectures that it can fill checkpoints into."""
    unknown: bool = False
    """Something took too long or found no memory: what is not among the targets may work after all."""


class VerifiedEntryPoint(NamedTuple):
    """Code that came with a checkpoint and whose signature the agent verified."""

    module: str
    """The Python source, relative to the artifact's folder."""
    function: str
    arguments: dict[str, int | float | bool | str]
    digest: str
    """`sha256:<hex>` of the source, which the signature holds for."""


class LoadOptions(NamedTuple):
    """How a model shall run."""

    target: str = "cpu"
    """The variant's target platform; the backend runs on that or refuses, it never falls back silently."""
    profile: str = "throughput"
    """throughput: one core per run, several runs at once; latency: all cores for one run."""
    cores: int = 1
    input_names: tuple[str, ...] = ()
    """As the manifest declares them, in its order; for formats whose files have no names of their own."""
    output_names: tuple[str, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    """As the manifest declares them, in its order; for networks that take any size."""
    network: tuple[str, dict[str, int | float | bool | str]] | None = None
    """Of a checkpoint: the architecture's name and arguments."""
    build: Mapping[str, str] = MappingProxyType({})
    """What the file was built with and for, by the names of the manifest's requirements: tensorrt_version, ..."""
    settings: Mapping[str, object] = MappingProxyType({})
    """The operator's, from worker.options of the agent's configuration; each backend says which it knows."""
    engines: str = ""
    """A folder of the artifact's own for what is compiled from it here; empty: nothing is kept."""
    input_datatypes: tuple[str, ...] = ()
    """As the manifest declares them, in its order; for networks that do not say what they take."""
    independent: bool = False
    """The manifest says that items do not influence each other: only then may items be added to fill a fixed size."""
    entry_point: VerifiedEntryPoint | None = None
    """Of a checkpoint, instead of `network`: the code that builds it."""


class BackendSession(Protocol):
    """One loaded artifact."""

    inputs: tuple[TensorInfo, ...]
    """What every run needs. A session that also has `optional_inputs` takes those when they are given."""
    outputs: tuple[TensorInfo, ...]
    provider: str
    """What computes it, in the vendor's words."""
    concurrent: bool
    """Several threads may call `run` at once."""
    batch_sizes: tuple[int, ...]
    """The numbers of items that joined requests run in, ascending; the session fills a batch up to the next.
    Empty: any number is as good; (1,): requests are not joined here."""

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The wanted outputs in that order. NaN and infinity are results. Raises BackendError(run_failed)."""

    def close(self) -> None:
        """Gives everything back. May be called twice."""


def optional_inputs(session: BackendSession) -> tuple[TensorInfo, ...]:
    """Those that the model has a default for; few vendors know such."""
    return tuple(getattr(session, "optional_inputs", ()))


class Backend(Protocol):
    """One vendor runtime."""

    def probe(self) -> BackendProbe:
        """Finds out by use whether and how this backend works here. Never raises for what is missing."""

    def load(self, directory: str, entry: str, options: LoadOptions) -> BackendSession:
        """Loads the artifact whose files lie in `directory`. Raises BackendError."""
