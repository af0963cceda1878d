"""Slow work outside the control thread: started, cancelled, and its outcome brought back as one event.

INVARIANT: outcomes are handled in the control thread only, and never after `cancel`. A worker that was started for a
cancelled task is closed in the pool: nobody else knows it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent.errors import AgentError, StepCancelledError, TransientError
from agent.reconciler.ports import Pool

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class TaskDone:
    """In the control queue: call it in the control thread."""

    finish: Callable[[], None]


class Task(Generic[Result]):
    """One piece of slow work."""

    def __init__(
        self,
        work: Callable[[threading.Event], Result],
        done: Callable[[Result], None],
        failed: Callable[[AgentError], None],
        discard: Callable[[Result], None] | None = None,
    ) -> None:
        self._work = work
        self._done = done
        self._failed = failed
        self._discard = discard
        self._cancel = threading.Event()

    def start(self, pool: Pool, put: Callable[[Any], None]) -> Task[Result]:
        """Runs the work in `pool`; the outcome goes into the control queue with `put`."""
        pool.submit(lambda: self._run(put))
        return self

    def cancel(self) -> None:
        """Nobody wants the outcome any more; the work is told to stop."""
        self._cancel.set()

    def _run(self, put: Callable[[Any], None]) -> None:
        try:
            result = self._work(self._cancel)
        except StepCancelledError:
            return
        except AgentError as error:
            fault = error
            put(TaskDone(lambda: self._fail(fault)))
        except Exception as error:
            log.exception("a step failed in a way that nobody foresaw")
            internal = TransientError("internal", f"{type(error).__name__}: {error}")
            put(TaskDone(lambda: self._fail(internal)))
        else:
            put(TaskDone(lambda: self.succeed(result)))

    def succeed(self, result: Result) -> None:
        """The work is done. Control thread."""
        if not self._cancel.is_set():
            self._done(result)
        elif self._discard is not None:
            self._discard(result)

    def _fail(self, error: AgentError) -> None:
        if not self._cancel.is_set():
            self._failed(error)
