"""Asks a loaded model directly, the way live requests reach it: a fixed slot where the shape is usual, else an arena.

For a worker that the data path does not have: golden vectors before it serves, a validation set beside it. One thread;
every wait has a deadline. What comes back are views into the worker's memory, good until the next call.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Mapping, Sequence

import numpy as np

from agent.errors import TransientError
from agent.worker.channel import OTHER_FORM, ArenaError, ArenaTensor, Buffer, read_arena, write_arena
from agent.worker.spec import Worker
from registry.contracts.codes import DeploymentCode
from registry.contracts.golden_vectors import Array
from registry.contracts.tensors import NUMPY_NAME, Datatype

Request = Mapping[str, ArenaTensor]
"""The tensors of one request, by input name."""


def array_of(data: Buffer, datatype: str, shape: tuple[int, ...]) -> Array:
    """The bytes of a tensor as an array, without a copy; not of BYTES."""
    return np.frombuffer(data, NUMPY_NAME[Datatype(datatype)]).reshape(shape)


class RunFailedError(Exception):
    """The model did not answer this request; it lives on. `code` is an InferenceCode."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class _OtherFormError(RunFailedError):
    """In a fixed slot its answer has no room."""


class Caller:
    """INVARIANT: between calls the worker has nothing of ours; after a TransientError it is only fit to be closed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._layout = worker.layout
        self._specs = {spec.name: spec for spec in worker.outputs}
        self._other_form = False
        """An answer had no room in a fixed slot: from then on arenas are used, as the data path does."""

    def is_fixed(self, request: Request) -> bool:
        """Does a live request like this go into a fixed slot?"""
        layout = self._layout
        return (
            layout.slots > 0
            and not self._other_form
            and len(request) == len(layout.inputs)
            and all(
                tensor.name in request and request[tensor.name].shape == layout.request_shape(tensor)
                for tensor in layout.inputs
            )
        )

    def call(self, request: Request) -> dict[str, Array]:
        """Runs one request; every output by name.

        Raises RunFailedError, or TransientError (worker_crashed, load_timeout): then the worker was ended.
        """
        return self.call_together([request])[0] if self.is_fixed(request) else self._in_arena(request)

    def _in_arena(self, request: Request) -> dict[str, Array]:
        slot = self._layout.slots
        view = self._layout.arena_view(self._worker.memory, slot)
        try:
            write_arena(view, request.values())
        except ArenaError as error:
            raise RunFailedError("too_large", str(error)) from None
        self._ring([slot])
        self._check(slot)
        try:
            answer = {tensor.name: self._array(tensor) for tensor in read_arena(view).tensors}
        except ArenaError as error:
            raise RunFailedError("run_failed", f"the worker's answer cannot be read: {error}") from None
        if answer.keys() != self._specs.keys():
            raise RunFailedError("run_failed", f"the worker's answer lacks outputs: it has {sorted(answer)}")
        return answer

    def call_together(self, requests: Sequence[Request]) -> list[dict[str, Array]]:
        """Runs requests, at most as many as there are slots; the worker batches those that are fixed as it always does.

        Raises as `call` does; one that fails fails the call.
        """
        if all(map(self.is_fixed, requests)):
            try:
                return self._together(requests)
            except _OtherFormError:
                self._other_form = True
        # What comes back is good until the next call.
        return [{name: array.copy() for name, array in self.call(each).items()} for each in requests]

    def _together(self, requests: Sequence[Request]) -> list[dict[str, Array]]:
        layout, memory = self._layout, self._worker.memory
        for slot, request in enumerate(requests):
            for tensor in layout.inputs:
                layout.slot_view(memory, tensor, slot)[:] = memoryview(request[tensor.name].data).cast("B")
        slots = range(len(requests))
        self._ring(slots)
        answers = []
        for slot in slots:
            self._check(slot)
            answers.append(
                {
                    t.name: array_of(layout.slot_view(memory, t, slot), t.datatype, layout.request_shape(t))
                    for t in layout.outputs
                }
            )
        return answers

    def check(self) -> None:
        """Between calls: raises TransientError when the worker has ended meanwhile."""
        poll = select.poll()
        for lane in self._worker.lanes[:1]:
            poll.register(lane, select.POLLIN)
        if poll.poll(0):
            raise self._lost(DeploymentCode.WORKER_CRASHED, "the worker ended between two runs")

    def _array(self, tensor: ArenaTensor) -> Array:
        spec = self._specs.get(tensor.name)
        if spec is None or str(spec.datatype) != tensor.datatype:
            raise ArenaError(f"it has an output {tensor.name!r} that the model does not declare so")
        if tensor.datatype == "BYTES":
            return np.frombuffer(tensor.data, np.uint8)
        return array_of(tensor.data, tensor.datatype, tensor.shape)

    def _check(self, slot: int) -> None:
        status = self._layout.statuses(self._worker.memory)[slot]
        if status == OTHER_FORM:
            raise _OtherFormError("run_failed", "the answer has another shape than the model declares")
        if status:
            raise RunFailedError(*self._layout.error(self._worker.memory, slot))

    def _ring(self, ids: Sequence[int]) -> None:
        """Has the worker run these slots, at most `run_timeout_s`."""
        worker = self._worker
        if not worker.lanes:
            worker.run(ids)
            return
        lane = worker.lanes[0]
        deadline = time.monotonic() + worker.spec.run_timeout_s
        waiting, data = set(ids), b""
        poll = select.poll()
        poll.register(lane, select.POLLIN)
        try:
            lane.sendall(struct.pack(f"<{len(ids)}I", *ids))
            while waiting:
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise self._lost(DeploymentCode.LOAD_TIMEOUT, f"a run took over {worker.spec.run_timeout_s:g} s")
                part = lane.recv(1 << 16)
                data += part
                whole = len(data) & ~3
                done, data = struct.unpack(f"<{whole // 4}I", data[:whole]), data[whole:]
                if not part or not waiting.issuperset(done):
                    raise self._lost(DeploymentCode.WORKER_CRASHED, "the worker ended in a run, or answers nonsense")
                waiting.difference_update(done)
        except OSError as error:
            raise self._lost(DeploymentCode.WORKER_CRASHED, f"the worker ended before a run: {error}") from None

    def _lost(self, code: DeploymentCode, what: str) -> TransientError:
        worker = self._worker
        worker.kill()
        return TransientError(code, f"{worker.spec.model}: {what} ({worker.exit_reason()})")
