"""A SIMULATED cuda.bindings.runtime for tests: one GPU whose memory is the host's, one queue of work a stream.

Work that is put on a stream happens when the stream is synchronised and not before, so that whoever reads too early, or
frees what is still to be copied, is found out. What CUDA documents as an error returns its number; what would corrupt
memory or leak raises SimulatedContractViolation. It knows no hardware and proves nothing about numbers or speed.
"""

# ruff: noqa: N801, N815, N818 - the names are CUDA's

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class SimulatedContractViolation(AssertionError):
    """The caller broke CUDA's or TensorRT's documented contract."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class SimulatedGpu:
    """One process's view of one simulated GPU."""

    capability = (8, 6)

    def __init__(self) -> None:
        self.faults: dict[str, int] = {}
        """Call to the error number that it returns, for tests."""
        self.broken = 0
        """Set by a kernel that failed; CUDA repeats it at every later call of the process."""
        self.calls: list[str] = []
        self.gpus = 1
        self.memory_left = 1 << 30
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, list[Callable[[], None]]] = {}
        self._next = itertools.count(7000)
        self._threads = threading.local()
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        """Execution contexts of TensorRT that live: they hold addresses of this memory."""

    def number(self, call: str, *, bound: bool = True) -> int:
        """The error number of a call; without cudaSetDevice a thread would be on a device by chance."""
        self.calls.append(call)
        if bound and not getattr(self._threads, "bound", False):
            raise SimulatedContractViolation(f"{call} in a thread that did not call cudaSetDevice")
        return self.broken or self.faults.get(call, 0)

    def bind(self) -> None:
        self._threads.bound = True

    def allocate(self, size: int) -> int:
        storage = ctypes.create_string_buffer(b"\xaa" * size, size)  # cudaMalloc clears nothing
        address = ctypes.addressof(storage)
        self._memory[address] = storage
        self.memory_left -= size
        return address

    def release(self, pointer: int) -> None:
        if any(self._streams.values()):
            raise SimulatedContractViolation("cudaFree while a stream still has work")
        if pointer not in self._memory:
            raise SimulatedContractViolation(f"cudaFree of {pointer:#x}, which was freed before or never taken")
        if any(pointer in context.addresses.values() for context in self.contexts):
            raise SimulatedContractViolation("cudaFree of memory that an execution context still has the address of")
        self.memory_left += len(self._memory.pop(pointer))

    def require(self, pointer: int, size: int) -> None:
        if pointer not in self._memory or size > len(self._memory[pointer]):
            raise SimulatedContractViolation(f"{size} bytes at {pointer:#x} are not live GPU memory")

    def room(self, pointer: int) -> int:
        self.require(pointer, 0)
        return len(self._memory[pointer])

    def make_stream(self) -> int:
        handle = next(self._next)
        self._streams[handle] = []
        return handle

    def work(self, stream: int) -> list[Callable[[], None]]:
        if stream not in self._streams:
            raise SimulatedContractViolation(f"{stream!r} is no live stream, or the default one")
        return self._streams[stream]

    def end_stream(self, stream: int) -> None:
        if self.work(stream):
            raise SimulatedContractViolation("cudaStreamDestroy before cudaStreamSynchronize: results would be lost")
        del self._streams[stream]

    def alive(self) -> dict[str, int]:
        """What nobody gave back yet, by kind."""
        found = {"gpu memory": len(self._memory), "stream": len(self._streams)}
        return {kind: count for kind, count in found.items() if count}


GPU = SimulatedGpu()


def cudaGetDeviceCount() -> tuple[cudaError_t | int, int | None]:
    return GPU.number("cudaGetDeviceCount", bound=False), GPU.gpus


def cudaSetDevice(device: int) -> tuple[int]:
    number = GPU.number("cudaSetDevice", bound=False)
    if not number and not 0 <= device < GPU.gpus:
        number = cudaError_t.cudaErrorInvalidDevice
    if not number:
        GPU.bind()
    return (number,)


def cudaDeviceGetAttribute(attr: cudaDeviceAttr, device: int) -> tuple[int, int | None]:
    if not isinstance(attr, cudaDeviceAttr):
        raise TypeError("attr must be a cudaDeviceAttr")
    return GPU.number("cudaDeviceGetAttribute"), GPU.capability[attr - 75]


def cudaStreamCreateWithFlags(flags: int) -> tuple[int, int | None]:
    number = GPU.number("cudaStreamCreateWithFlags")
    return (number, None) if number else (0, GPU.make_stream())


def cudaStreamDestroy(stream: int) -> tuple[int]:
    number = GPU.number("cudaStreamDestroy")
    GPU.end_stream(stream)
    return (number,)


def cudaStreamSynchronize(stream: int) -> tuple[int]:
    work, number = GPU.work(stream), GPU.number("cudaStreamSynchronize")
    todo = work[:]
    work.clear()
    if not number:
        for step in todo:
            step()
    return (number or GPU.broken,)


def cudaMalloc(size: int) -> tuple[int, int | None]:
    number = GPU.number("cudaMalloc")
    if not number and size > GPU.memory_left:
        number = cudaError_t.cudaErrorMemoryAllocation
    return (number, None) if number else (0, GPU.allocate(size))


def cudaFree(pointer: int) -> tuple[int]:
    number = GPU.number("cudaFree")
    GPU.release(pointer)
    return (number,)


def cudaMemcpyAsync(target: int, source: int, count: int, kind: cudaMemcpyKind, stream: int) -> tuple[int]:
    if not isinstance(kind, cudaMemcpyKind):
        raise TypeError("kind must be a cudaMemcpyKind")
    number = GPU.number("cudaMemcpyAsync")
    GPU.require(target if kind is cudaMemcpyKind.cudaMemcpyHostToDevice else source, count)
    if not number:
        GPU.work(stream).append(lambda: ctypes.memmove(target, source, count) and None)
    return (number,)
