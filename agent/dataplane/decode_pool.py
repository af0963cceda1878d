"""A few threads for what takes milliseconds: pictures and long JSON. Bounded; the data thread never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from agent.dataplane.oip.plan import RequestPlan
from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError, quote

MAX_PENDING = 32
"""Requests that are being decoded or wait for it; the next is refused."""
MAX_PENDING_BYTES = 64 << 20
"""Their payloads; a longer one is taken when nothing else waits."""

Decoded = tuple[RequestPlan, int]


class DecodePool:
    """INVARIANT: `then` runs on the data thread, exactly once for each accepted job, unless the pool was closed."""

    def __init__(self, post: Callable[[Callable[[], None]], None], threads: int = 2) -> None:
        self._post = post
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.pending = 0
        self._bytes = 0

    def submit(self, job: Callable[[], Decoded], size: int, then: Callable[[Decoded | RequestError], None]) -> None:
        """Runs `job` in a thread and gives its result, or refusal, to `then`. `size`: the bytes that it holds.

        Raises RequestError when full.
        """
        if self.pending >= MAX_PENDING or (self.pending and self._bytes + size > MAX_PENDING_BYTES):
            raise RequestError(
                InferenceCode.OVERLOADED,
                f"{self.pending} requests of {self._bytes} bytes wait to be decoded; try again after a pause",
            )
        self.pending += 1
        self._bytes += size

        def finished(future: Future[Decoded]) -> None:
            self._post(lambda: self._finish(future, size, then))

        self._executor.submit(job).add_done_callback(finished)

    def _finish(self, future: Future[Decoded], size: int, then: Callable[[Decoded | RequestError], None]) -> None:
        self.pending -= 1
        self._bytes -= size
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            then(future.result())
        elif isinstance(error, RequestError):
            then(error)
        else:  # a fault of a decoder on hostile input must not end the data thread
            then(RequestError(InferenceCode.BAD_PAYLOAD, f"cannot be decoded: {quote(str(error))}"))

    def close(self) -> None:
        """Drops what has not begun; does not wait for the rest."""
        self._executor.shutdown(wait=False, cancel_futures=True)
