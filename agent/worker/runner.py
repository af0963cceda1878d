"""Runs what lies in the slots: the same code in a worker process and inline in the agent.

Fixed slots run as batches, arenas one by one. Neighbouring slots are a batch without a copy, others are gathered. A
batch that fails runs again item by item, so that one bad item does not fail its neighbours.
Standard library, NumPy and backends only, Python 3.9 syntax.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from agent.backends.base import NUMPY_DTYPES, BackendError, is_memory_fault, optional_inputs
from agent.worker.channel import (
    OTHER_FORM,
    ArenaError,
    ArenaFullError,
    ArenaTensor,
    join_bytes,
    read_arena,
    split_bytes,
    write_arena,
)

if TYPE_CHECKING:
    from agent.backends.base import Array, BackendSession
    from agent.worker.channel import Buffer, FixedTensor, Layout


OUT_OF_MEMORY = "the run needs more memory than the worker may have: see worker.memory_bytes"


class Runner:
    """One session over one memory. Threads may call `run` at once when the session is concurrent."""

    def __init__(
        self,
        session: BackendSession,
        layout: Layout,
        memory: memoryview,
        max_batch: int,
        any_rank: Collection[str] = (),
    ) -> None:
        """`any_rank`: the inputs whose shape is not declared, so that a session cannot say it either."""
        self._session = session
        self._layout = layout
        self._memory = memory
        self._max_batch = max_batch if layout.batchable else 1
        self._slots = layout.slots
        self._arena_bounds = _bounds(memory)
        self._required = [tensor.name for tensor in session.inputs]
        self._inputs = {tensor.name: tensor for tensor in (*session.inputs, *optional_inputs(session))}
        self._any_rank = frozenset(any_rank)
        self._outputs = {tensor.name: tensor for tensor in session.outputs}
        self._all_outputs = [tensor.name for tensor in session.outputs]
        self._fixed_inputs = [(tensor.name, self._region(tensor)) for tensor in layout.inputs]
        self._fixed_outputs = [self._region(tensor) for tensor in layout.outputs]
        self._fixed_names = [tensor.name for tensor in layout.outputs]
        self._status = np.frombuffer(memory, "<u4", layout.ids, layout.status_offset)

    def run_alone(self) -> None:
        """From now on one request at a time."""
        self._max_batch = 1

    def take(self, pending: Sequence[int]) -> int:
        """How many of the waiting ids, from the first on, go together into one `run`."""
        if pending[0] >= self._slots:
            return 1
        count = 1
        for slot in pending[1 : self._max_batch]:
            if slot >= self._slots:
                break
            count += 1
        return count

    def run(self, ids: Sequence[int]) -> None:
        """Runs the requests in these slots; each gets its reply and its status. Never raises for a bad request."""
        done = 0
        while done < len(ids):
            count = self.take(ids[done : done + self._max_batch])
            group = list(ids[done : done + count])
            if group[0] < self._slots:
                self._run_fixed(group)
            else:
                self._run_arena(group[0])
            done += count

    def _region(self, tensor: FixedTensor) -> Array:
        """All slots of a fixed tensor as one array [slots, *shape of one item]."""
        dtype = np.dtype(NUMPY_DTYPES[tensor.datatype])
        items = self._layout.slots * tensor.item_bytes // dtype.itemsize
        flat = np.frombuffer(self._memory, dtype, items, tensor.offset)
        return flat.reshape(self._layout.slots, *tensor.item_shape)

    def _run_fixed(self, ids: list[int]) -> None:
        first, count = ids[0], len(ids)
        # A slice where the slots follow each other: a view; else a gather, which copies.
        where = slice(first, first + count) if ids == list(range(first, first + count)) else ids
        try:
            if self._layout.batchable:
                feeds = {name: region[where] for name, region in self._fixed_inputs}
                results = self._session.run(feeds, self._fixed_names)
            else:
                # The ellipsis keeps a scalar input an array, of no dimensions.
                feeds = {name: region[first, ...] for name, region in self._fixed_inputs}
                results = [result[np.newaxis] for result in self._session.run(feeds, self._fixed_names)]
            if all(r.shape == (count, *region.shape[1:]) for region, r in zip(self._fixed_outputs, results)):
                for region, result in zip(self._fixed_outputs, results):
                    region[where] = result
                self._status[where] = 0
            elif count == 1:
                self._status[first] = OTHER_FORM
            else:
                for slot in ids:
                    self._run_fixed([slot])
        except Exception as error:  # noqa: BLE001 - the worker outlives any failure of a run, and says what it was
            if count == 1:
                self._fail(first, error)
            else:
                for slot in ids:
                    self._run_fixed([slot])

    def _run_arena(self, slot_id: int) -> None:
        view = self._layout.arena_view(self._memory, slot_id)
        try:
            content = read_arena(view)
            names = self._wanted(content.outputs)
            results = self._session.run(self._feeds(content.tensors), names)
            replies = [self._reply(name, result) for name, result in zip(names, results)]
            write_arena(view, replies)
            self._status[slot_id] = 0
        except Exception as error:  # noqa: BLE001 - the worker outlives any failure of a run, and says what it was
            self._fail(slot_id, error)

    def _wanted(self, outputs: Sequence[str] | None) -> list[str]:
        names = self._all_outputs if outputs is None else list(outputs)
        for name in names:
            if name not in self._outputs:
                raise BackendError("unknown_output", f"the model has no output {name!r}")
        return names

    def _feeds(self, tensors: Sequence[ArenaTensor]) -> dict[str, Array]:
        feeds = {}
        for tensor in tensors:
            info = self._inputs.get(tensor.name)
            if info is None:
                raise BackendError("unknown_input", f"the model has no input {tensor.name!r}")
            if tensor.datatype != info.datatype:
                raise BackendError("wrong_datatype", f"input {info.name!r} is {info.datatype}, not {tensor.datatype}")
            if tensor.name not in self._any_rank and not shape_fits(tensor.shape, info.shape):
                wanted, given = list(info.shape), list(tensor.shape)
                raise BackendError("wrong_shape", f"input {info.name!r} has shape {wanted}, not {given}")
            feeds[tensor.name] = _array(tensor)
        missing = [name for name in self._required if name not in feeds]
        if missing:
            raise BackendError("missing_input", f"input {missing[0]!r} is missing")
        return feeds

    def _reply(self, name: str, result: Array) -> ArenaTensor:
        info = self._outputs[name]
        data: Buffer
        if info.datatype == "BYTES":
            data = join_bytes(result.ravel().tolist())
        else:
            array = np.ascontiguousarray(result, NUMPY_DTYPES[info.datatype])
            start, end = _bounds(array)
            if start < self._arena_bounds[1] and self._arena_bounds[0] < end:
                array = array.copy()  # a runtime that hands an input through: the reply is written over it
            data = array.reshape(-1).view(np.uint8).data if array.size else b""
        return ArenaTensor(name, info.datatype, result.shape, data)

    def _fail(self, slot_id: int, error: Exception) -> None:
        if isinstance(error, BackendError):
            code, text = error.code, error.message
        elif isinstance(error, ArenaFullError):
            code, text = "result_too_large", f"the outputs do not fit: {error}"
        elif isinstance(error, ArenaError):
            code, text = "bad_payload", str(error)
        elif is_memory_fault(error):
            code, text = "out_of_memory", OUT_OF_MEMORY
        else:
            code, text = "run_failed", f"{type(error).__name__}: {error}"
        self._layout.set_error(self._memory, slot_id, code, text)


def shape_fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """The rank agrees and so does every dimension that is declared fixed."""
    return len(shape) == len(declared) and all(want in (-1, have) for have, want in zip(shape, declared))


def _array(tensor: ArenaTensor) -> Array:
    if tensor.datatype != "BYTES":
        return np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.datatype]).reshape(tensor.shape)
    count = prod(tensor.shape)
    flat = np.empty(count, dtype=object)
    flat[:] = split_bytes(tensor.data, count)
    return flat.reshape(tensor.shape)


def _bounds(buffer: memoryview | Array) -> tuple[int, int]:
    """First and last address + 1 of a contiguous buffer."""
    start = np.asarray(buffer).__array_interface__["data"][0]
    return start, start + buffer.nbytes
