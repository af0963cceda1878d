"""Runs a model alone and together in ONNX Runtime: does what was proven hold?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from agent.worker.measure import same

Array = np.ndarray[Any, Any]
_KINDS = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(int8)": "INT8",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}


def session(model: bytes | onnx.ModelProto) -> ort.InferenceSession:
    """On the CPU, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def disagreement(
    runs: ort.InferenceSession, items: Sequence[Mapping[str, Array]], orders: Sequence[Sequence[int]] | None = None
) -> str:
    """How the items together answer otherwise than alone; empty: not at all. Items that fail alone are left out.

    Args:
        runs: From `session`.
        items: One run of one item each: every input with a first dimension of 1.
        orders: Which of them to run together; None: some pairs, all, all backwards.
    """
    names = [output.name for output in runs.get_outputs()]
    kinds = [_KINDS.get(output.type, "?") for output in runs.get_outputs()]
    alone: dict[int, list[Array]] = {}
    for number, item in enumerate(items):
        try:
            alone[number] = runs.run(names, dict(item))
        except Exception:  # noqa: BLE001 - no valid request: it shows nothing
            continue
    able = list(alone)
    for order in orders or [able[:2], able[-2:], able, able[::-1], able[:1] * 3]:
        if len(order) < 2 or any(at not in alone for at in order):
            continue
        feeds = {name: np.concatenate([items[at][name] for at in order]) for name in items[0]}
        try:
            together = runs.run(names, feeds)
        except Exception as error:  # noqa: BLE001 - a fault of the proof as well
            return f"failed together: {str(error)[:300]}"
        for name, kind, joint, at_output in zip(names, kinds, together, range(len(names)), strict=True):
            if joint.shape[:1] != (len(order),):
                return f"{name} came as {joint.shape} for {len(order)} items"
            for place, at in enumerate(order):
                if not same(kind, joint[place : place + 1], alone[at][at_output]):
                    given, wanted = joint[place].ravel()[:8], alone[at][at_output].ravel()[:8]
                    return f"{name} of item {at} in {list(order)}: {given} instead of {wanted}"
    return ""


def random_items(
    runs: ort.InferenceSession, rng: np.random.Generator, count: int = 4, free: int = 3
) -> list[dict[str, Array]]:
    """Items for every input; `free` stands for a free dimension besides the first."""
    found: list[dict[str, Array]] = []
    for number in range(count):
        item: dict[str, Array] = {}
        for given in runs.get_inputs():
            shape = (1, *(dim if isinstance(dim, int) and dim > 0 else free for dim in given.shape[1:]))
            item[given.name] = _random(_KINDS.get(given.type, "?"), shape, rng, number)
        found.append(item)
    return found


def _random(kind: str, shape: tuple[int, ...], rng: np.random.Generator, number: int) -> Array:
    if kind == "BYTES":
        return rng.choice(np.array(["0", "1", "a", "monday"], dtype=object), size=shape)
    if kind == "BOOL":
        return rng.random(shape) < 0.5
    if kind in ("INT64", "INT32", "INT8", "UINT8"):
        return rng.integers(0, 4, shape).astype(kind.lower())
    width = {"FP64": np.float64, "FP16": np.float16}.get(kind, np.float32)
    return (rng.standard_normal(shape) * (number + 1) / 2).astype(width)
