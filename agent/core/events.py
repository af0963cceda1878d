"""What the control thread is told by the others: one bounded queue, one reader.

Values only. The data path puts the first four, the scheduler `Tick`; finished steps come from the pool.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Connected:
    """The broker took the connection and the subscriptions."""

    session_present: bool
    whole: bool = True
    """Registry and agent can rely on it alone; else they also use HTTP: it keeps no retained messages, or the like."""


@dataclass(frozen=True)
class Disconnected:
    """The broker is away; the data path reconnects by itself."""

    reason: str


@dataclass(frozen=True)
class ControlMessage:
    """A message on one of the device's own control topics."""

    topic: str
    payload: bytes
    traceparent: str = ""
    """The trace that led to it; empty: it has none, or traces are off."""


@dataclass(frozen=True)
class WorkerDied:
    """A worker's doorbell closed, or it was killed because a run took too long. `worker` is the object that died."""

    model: str
    worker: object
    reason: str


@dataclass(frozen=True)
class Tick:
    """Something periodic is due: `poll`, `health` or `sweep`."""

    what: str
