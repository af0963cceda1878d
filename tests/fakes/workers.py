"""A worker in threads of the test: the real memory layout, the real runner and real doorbells, without a process."""

from __future__ import annotations

import mmap
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.backends.base import BackendError, TensorInfo
from agent.dataplane.oip.plan import Binding
from agent.worker.channel import make_layout
from agent.worker.runner import Runner
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import TensorSpec

if TYPE_CHECKING:
    from agent.backends.base import Array


class DoublingSession:
    """y = 2 * x, FP32. A first element of -1 makes the run fail, as a bad item does."""

    provider = "fake"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.inputs = (TensorInfo("x", "FP32", shape),)
        self.outputs = (TensorInfo("y", "FP32", shape),)

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        x = feeds["x"]
        if x.size and bool((x.reshape(len(x), -1)[:, 0] == -1).any()):
            raise BackendError("run_failed", "the first element is -1")
        return [x * 2 for _ in outputs]

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True)
class Limits:
    """The part of a WorkerSpec that the data path reads."""

    run_timeout_s: float = 30.0
    slots: int = 64


class FakeWorker:
    """See agent.worker.spec.Worker. `gate` holds runs back while it is cleared; `die` is a crash."""

    def __init__(
        self,
        shape: tuple[int, ...] = (-1, 4),
        *,
        slots: int = 64,
        arenas: int = 4,
        arena_bytes: int = 1 << 20,
        max_batch: int = 8,
        lanes: int = 1,
        run_timeout_s: float = 30.0,
    ) -> None:
        session = DoublingSession(shape)
        self.spec = Limits(run_timeout_s, slots)
        self.inputs = (TensorSpec(name="x", datatype="FP32", shape=shape),)
        self.outputs = (TensorSpec(name="y", datatype="FP32", shape=shape),)
        self.layout = make_layout(session.inputs, session.outputs, slots=slots, arenas=arenas, arena_bytes=arena_bytes)
        fd = os.memfd_create("fake-worker")
        os.ftruncate(fd, self.layout.total)
        self.memory = memoryview(mmap.mmap(fd, self.layout.total))
        os.close(fd)
        self.max_batch = max_batch
        self.backend, self.provider = "fake", "threads"
        self.batching = f"up to {max_batch} together"
        self.gate = threading.Event()
        self.gate.set()
        self.killed = threading.Event()
        self.batches: list[int] = []
        self._runner = Runner(session, self.layout, self.memory, max_batch)
        pairs = [socket.socketpair() for _ in range(lanes)]
        self.lanes = tuple(near for near, _ in pairs)
        self._far = tuple(far for _, far in pairs)
        self._threads = [threading.Thread(target=self._serve, args=(far,), daemon=True) for far in self._far]
        for near in self.lanes:
            near.setblocking(False)
        for thread in self._threads:
            thread.start()

    def _serve(self, doorbell: socket.socket) -> None:
        pending: list[int] = []
        while True:
            if not pending:
                try:
                    data = doorbell.recv(1 << 16)
                except OSError:
                    return
                if not data:
                    return
                pending += np.frombuffer(data, "<u4").tolist()
            self.gate.wait()
            group = pending[: self._runner.take(pending)]
            del pending[: len(group)]
            self.batches.append(len(group))
            self._runner.run(group)
            try:
                doorbell.sendall(np.array(group, "<u4").tobytes())
            except OSError:
                return

    def run(self, ids: Sequence[int]) -> None:
        """Inline."""
        self._runner.run(ids)

    def kill(self) -> None:
        """Ends it."""
        self.killed.set()
        self.die()

    def die(self) -> None:
        """The far ends close, as when a process is gone."""
        for far in self._far:
            try:
                far.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Ends the threads."""
        self.gate.set()
        self.die()
        for thread in self._threads:
            thread.join(5)
        for near, far in zip(self.lanes, self._far, strict=True):
            near.close()
            far.close()


def binding_for(
    worker: FakeWorker | Worker, model: str = "double", version: str = "1.0.0", device: str = "dev1", **extra: object
) -> Binding:
    """A binding that fits the worker."""
    return Binding(
        model=model,
        version=version,
        manifest_digest="sha256:" + "0" * 64,
        variant="fake",
        variant_digest="sha256:" + "1" * 64,
        device=device,
        format="onnx",
        inputs=tuple(worker.inputs),
        outputs=tuple(worker.outputs),
        **extra,  # type: ignore[arg-type]
    )
