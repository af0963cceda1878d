"""Requests that come twice are run once: QoS 1 means "at least once", also after a lost connection.

A request is known by its model, its response topic, its id, and a fingerprint of its payload, so the same id with other
content, or for another model, is another request. While the first runs, its repeats wait for the same reply; afterwards
they get the stored one again, each with its own correlation data (which the caller keeps). Refused and failed requests
are not stored: a retry is a retry. Memory only, bounded by entries, bytes and age; time is passed in (seconds,
monotonic).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from registry.contracts.counters import Counters
from registry.contracts.enums import StrEnum
from registry.inference.reply import Reply

Waiter = TypeVar("Waiter")
MAX_WAITERS = 16
"""Repeats of one running request that are kept; further ones are refused."""


class Key(NamedTuple):
    """What makes two requests the same."""

    model: str
    response_topic: str
    request_id: str
    content: int
    """`fingerprint` of the payload."""
    length: int
    """Bytes of the payload."""


def fingerprint(parts: Iterable[bytes | bytearray | memoryview]) -> int:
    """Of a payload that comes in these parts: 64 bits, with another key in each process (PEP 456).

    A client may use one id for all its requests: with the 32 bits of a CRC, one of some million would be answered with
    another's reply.
    """
    return hash(tuple(bytes(part) for part in parts))


class DedupeVerdict(StrEnum):
    """What to do with a request that has just come."""

    RUN = "run"
    """It is new: run it, then call `finish` or `abandon`."""
    WAIT = "wait"
    """It runs already: its waiter comes back from `finish` or `abandon`."""
    REPEAT = "repeat"
    """It is done: send the reply again."""
    REFUSE = "refuse"
    """Too many repeats wait already: answer `overloaded`."""


@dataclass(frozen=True)
class _Done:
    reply: Reply
    size: int
    until: float


@dataclass
class Dedupe(Generic[Waiter]):
    """The memory of recent QoS 1 requests. One thread."""

    counters: Counters
    max_entries: int = 4096
    """Running and done, each."""
    max_bytes: int = 16 << 20
    """Of stored replies."""
    ttl_s: float = 300.0
    _running: dict[Key, list[Waiter]] = field(default_factory=dict)
    _done: OrderedDict[Key, _Done] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._done)

    def begin(self, key: Key, waiter: Waiter, now: float) -> tuple[DedupeVerdict, Reply | None]:
        """A request has come. The reply is there for REPEAT only; `waiter` is kept for WAIT only."""
        self._expire(now)
        done = self._done.get(key)
        if done is not None:
            self.counters.add("repeats_answered")
            return DedupeVerdict.REPEAT, done.reply
        waiters = self._running.get(key)
        if waiters is None:
            if len(self._running) < self.max_entries:
                self._running[key] = []
            else:
                self.counters.add("untracked_requests")
            return DedupeVerdict.RUN, None
        if len(waiters) >= MAX_WAITERS:
            self.counters.add("repeats_refused")
            return DedupeVerdict.REFUSE, None
        waiters.append(waiter)
        self.counters.add("repeats_joined")
        return DedupeVerdict.WAIT, None

    def finish(self, key: Key, reply: Reply, now: float) -> list[Waiter]:
        """The run went well: keeps a copy of the reply, gives those that wait for it."""
        waiters = self._running.pop(key, None)
        if waiters is None:
            return []
        self._expire(now)
        kept = Reply((reply.join(),), reply.header_length, reply.content_type)
        self._store(key, _Done(kept, len(kept.pieces[0]), now + self.ttl_s))
        return waiters

    def abandon(self, key: Key) -> list[Waiter]:
        """The run was refused or failed: nothing is kept; those that wait get the same error."""
        return self._running.pop(key, None) or []

    def _store(self, key: Key, done: _Done) -> None:
        if done.size > self.max_bytes or self.max_entries < 1:
            self.counters.add("kept_replies_dropped")
            return
        while self._done and (self._bytes + done.size > self.max_bytes or len(self._done) >= self.max_entries):
            self._drop_oldest()
            self.counters.add("kept_replies_dropped")
        self._done[key] = done
        self._bytes += done.size

    def _expire(self, now: float) -> None:
        while self._done and next(iter(self._done.values())).until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, done = self._done.popitem(last=False)
        self._bytes -= done.size
