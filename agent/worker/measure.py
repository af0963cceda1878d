"""Warm-up: does the model run, what does a run take, and does a batch help?

Batching helps small models and hurts some others, so its size is measured. Whether items may run together at all is
not: the manifest permits it (`cap` is 1 where it does not), and a probe here may veto it.
"""

from __future__ import annotations

import contextlib
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from agent.backends.base import BackendError
from agent.worker.probe import veto
from agent.worker.runner import shape_fits
from agent.worker.samples import zero_feeds

if TYPE_CHECKING:
    from agent.backends.base import Session

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
    cap: int = 0
    """The largest batch that was allowed when this was measured; 0: not known."""
    verdict: str = ""
    """Why `max_batch` is 1 although `cap` is more; empty: larger ones are no faster."""


def measure(session: Session, *, cores: int, cap: int, profile: str, budget_s: float = BUDGET_S) -> Measurement:
    """Warms the session up and measures it. `cap` bounds the batch. Raises BackendError(load_failed)."""
    fixed = warm_up(session)
    lanes = cores if session.concurrent and profile != "latency" else 1
    if fixed is None or any(-1 in tensor.shape[1:] for tensor in session.inputs):
        # A run of the smallest possible input says nothing of the runs to come.
        return Measurement(0.0, 1, lanes, False, cap, "its inputs have free sizes besides the first")
    seconds = _best_time(session, 1, budget_s / 5)
    run_us = round(seconds * 1e6, 1)
    max_batch, verdict = _best_batch(session, seconds, min(cap, LARGEST_BATCH), budget_s, fixed=fixed)
    return Measurement(run_us, max_batch, lanes if run_us >= PARALLEL_FROM_US else 1, fixed, cap, verdict)


def warm_up(session: Session) -> bool | None:
    """Runs one item of zeros. True: outputs have the declared shapes; None: only a request knows the input shapes."""
    names = [tensor.name for tensor in session.outputs]
    try:
        results = session.run(zero_feeds(session, 1), names)
    except BackendError as error:
        if _has_free_dimensions(session):
            return None
        raise BackendError("load_failed", f"the model fails on a batch of zeros: {error.message}") from None
    return all(shape_fits(result.shape, info.shape) for result, info in zip(results, session.outputs))


def _best_batch(session: Session, single: float, cap: int, budget_s: float, *, fixed: bool) -> tuple[int, str]:
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
        return _best_size(session, single, cap, budget_s), ""
    deadline = perf_counter() + budget_s
    best, best_rate, seconds, failures = 1, 1 / (single + DOORBELL_S), single, 0
    batch = 2
    while batch <= cap and failures < 2 and perf_counter() + 4 * seconds < deadline:
        try:
            seconds = _best_time(session, batch, (deadline - perf_counter()) / 4)
        except BackendError:
            return best, ""
        rate = batch / (seconds + DOORBELL_S)
        if rate > GAIN * best_rate:
            best, best_rate, failures = batch, rate, 0
        else:
            failures += 1
        batch *= 2
    return best, ""


def _best_size(session: Session, single: float, cap: int, budget_s: float) -> int:
    """The one of the session's sizes that gives most items per second. The first run of each is not timed: it plans."""
    best, best_rate = 1, 1 / (single + DOORBELL_S)
    for size in session.batch_sizes:
        if 1 < size <= cap:
            warm_sizes(session, size, size)
            try:
                rate = size / (_best_time(session, size, budget_s / 4) + DOORBELL_S)
            except BackendError:
                return best
            if rate > GAIN * best_rate:
                best, best_rate = size, rate
    return best


def warm_sizes(session: Session, smallest: int, largest: int) -> None:
    """One run of each of the session's sizes in between: the first run of a size makes its plans, and is slow."""
    names = [tensor.name for tensor in session.outputs]
    for size in session.batch_sizes:
        if smallest <= size <= largest:
            with contextlib.suppress(BackendError):  # zeros may be no valid request; the first batch plans then
                session.run(zero_feeds(session, size), names)


def _best_time(session: Session, batch: int, budget_s: float) -> float:
    """Seconds of the quickest of a few runs: what disturbs a run only makes it longer."""
    feeds, names = zero_feeds(session, batch), [tensor.name for tensor in session.outputs]
    start = perf_counter()
    times: list[float] = []
    while not times or (len(times) < _SAMPLES and perf_counter() - start < budget_s):
        begin = perf_counter()
        session.run(feeds, names)
        times.append(perf_counter() - begin)
    return min(times)


def _is_batchable(session: Session) -> bool:
    tensors = (*session.inputs, *session.outputs)
    return bool(session.inputs) and all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)


def _has_free_dimensions(session: Session) -> bool:
    """A dynamic dimension besides the batch: whether 1 is a possible size, nobody knows."""
    skip = 1 if _is_batchable(session) else 0
    return any(-1 in tensor.shape[skip:] for tensor in session.inputs)
