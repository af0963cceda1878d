"""Commands that may come twice: the first answer is kept with the key, in the transaction of what it did."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from registry.contracts.wire import digest_of
from registry.db.engine import Database
from registry.db.rollout_rows import CommandRow
from registry.errors import InvalidError

KEEP = timedelta(hours=24)
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


def first_answer(session: Session, caller: str, key: str | None, request: bytes, now: datetime) -> str | None:
    """What the same command was answered before; None: it is new (or has no key).

    Raises:
        InvalidError: not a key, or one that was used for something else.
    """
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidError("An Idempotency-Key has 1 to 128 printable characters without spaces.")
    row = session.get(CommandRow, (caller, key))
    if row is None or row.at < now - KEEP:
        return None
    if row.request != digest_of(request):
        raise InvalidError("This Idempotency-Key was used for another request; take a new one.")
    return row.answer


def remember(session: Session, caller: str, key: str | None, request: bytes, *, answer: str, now: datetime) -> None:
    """Keep the answer, in the transaction of the command."""
    if key is not None:
        session.merge(CommandRow(caller=caller, key=key, request=digest_of(request), answer=answer, at=now))


def forget_old(database: Database, now: datetime) -> None:
    """Remove answers that are over their time."""
    with database.write() as session:
        session.execute(delete(CommandRow).where(CommandRow.at < now - KEEP))
