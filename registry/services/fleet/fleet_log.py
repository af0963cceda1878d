"""The fleet's log: what happened to rollouts, for event streams and webhooks. Append-only, with a cursor that rises.

An entry is written in the transaction of what it tells. Its id comes from one row that the transaction holds until it
ends, so that ids commit in order: whoever has read up to n misses nothing at or below n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from registry.contracts.rollout.views import RolloutEvent
from registry.core.retention import before
from registry.db.engine import Changed, announce
from registry.db.fleet_rows import RevisionRow
from registry.db.rollout_rows import FleetLogRow
from registry.services.fleet.epochs import EVENTS, raise_counter
from registry.services.fleet.retention import forget
from registry.services.queries import UseCases, given

KEEP_HOURS = 24 * 7
MAX_ENTRIES = 1_000_000
"""However young."""
MAX_READ = 1000
"""Entries that one read returns."""


@dataclass(frozen=True)
class LogEntry:
    """One event as it was written."""

    cursor: int
    kind: str
    rollout: str
    document: str


def append(session: Session, events: Sequence[RolloutEvent]) -> None:
    """Write events, whose cursors are given here; the log's listeners are told after the commit."""
    if not events:
        return
    announce(session, Changed.EVENTS)
    rows = []
    for number, event in enumerate(events, raise_counter(session, EVENTS, len(events)) - len(events) + 1):
        document = event.model_copy(update={"cursor": number}).model_dump_json(exclude_none=True)
        rows.append({"id": number, "at": event.at, "kind": event.kind, "rollout": event.rollout, "document": document})
    session.execute(insert(FleetLogRow), rows)


class FleetLog(UseCases):
    """Reads the log, forgets what is old, and tells listeners in this process that there is more."""

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """`listener` is called, in any thread, after entries were written by this process; it must not block.
        Returns what ends that."""
        return self._database.listeners.add(Changed.EVENTS, lambda _: listener())

    def after(
        self, cursor: int, limit: int = MAX_READ, rollout: str | None = None, kinds: Sequence[str] = ()
    ) -> list[LogEntry]:
        """Up to `limit` entries above the cursor, oldest first; of one rollout, of these kinds."""
        columns = (FleetLogRow.id, FleetLogRow.kind, FleetLogRow.rollout, FleetLogRow.document)
        query = select(*columns).where(FleetLogRow.id > cursor, *given((FleetLogRow.rollout, rollout)))
        if kinds:
            query = query.where(FleetLogRow.kind.in_(kinds))
        with self._database.read() as session:
            rows = session.execute(query.order_by(FleetLogRow.id).limit(min(limit, MAX_READ))).all()
        return [LogEntry(*row) for row in rows]

    def bounds(self) -> tuple[int, int]:
        """The oldest cursor that is kept and the newest that was given; (1, 0) before the first."""
        with self._database.read() as session:
            newest = session.scalar(select(RevisionRow.value).where(RevisionRow.id == EVENTS)) or 0
            oldest = session.scalar(select(func.min(FleetLogRow.id)))
        return (oldest if oldest is not None else newest + 1), newest

    def sweep(self, now: datetime, hours: int = KEEP_HOURS, most: int = MAX_ENTRIES) -> int:
        """Forget entries that are too old or too many, a batch a transaction; how many."""
        newest = self.bounds()[1]
        old = (FleetLogRow.at < before(now, hours)) | (FleetLogRow.id <= newest - most)
        return forget(self._database, select(FleetLogRow.id).where(old))
