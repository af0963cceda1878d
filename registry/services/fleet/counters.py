"""Counters of the fleet that rise in the order of commits: whoever has read up to n misses nothing at or below n."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.db.after_commit import Changed, announce
from registry.db.fleet_rows import RevisionRow

REVISION = 1
"""The row of `fleet_revision` that counts the changes of desired documents."""
EVENTS = 2
"""The row that counts the entries of the fleet's log."""


def raise_counter(session: Session, counter: int, by: int) -> int:
    """The counter's new value; its row is held until the transaction ends."""
    row = session.get(RevisionRow, counter, with_for_update=True, populate_existing=True)
    if row is None:
        row = RevisionRow(id=counter, value=0)
        session.add(row)
    row.value += by
    session.flush()
    return row.value


def next_revision(session: Session, by: int = 1) -> int:
    """The fleet's next revision; after the commit those are told who have copies of documents or publish them."""
    announce(session, Changed.DOCUMENTS)
    return raise_counter(session, REVISION, by)
