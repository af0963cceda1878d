"""What is kept of one device is bounded in rows and in bytes: one that says much forgets its own oldest, nobody else's.

Counted in memory since the last look: after so much more as a part of the bound it is looked at what there is, in the
transaction that writes, so that the bound is exceeded by that part at most.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, select
from sqlalchemy.orm import Session

from registry.db.fleet_rows import CountRow, EventRow, HealthRow, ResultRow, SessionRow

PART = 8
"""It is looked at after an eighth of a bound."""
MAX_DEVICES = 1 << 17
"""Devices of which it is remembered how much they wrote."""


@dataclass(frozen=True)
class KeptBound:
    """Of one device."""

    rows: int
    bytes: int


EVENTS = KeptBound(10_000, 8 << 20)
HEALTH = KeptBound(40_000, 256 << 20)
"""Two days of a report every 5 seconds."""
MAX_SESSIONS = 1_000
MAX_COUNTS = 4_000
"""Models and versions together, of which requests are counted."""


class KeptOfDevices:
    """Thread-safe. `results`: the bound of recorded results of one device."""

    def __init__(self, results: KeptBound, events: KeptBound = EVENTS, health: KeptBound = HEALTH) -> None:
        self._bounds: dict[type[Any], KeptBound] = {EventRow: events, HealthRow: health, ResultRow: results}
        self._lock = threading.Lock()
        self._rows: Counter[tuple[type[Any], int]] = Counter()
        self._bytes: Counter[tuple[type[Any], int]] = Counter()

    def wrote(self, session: Session, row: type[Any], written: Iterable[tuple[int, int]]) -> None:
        """Rows of that kind were written: of each its device's id, and its bytes. Forgets what is too much."""
        bound, due = self._bounds[row], set[int]()
        with self._lock:
            if len(self._rows) > MAX_DEVICES:
                self._rows.clear()
                self._bytes.clear()
            for device_id, size in written:
                key = row, device_id
                self._rows[key] += 1
                self._bytes[key] += size
                if self._rows[key] * PART >= bound.rows or self._bytes[key] * PART >= bound.bytes:
                    due.add(device_id)
            for device_id in due:
                del self._rows[row, device_id], self._bytes[row, device_id]
        for device_id in sorted(due):
            _forget_oldest(session, row, device_id, bound)
            if row is HealthRow:
                _forget_sessions_and_counts(session, device_id)


def _forget_oldest(session: Session, row: Any, device_id: int, bound: KeptBound) -> None:
    size: ColumnElement[int] = (
        func.length(row.document) if row is not ResultRow else case((ResultRow.body.is_(None), 0), else_=ResultRow.size)
    )
    newest = select(row.id, size).where(row.device_id == device_id).order_by(row.id.desc())
    rows = total = 0
    last = None
    for number, length in session.execute(newest.limit(2 * bound.rows)):
        rows, total = rows + 1, total + int(length)
        if rows > bound.rows or total > bound.bytes:
            last = number
            break
    if last is not None:
        session.execute(delete(row).where(row.device_id == device_id, row.id <= last))


def _forget_sessions_and_counts(session: Session, device_id: int) -> None:
    for row, at, most in ((SessionRow, SessionRow.seen_at, MAX_SESSIONS), (CountRow, CountRow.last_at, MAX_COUNTS)):
        kept = select(at).where(row.device_id == device_id).order_by(at.desc()).offset(most).limit(1)
        oldest = session.scalar(kept)
        if oldest is not None:
            session.execute(delete(row).where(row.device_id == device_id, at <= oldest))
