"""The epoch of the registry's database and the fleet's counters within it.

The epoch is a random name of the database's life, which ends when it is put back from a backup. Devices keep it with
the generation that they saw: a generation means something only within one epoch. Counters rise in the order of commits:
whoever has read up to n misses nothing at or below n.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry import tracing
from registry.contracts.device.messages import Desired
from registry.contracts.wire import digest_of
from registry.db.engine import Changed, announce
from registry.db.fleet_rows import DesiredRow, DeviceStateRow, RegistryStateRow, RevisionRow, TombstoneRow

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


AHEAD = 1_000_000
"""Generations go on so far above those of the backup: also for agents that know no epochs, and so that nobody was ever
told an attempt above the next one."""
BATCH = 500
FIRST = "first start"


def registry_state(session: Session, now: datetime) -> RegistryStateRow:
    """The registry's one row, made where there is none: a database without an epoch begins its first."""
    row = session.get(RegistryStateRow, 1)
    if row is None:
        row = RegistryStateRow(id=1, epoch=uuid4().hex, epoch_since=now, epoch_reason=FIRST)
        session.add(row)
    return row


def epoch_of(session: Session) -> str:
    """The epoch now; empty before a server has run."""
    row = session.get(RegistryStateRow, 1)
    return row.epoch if row is not None else ""


def epoch_began(session: Session) -> datetime | None:
    """When the epoch began; None: before a server has run."""
    row = session.get(RegistryStateRow, 1)
    return row.epoch_since if row is not None else None


AT_MOST_AHEAD = timedelta(days=1)
"""An epoch begins so long after now at most, whatever devices say of the epochs that they know."""


def later_epoch_told(session: Session, began: datetime, now: datetime) -> bool:
    """A device knows an epoch that began then. True: that is after this one, and the next begins after it."""
    row = registry_state(session, now)
    if began <= row.epoch_since:
        return False
    told = min(began, now + AT_MOST_AHEAD)
    row.epoch_told = max(told, row.epoch_told) if row.epoch_told is not None else told
    return True


def _next_beginning(row: RegistryStateRow, now: datetime) -> datetime:
    """After this epoch, and after those of which devices told; in whole seconds, as documents say it."""
    second = timedelta(seconds=1)
    told = min(row.epoch_told, now + AT_MOST_AHEAD) + second if row.epoch_told is not None else now
    return max(now, row.epoch_since + second, told).replace(microsecond=0)


def renew_epoch(session: Session, now: datetime, reason: str, again_after: timedelta = timedelta()) -> bool:
    """The database is another one than devices knew: a new epoch begins, and every document is issued again in it, in
    the caller's transaction.

    Returns:
        False: the last one began less than `again_after` ago.
    """
    row = registry_state(session, now)
    if abs(now - row.epoch_since) < again_after and row.epoch_reason != FIRST:
        return False
    row.epoch, row.epoch_since, row.epoch_reason = uuid4().hex, _next_beginning(row, now), reason
    revision = next_revision(session, AHEAD)
    after = -1
    while True:
        query = select(DesiredRow.device_id, DesiredRow.document).where(DesiredRow.device_id > after)
        found = session.execute(query.order_by(DesiredRow.device_id).limit(BATCH)).all()
        if not found:
            break
        after = found[-1].device_id
        session.execute(update(DesiredRow), [_reissued(*each, row.epoch, revision, now) for each in found])
    session.execute(update(TombstoneRow).values(generation=TombstoneRow.generation + AHEAD))
    return True


def forget_presence(session: Session) -> None:
    """Nobody counts as online until he is heard: what a backup says of that is old."""
    session.execute(update(DeviceStateRow).values(heard_until=None, sessions=None, returns=0, online=False))


def _reissued(device_id: int, document: bytes, epoch: str, revision: int, now: datetime) -> dict[str, Any]:
    before = Desired.model_validate_json(document)
    update = {"epoch": epoch, "generation": before.generation + AHEAD, "issued_at": now}
    return {**issued(device_id, before.model_copy(update=update)), "revision": revision}


def issued(device_id: int, document: Desired) -> dict[str, Any]:
    """The row of a document that the broker has to get, without its revision."""
    body = document.canonical()
    tracing.remember(document.device, document.generation)
    return {"device_id": device_id, "document": body, "digest": digest_of(body), "generation": document.generation,
            "published": False}  # fmt: skip
