"""What moves rollouts beside the requests: threads that tick and plan when something happened.

The clock's ticks are the scheduler's. Events come together: after a tick the next one waits PAUSE_S, so that a
thousand reports a second are not a thousand ticks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from starlette.concurrency import run_in_threadpool

from registry.errors import InTheWayError, RegistryError, TemporaryError
from registry.services.rollouts.ticker import Ticker

PAUSE_S = 0.2
JOIN_S = 10.0
log = logging.getLogger(__name__)


class Waker:
    """Takes steps soon after `wake`, each kind in a thread of its own. Thread-safe; `wake` never waits for a step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakes = 0
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Something happened that a rollout may wait for."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """No more steps."""
        self._stopping.set()
        self.wake()

    def run(self, step: Callable[[Callable[[], bool]], object]) -> None:
        """Until `stop`; `step` gets what tells it to end early."""
        seen = 0
        while True:
            with self._changed:
                while self._wakes == seen:
                    self._changed.wait()
                seen = self._wakes
            if self._stopping.is_set():
                return
            try:
                step(self._stopping.is_set)
            except InTheWayError as error:
                log.info("rollouts: %s", error.message)
            except TemporaryError:
                pass  # the database has said it; the scheduler tries again
            except RegistryError as error:
                log.warning("rollouts: %s; the scheduler tries again", error.message)
            except Exception:
                log.exception("rollouts: a step failed; the scheduler tries again")
            self._stopping.wait(PAUSE_S)


@asynccontextmanager
async def rolling(waker: Waker, ticker: Ticker, clock: Callable[[], datetime]) -> AsyncIterator[None]:
    """The threads, as long as the server runs."""
    steps = {
        "rollouts": lambda stop: ticker.tick(clock(), stop),
        "plans": lambda stop: ticker.plan(clock, stop),
    }
    threads = [threading.Thread(target=waker.run, args=(step,), name=name, daemon=True) for name, step in steps.items()]
    for thread in threads:
        thread.start()
    waker.wake()  # what a killed process left undone
    try:
        yield
    finally:
        waker.stop()
        for thread in threads:
            await run_in_threadpool(thread.join, JOIN_S)
