"""Warm-up: does the model run, what does a run take, and does a batch help?

Batching helps small models and hurts some others, so it is measured, not configured. A leading dynamic dimension need
not be a batch (time, for a recurrent model): two different items must give the same alone and together.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.backends.base import NUMPY_DTYPES, BackendError
from agent.worker.runner import shape_fits, zeros

if TYPE_CHECKING:
    from agent.backends.base import Array, Session, TensorInfo

LARGEST_BATCH = 64
BUDGET_S = 0.15
"""For all runs together, once the first has shown that the model is not slower than that by itself."""
DOORBELL_S = 30e-6
"""What a batch costs besides its run, at both ends: waking, sending, polling. A batch shares it among its items."""
GAIN = 1.1
"""A larger batch must give a tenth more items per second."""
PARALLEL_FROM_US = 1000.0
"""Shorter runs are not worth a thread of their own: one lane takes all, in larger batches."""
_SAMPLES = 5


class Measurement(NamedTuple):
    """What the warm-up found. An agent that kept it by the variant's digest may pass it to the next start."""

    run_us: float
    """One run of one item, microseconds; 0 when the model's shape is not known before a request."""
    max_batch: int
    lanes: int
    """Threads of the worker that run at the same time."""
    fixed: bool
    """The outputs come in the shape that the model declares: fixed slots can hold them."""


def measure(session: Session, *, cores: int, cap: int, profile: str, budget_s: float = BUDGET_S) -> Measurement:
    """Warms the session up and measures it. `cap` bounds the batch. Raises BackendError(load_failed)."""
    fixed = warm_up(session)
    lanes = cores if session.concurrent and profile != "latency" else 1
    if fixed is None or any(-1 in tensor.shape[1:] for tensor in session.inputs):
        # A run of the smallest possible input says nothing of the runs to come.
        return Measurement(0.0, 1, lanes, fixed=False)
    seconds = _best_time(session, 1, budget_s / 5)
    run_us = round(seconds * 1e6, 1)
    max_batch = _best_batch(session, seconds, min(cap, LARGEST_BATCH), budget_s) if fixed else 1
    return Measurement(run_us, max_batch, lanes if run_us >= PARALLEL_FROM_US else 1, fixed)


def warm_up(session: Session) -> bool | None:
    """Runs one item of zeros. True: outputs have the declared shapes; None: only a request knows the input shapes."""
    names = [tensor.name for tensor in session.outputs]
    try:
        results = session.run(_feeds(session, 1), names)
    except BackendError as error:
        if _has_free_dimensions(session):
            return None
        raise BackendError("load_failed", f"the model fails on a batch of zeros: {error.message}") from None
    return all(shape_fits(result.shape, info.shape) for result, info in zip(results, session.outputs))


def _best_batch(session: Session, single: float, cap: int, budget_s: float) -> int:
    """The largest batch that still pays; 1 when items influence each other."""
    if cap < 2 or not _is_batchable(session) or 8 * single > budget_s or not _items_are_independent(session):
        return 1
    deadline = perf_counter() + budget_s
    best, best_rate, seconds, failures = 1, 1 / (single + DOORBELL_S), single, 0
    batch = 2
    while batch <= cap and failures < 2 and perf_counter() + 4 * seconds < deadline:
        try:
            seconds = _best_time(session, batch, (deadline - perf_counter()) / 4)
        except BackendError:
            return best
        rate = batch / (seconds + DOORBELL_S)
        if rate > GAIN * best_rate:
            best, best_rate, failures = batch, rate, 0
        else:
            failures += 1
        batch *= 2
    return best


def _best_time(session: Session, batch: int, budget_s: float) -> float:
    """Seconds of the quickest of a few runs: what disturbs a run only makes it longer."""
    feeds, names = _feeds(session, batch), [tensor.name for tensor in session.outputs]
    start = perf_counter()
    times: list[float] = []
    while not times or (len(times) < _SAMPLES and perf_counter() - start < budget_s):
        begin = perf_counter()
        session.run(feeds, names)
        times.append(perf_counter() - begin)
    return min(times)


def _items_are_independent(session: Session) -> bool:
    names = [tensor.name for tensor in session.outputs]
    pair = {tensor.name: _two_items(tensor) for tensor in session.inputs}
    try:
        together = session.run(pair, names)
        alone = [session.run({name: array[i : i + 1] for name, array in pair.items()}, names) for i in (0, 1)]
    except BackendError:
        return False
    return all(
        joint.shape[0] == 2 and all(_same(joint[i : i + 1], alone[i][index]) for i in (0, 1))
        for index, joint in enumerate(together)
    )


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    tolerance = 1e-2 if one.dtype.itemsize == 2 else 1e-3
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True))


def _two_items(tensor: TensorInfo) -> Array:
    """Two items that differ; small numbers, so that indices stay in range. The same every time."""
    shape = (2, *(1 if dim == -1 else dim for dim in tensor.shape[1:]))
    if tensor.datatype == "BYTES":
        array = np.full(shape, b"0", dtype=object)
        array[1] = b"1"
        return array
    spread = np.modf(np.arange(np.prod(shape, dtype=np.int64)) * 0.6180339887)[0].reshape(shape)
    if tensor.datatype in ("FP16", "FP32", "FP64"):
        return np.asarray(spread, NUMPY_DTYPES[tensor.datatype])
    bits = np.stack((spread[0] > 0.5, spread[0] <= 0.5))
    one = 0x3F80 if tensor.datatype == "BF16" else 1  # 1.0 in bfloat16
    return np.asarray(bits * np.uint16(one)).astype(NUMPY_DTYPES[tensor.datatype])


def _feeds(session: Session, batch: int) -> dict[str, Array]:
    return {tensor.name: zeros(tensor, batch) for tensor in session.inputs}


def _is_batchable(session: Session) -> bool:
    tensors = (*session.inputs, *session.outputs)
    return bool(session.inputs) and all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)


def _has_free_dimensions(session: Session) -> bool:
    """A dynamic dimension besides the batch: whether 1 is a possible size, nobody knows."""
    skip = 1 if _is_batchable(session) else 0
    return any(-1 in tensor.shape[skip:] for tensor in session.inputs)
