"""CUDA as the TensorRT backend needs it: one device, one stream, memory, copies. Through NVIDIA's cuda-python.

Every call of `cuda.bindings.runtime` gives a tuple that begins with its cudaError_t. Numbers: enum cudaError in CUDA
13's driver_types.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

from agent.backends.base import CALL_FAILED, DEVICE_UNHEALTHY, RETRY, BackendError, DeviceCallError
from agent.backends.catalog import import_vendor

NAME = "tensorrt_plan"
DEVICE = 0
"""The first GPU that the process sees; CUDA_VISIBLE_DEVICES chooses which one that is."""
_MAJOR, _MINOR = "cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor"
_NON_BLOCKING = 1
"""cudaStreamNonBlocking: no wait for, or of, the default stream."""


class CudaError(DeviceCallError):
    """A call of CUDA that failed."""

    meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {
        RETRY: {
            2: "out of memory",
            46: "the GPU is busy or held by another process",
            701: "out of registers or threads",
            808: "too many clients of MPS",
        },
        # From 700 on CUDA says so once and then to every call of the process: only a new process helps.
        DEVICE_UNHEALTHY: {
            3: "CUDA does not initialise",
            35: "the driver is older than this CUDA, or there is none",
            100: "no GPU",
            101: "no such GPU",
            214: "an uncorrectable memory error",
            226: "a contained hardware error",
            700: "an illegal address",
            702: "a kernel took too long",
            709: "the context is gone",
            714: "a hardware stack error",
            715: "an illegal instruction",
            716: "a misaligned address",
            717: "an invalid address space",
            718: "an invalid program counter",
            719: "a kernel failed",
            802: "the driver is not ready",
            803: "driver and library do not fit",
        },
    }
    advice: ClassVar[Mapping[str, str]] = {
        RETRY: "it may work later, or with fewer models on this GPU",
        DEVICE_UNHEALTHY: "check the GPU and its driver with `nvidia-smi`",
        CALL_FAILED: "see the agent's log",
    }


class Cuda:
    """The first GPU of this process. Calls from any thread; `bind` first in each."""

    def __init__(self) -> None:
        """Raises BackendError(backend_unavailable) without cuda-python, a driver or a GPU."""
        self._runtime = _vendor()
        count = self._call("cudaGetDeviceCount")
        if count < 1:
            raise BackendError("backend_unavailable", "CUDA finds no GPU: check with `nvidia-smi`")
        self.bind()

    def bind(self, *, running: bool = False) -> None:
        """Makes the GPU the calling thread's; a new thread has another."""
        self._call("cudaSetDevice", DEVICE, running=running)

    def compute_capability(self) -> str:
        """`8.6`."""
        attributes = self._runtime.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", getattr(attributes, name), DEVICE) for name in (_MAJOR, _MINOR)
        )
        return f"{major}.{minor}"

    def make_stream(self) -> int:
        """A stream of its own, as the integer that TensorRT takes."""
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """Gives it back."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int, *, running: bool = False) -> None:
        """Waits for all that the stream was given."""
        self._call("cudaStreamSynchronize", stream, running=running)

    def allocate(self, size: int) -> int:
        """`size` bytes on the GPU, aligned to 256; their content is not defined."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """Gives memory back."""
        self._call("cudaFree", pointer)

    def upload(self, target: int, source: int, size: int, stream: int) -> None:
        """Copies to the GPU. The source must live until the stream is synchronised."""
        self._copy(target, source, size, "cudaMemcpyHostToDevice", stream)

    def download(self, target: int, source: int, size: int, stream: int) -> None:
        """Copies from the GPU. The target may be read once the stream is synchronised."""
        self._copy(target, source, size, "cudaMemcpyDeviceToHost", stream)

    def _copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", target, source, size, direction, stream, running=True)

    def _call(self, name: str, *arguments: Any, running: bool = False) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            raise CudaError(name, int(error), running=running)
        return values[0] if values else None


def _vendor() -> Any:
    """cuda.bindings.runtime; before cuda-python 12.6 it was cuda.cudart."""
    name = "cuda.bindings.runtime" if find_spec("cuda") and find_spec("cuda.bindings") else "cuda.cudart"
    return import_vendor(NAME, name, "CUDA's Python bindings")
