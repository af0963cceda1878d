"""What was found damaged on this host's disk: counted by kind, and told once. No I/O.

Kinds are few and fixed, they are keys of the health report: `cache`, `engines`, `journal`, `outbox`, `probe`,
`trust`.
"""

from __future__ import annotations

import threading
from collections import Counter, deque

MAX_UNTOLD = 64
"""Findings that wait to be told as events; the counts are of all."""


class Damage:
    """Any thread may note; the control thread takes what is untold and makes events of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._untold: deque[tuple[str, str]] = deque(maxlen=MAX_UNTOLD)

    def note(self, kind: str, message: str, count: int = 1) -> None:
        """`count` things of a kind were damaged: what they were and what became of them."""
        with self._lock:
            self._counts[kind] += count
            self._untold.append((kind, message))

    def counts(self) -> dict[str, int]:
        """By kind, since the agent started."""
        with self._lock:
            return dict(self._counts)

    def take(self) -> list[tuple[str, str]]:
        """What was found since the last call: kind and message of each."""
        with self._lock:
            found = list(self._untold)
            self._untold.clear()
            return found
