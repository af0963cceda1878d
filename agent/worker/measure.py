"""Warm-up: does the model run, what does a run take, and does a batch help?

Nobody knows what a valid request is, so inputs are tried: those of the golden vectors, then plain values. A model that
runs with none of them is served all the same, unmeasured. Only a fault of memory refuses it. The same are tried every
time.

Batching helps small models and hurts some others, so its size is measured. Whether items may run together at all is
not: the manifest permits it (`cap` is 1 where it does not), and a numerical probe here may veto it, never permit it.
Each sample item is run alone; then the same items run together in several ways, and each must give what it gave alone.
A few samples can show that items mix. They cannot show that items do not.

What "the same" means: integers, booleans and texts bit for bit. Floats within ROUNDING of the largest magnitude in the
item (at least of 1), because kernels add in another order for another size; NaN and infinities at the same places.
Standard library and NumPy only, Python 3.9 syntax.
"""

from __future__ import annotations

import contextlib
import os
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agent.backends.base import NUMPY_DTYPES, RAW, BackendError, is_memory_fault
from agent.worker.runner import shape_fits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.backends.base import Array, BackendSession, TensorInfo

    Feeds = dict[str, Array]

LARGEST_BATCH = 64
BUDGET_S = 0.15
"""For all runs together, once the first has shown that the model is not slower than that by itself."""
DOORBELL_S = 30e-6
"""What a batch costs besides its run, at both ends: waking, sending, polling. A batch shares it among its items."""
GAIN = 1.1
"""A larger batch must give a tenth more items per second."""
PARALLEL_FROM_US = 1000.0
"""Shorter runs are not worth a thread of their own: one lane takes all, in larger batches."""
MAX_VERDICT = 300
"""Characters of a reason."""
_SAMPLES = 5
ROUNDING = {"FP64": 1e-9, "FP32": 1e-4, "FP16": 1e-2, "BF16": 3e-2}
_UNLIKE = 4
_GOLDEN_RATIO = 0.6180339887


class Measurement(NamedTuple):
    """What the warm-up found. An agent that kept it by the variant's digest may pass it to the next start."""

    run_us: float
    """One run of one item, microseconds; 0 when the model's shape is not known before a request."""
    max_batch: int
    lanes: int
    """Threads of the worker that run at the same time."""
    fixed: bool
    """The outputs come in the shape that the model declares: fixed slots can hold them."""
    cap: int = 0
    """The largest batch that was allowed when this was measured; 0: not known."""
    verdict: str = ""
    """Why `max_batch` is 1 although `cap` is more; empty: larger ones are no faster."""
    trial: str = ""
    """Why nothing could be measured; empty: a trial run went well, or sizes are known only from a request."""


class MeasuredRun(NamedTuple):
    """A run that went well."""

    feeds: Feeds
    fixed: bool
    """The outputs had the declared shapes."""


def measure(
    session: BackendSession,
    *,
    cores: int,
    cap: int,
    profile: str,
    given: Sequence[Feeds] = (),
    budget_s: float = BUDGET_S,
) -> Measurement:
    """Warms the session up and measures it. `cap` bounds the batch; `given` are requests that the publisher gave.

    Raises BackendError: out_of_memory.
    """
    trial = warm_up(session, given)
    if any(-1 in tensor.shape[1:] for tensor in session.inputs):
        # A run of the smallest possible input says nothing of the runs to come.
        verdict = "its inputs have free sizes besides the first"
        return Measurement(0.0, 1, _lanes(session, cores, profile), False, cap, verdict)
    if isinstance(trial, str):
        free = _has_free_dimensions(session)
        why = "" if free else trial
        return unmeasured(session, cores=cores, cap=cap, profile=profile, why=why)._replace(fixed=not free)
    feeds, fixed = trial
    seconds = _best_time(session, feeds, budget_s / 5)
    run_us = round(seconds * 1e6, 1)
    lanes = _lanes(session, cores, profile) if run_us >= PARALLEL_FROM_US else 1
    max_batch, verdict = _best_batch(session, feeds, seconds, min(cap, LARGEST_BATCH), budget_s, fixed=fixed)
    return Measurement(run_us, max_batch, lanes, fixed, cap, verdict)


def unmeasured(session: BackendSession, *, cores: int, cap: int, profile: str, why: str) -> Measurement:
    """Of a model of which nothing could be measured."""
    return Measurement(0.0, 1, _lanes(session, cores, profile), True, cap, "nothing could be measured", why)


def warm_up(session: BackendSession, given: Sequence[Feeds] = ()) -> MeasuredRun | str:
    """The first of some trial requests that runs; or why the first of them did not.

    Raises BackendError: out_of_memory, when none runs and that is what the first failed with. Some runtimes say of the
    others only that an earlier run failed.
    """
    names = [tensor.name for tensor in session.outputs]
    first: BackendError | None = None
    memory = False
    for feeds in trial_feeds(session, given):
        try:
            results = session.run(feeds, names)
        except Exception as error:  # noqa: BLE001 - whatever a vendor makes of a request that it does not like
            fault = error if isinstance(error, BackendError) else BackendError("run_failed", str(error))
            if first is None:
                first, memory = fault, fault.code == "out_of_memory" or is_memory_fault(error)
            continue
        fits = all(shape_fits(result.shape, info.shape) for result, info in zip(results, session.outputs))
        return MeasuredRun(feeds, fits)
    why = first.message if first is not None else "there is no request to try"
    if memory:
        raise BackendError("out_of_memory", f"a trial run needs more memory than the worker may have: {why}")
    return f"its trial runs failed: {why}"[:MAX_VERDICT]


def _lanes(session: BackendSession, cores: int, profile: str) -> int:
    return cores if session.concurrent and profile != "latency" else 1


def _best_batch(
    session: BackendSession, feeds: Feeds, single: float, cap: int, budget_s: float, *, fixed: bool
) -> tuple[int, str]:
    """The largest batch that still pays, and why it is 1 where that is not its speed."""
    if cap < 2:
        return 1, ""
    if not fixed or not _is_batchable(session):
        return 1, "not every input and output has a free first dimension"
    if session.batch_sizes == (1,):
        return 1, f"{session.provider} runs one item at a time here"
    if 8 * single > budget_s:
        return 1, "one run takes too long for a batch to help"
    why = veto(session, cap)
    if why:
        return 1, why
    if session.batch_sizes:
        return _best_size(session, feeds, single, cap, budget_s), ""
    deadline = perf_counter() + budget_s
    best, best_rate, seconds, failures = 1, 1 / (single + DOORBELL_S), single, 0
    batch = 2
    while batch <= cap and failures < 2 and perf_counter() + 4 * seconds < deadline:
        try:
            seconds = _best_time(session, batch_of(feeds, batch), (deadline - perf_counter()) / 4)
        except BackendError:
            return best, ""
        rate = batch / (seconds + DOORBELL_S)
        if rate > GAIN * best_rate:
            best, best_rate, failures = batch, rate, 0
        else:
            failures += 1
        batch *= 2
    return best, ""


def _best_size(session: BackendSession, feeds: Feeds, single: float, cap: int, budget_s: float) -> int:
    """The one of the session's sizes that gives most items per second. The first run of each is not timed: it plans."""
    best, best_rate = 1, 1 / (single + DOORBELL_S)
    for size in session.batch_sizes:
        if 1 < size <= cap:
            _warm_sizes(session, feeds, size, size)
            try:
                rate = size / (_best_time(session, batch_of(feeds, size), budget_s / 4) + DOORBELL_S)
            except BackendError:
                return best
            if rate > GAIN * best_rate:
                best, best_rate = size, rate
    return best


def warm_again(session: BackendSession, given: Sequence[Feeds], known: Measurement) -> None:
    """Warms up what was measured before. Raises BackendError: out_of_memory."""
    trial = warm_up(session, given)
    if isinstance(trial, MeasuredRun):
        _warm_sizes(session, trial.feeds, 2, known.max_batch)


def _warm_sizes(session: BackendSession, feeds: Feeds, smallest: int, largest: int) -> None:
    """One run of each of the session's sizes in between: the first run of a size makes its plans, and is slow."""
    names = [tensor.name for tensor in session.outputs]
    for size in session.batch_sizes:
        if smallest <= size <= largest:
            with contextlib.suppress(BackendError):  # what runs alone need not run together; the first batch plans then
                session.run(batch_of(feeds, size), names)


def _best_time(session: BackendSession, feeds: Feeds, budget_s: float) -> float:
    """Seconds of the quickest of a few runs: what disturbs a run only makes it longer."""
    names = [tensor.name for tensor in session.outputs]
    start = perf_counter()
    times: list[float] = []
    while not times or (len(times) < _SAMPLES and perf_counter() - start < budget_s):
        begin = perf_counter()
        session.run(feeds, names)
        times.append(perf_counter() - begin)
    return min(times)


def _is_batchable(session: BackendSession) -> bool:
    tensors = (*session.inputs, *session.outputs)
    return bool(session.inputs) and all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)


def _has_free_dimensions(session: BackendSession) -> bool:
    """A dynamic dimension besides the batch: whether 1 is a possible size, nobody knows."""
    skip = 1 if _is_batchable(session) else 0
    return any(-1 in tensor.shape[skip:] for tensor in session.inputs)


def veto(session: BackendSession, cap: int) -> str:
    """Why requests must not be joined, by trying up to `cap` items together; empty: nothing was seen against it."""
    unlike, zero = unlike_feeds(session, _UNLIKE), zero_feeds(session, 1)
    items = [{name: array[at : at + 1] for name, array in unlike.items()} for at in range(_UNLIKE)] + [zero]
    names = [tensor.name for tensor in session.outputs]
    tried = [(item, _answer(session, item, names)) for item in items]
    able = [item for item, answer in tried if answer is not None]
    alone = [answer for _, answer in tried if answer is not None]
    for order in _orders(len(able), cap):
        why = _differs(session, names, order, able, alone)
        if why:
            return f"a trial run of {len(order)} items together {why}"
    return ""


def _answer(session: BackendSession, item: dict[str, Array], names: Sequence[str]) -> list[Array] | None:
    """None: a sample that is no valid request shows nothing."""
    try:
        return session.run(item, names)
    except Exception:  # noqa: BLE001 - whatever a vendor raises
        return None


def same(datatype: str, one: Array, other: Array) -> bool:
    """Are these two answers for the same item equal, as said above?"""
    if one.shape != other.shape:
        return False
    if datatype not in ROUNDING:
        return bool(np.array_equal(one, other))
    left, right = _numbers(datatype, one), _numbers(datatype, other)
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    scale = float(np.abs(right[finite]).max(initial=1.0))
    return bool((np.abs(left[finite] - right[finite]) <= ROUNDING[datatype] * scale).all())


def _orders(count: int, cap: int) -> list[list[int]]:
    """Which items run together: a pair, three, all, all backwards, twice the same, more than all of them."""
    every = list(range(count))
    tried = [every[:2], every[:3], every, every[::-1], every[:1] * 2, (every * 2)[: count + 2]]
    kept: list[list[int]] = []
    for order in tried:
        if 2 <= len(order) <= cap and order not in kept:
            kept.append(order)
    return kept


def _differs(
    session: BackendSession,
    names: Sequence[str],
    order: Sequence[int],
    items: Sequence[dict[str, Array]],
    alone: Sequence[list[Array]],
) -> str:
    feeds = {name: np.concatenate([items[at][name] for at in order]) for name in items[0]}
    try:
        together = session.run(feeds, names)
    except Exception as error:  # noqa: BLE001 - as above: what runs alone must run together
        return f"failed where each alone did not: {str(error)[:200]}"
    for index, (info, joint) in enumerate(zip(session.outputs, together)):
        if joint.shape[:1] != (len(order),):
            return f"gave output {info.name[:64]!r} with shape {list(joint.shape)}"
        for place, at in enumerate(order):
            if not same(info.datatype, joint[place : place + 1], alone[at][index]):
                return f"gave another {info.name[:64]!r} than each alone"
    return ""


def _numbers(datatype: str, array: Array) -> NDArray[np.float64]:
    """In double precision. BF16 comes as its 16 raw bits, the upper half of a float."""
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4").astype(np.float64)
    return array.astype(np.float64)


def _zeros(tensor: TensorInfo, batch: int) -> Array:
    """A zero tensor for the model's input: `batch` for a leading dynamic dimension, 1 for any other."""
    shape = [1 if dim == -1 else dim for dim in tensor.shape]
    if tensor.shape and tensor.shape[0] == -1:
        shape[0] = batch
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, NUMPY_DTYPES[tensor.datatype])


def zero_feeds(session: BackendSession, batch: int) -> Feeds:
    """A run of `batch` items of zeros, or of empty texts."""
    return {tensor.name: _zeros(tensor, batch) for tensor in session.inputs}


def read_samples(descriptor: int, cases: Sequence[Mapping[str, Sequence[Any]]]) -> list[Feeds]:
    """The requests of a file: of each case by input [datatype, shape, first byte, end]. Closes the descriptor."""
    try:
        return [{name: _read(descriptor, *span) for name, span in case.items()} for case in cases]
    finally:
        os.close(descriptor)


def _read(descriptor: int, datatype: str, shape: Sequence[int], begin: int, end: int) -> Array:
    return np.frombuffer(os.pread(descriptor, end - begin, begin), NUMPY_DTYPES[datatype]).reshape(shape)


def trial_feeds(session: BackendSession, given: Sequence[Feeds]) -> Iterator[Feeds]:
    """Requests to try one after the other until one runs: the publisher's, then values that are seldom out of range.

    Zero is no divisor, no step, no scale and no number of rows; one is no index into a single row.
    """
    yield from given
    yield zero_feeds(session, 1)
    for text, number in ((b"1", 1), (b"0", 2)):
        yield {tensor.name: _full(tensor, text, number) for tensor in session.inputs}
    yield {name: array[:1] for name, array in unlike_feeds(session, 1).items()}
    yield {tensor.name: _counted(tensor) for tensor in session.inputs}


def batch_of(feeds: Feeds, count: int) -> Feeds:
    """`count` items along the first axis, each the first of these."""
    return {name: np.repeat(array[:1], count, axis=0) for name, array in feeds.items()}


def _full(tensor: TensorInfo, text: bytes, number: int) -> Array:
    array = _zeros(tensor, 1)
    if tensor.datatype == "BYTES":
        array.fill(text)
    elif tensor.datatype not in RAW:
        array.fill(number)
    elif tensor.datatype == "BF16":
        array.fill(0x3F80)
    return array


def _counted(tensor: TensorInfo) -> Array:
    """1, 2, 3, ...: sorted and without twins, as axes, splits and edges are."""
    array = _zeros(tensor, 1)
    if tensor.datatype == "BYTES" or tensor.datatype in RAW:
        return _full(tensor, b"2", 1)
    return (np.arange(array.size) % 100 + 1).reshape(array.shape).astype(array.dtype)


def unlike_feeds(session: BackendSession, count: int) -> Feeds:
    """`count` items along the first axis of every input, no two of them alike where the type has as many values.

    Small numbers, so that indices stay in range: fractions below 1 and 0s and 1s.
    """
    return {tensor.name: _unlike(tensor, count) for tensor in session.inputs}


def _unlike(tensor: TensorInfo, count: int) -> Array:
    shape = (count, *(1 if dim == -1 else dim for dim in tensor.shape[1:]))
    if tensor.datatype == "BYTES":
        texts = np.array([b"0", b"1", b"", b"a", b"10"], dtype=object)
        items = np.empty(shape, dtype=object)
        for number in range(count):
            items[number] = texts[number % len(texts)]
        return items
    spread = np.modf(np.arange(np.prod(shape, dtype=np.int64)) * _GOLDEN_RATIO)[0].reshape(shape)
    if tensor.datatype in ("FP16", "FP32", "FP64"):
        levels = (np.arange(count) + 1.0) / count  # items of unlike magnitude: what is taken over all of them differs
        return np.asarray(spread * levels.reshape(count, *[1] * (len(shape) - 1)), NUMPY_DTYPES[tensor.datatype])
    # The share of ones differs from item to item: a single element still alternates.
    steps = np.modf((np.arange(count) + 1) * _GOLDEN_RATIO)[0].reshape(count, *[1] * (len(shape) - 1))
    bits = spread < steps if spread[0].size > 1 else (np.arange(count) % 2).reshape(shape) == 1
    one = 0x3F80 if tensor.datatype == "BF16" else 1  # 1.0 in bfloat16
    return np.asarray(bits * np.uint16(one)).astype(NUMPY_DTYPES[tensor.datatype])
