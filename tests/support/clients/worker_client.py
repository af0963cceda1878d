"""Drives a loaded model as the data path does: slots, doorbells, arenas."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.worker.channel import ArenaTensor, read_arena, write_arena
from agent.worker.spec import Worker

PATIENCE_S = 20.0


def ring(worker: Worker, ids: Sequence[int], lane: int = 0) -> list[int]:
    """Runs these slots; the ids in the order they came back. EOFError when the worker is gone."""
    if not worker.lanes:
        worker.run(ids)
        return list(ids)
    sock = worker.lanes[lane]
    sock.sendall(struct.pack(f"<{len(ids)}I", *ids))
    data = b""
    deadline = time.monotonic() + PATIENCE_S
    while len(data) < 4 * len(ids):
        assert select.select([sock], [], [], deadline - time.monotonic())[0], "the worker does not answer"
        part = sock.recv(1 << 16)
        if not part:
            raise EOFError
        data += part
    return list(struct.unpack(f"<{len(ids)}I", data))


def put(worker: Worker, slot: int, values: Any) -> None:
    """One item into the first input of a fixed slot."""
    worker.layout.slot_view(worker.memory, worker.layout.inputs[0], slot)[:] = np.ascontiguousarray(values).tobytes()


def get(worker: Worker, slot: int, dtype: str = "<f4") -> list[Any] | tuple[str, str]:
    """The first output of a fixed slot, flat; or (code, text)."""
    if worker.layout.statuses(worker.memory)[slot]:
        return worker.layout.error(worker.memory, slot)
    return np.frombuffer(bytes(worker.layout.slot_view(worker.memory, worker.layout.outputs[0], slot)), dtype).tolist()


def arena(worker: Worker, *tensors: ArenaTensor, outputs: list[str] | None = None) -> Any:
    """One request through the first arena: {name: tensor with its bytes}, or (code, text)."""
    slot_id = worker.layout.slots
    view = worker.layout.arena_view(worker.memory, slot_id)
    write_arena(view, tensors, outputs)
    assert ring(worker, [slot_id]) == [slot_id]
    if worker.layout.statuses(worker.memory)[slot_id]:
        return worker.layout.error(worker.memory, slot_id)
    return {t.name: t._replace(data=bytes(t.data)) for t in read_arena(view).tensors}


def is_gone(pid: int) -> bool:
    """No such process any more (a zombie is one)."""
    return not Path(f"/proc/{pid}").exists()


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
