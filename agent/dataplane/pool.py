"""Threads for what would make others wait on the data thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError, quote

_T = TypeVar("_T")


class DecodePool:
    """Each model bounds what it has in here: by `Serving.begin_decoding`, or by its slots.

    INVARIANT: `then` runs on the data thread, exactly once for each job, unless the pool was closed.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None], threads: int = 2, name: str = "decode") -> None:
        self._post = post
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def submit(self, job: Callable[[], _T], then: Callable[[_T | RequestError], None]) -> None:
        """Runs `job` in a thread and gives its result, or refusal, to `then`."""

        def finished(future: Future[_T]) -> None:
            self._post(lambda: self._finish(future, then))

        self._executor.submit(job).add_done_callback(finished)

    @staticmethod
    def _finish(future: Future[_T], then: Callable[[_T | RequestError], None]) -> None:
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
