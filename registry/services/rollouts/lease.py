"""Who leads: one row that a process holds for LEASE_S and renews. It saves work, it guards nothing:
every step of a rollout is safe when two take it."""

from __future__ import annotations

import os
import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from sqlalchemy import delete, or_, update

from registry.db.engine import Database
from registry.db.insert import insert_new
from registry.db.rollout_rows import LeaseRow

LEASE_S = 10.0
RENEW_S = 4.0
AHEAD_S = 60.0
"""A lease that ends later than this was taken by a clock that has been set back since: it is nobody's."""


def holder_in(folder: Path) -> str:
    """The holder that every process in this folder is, one after the other, since the folder is locked: a registry that
    was killed and is started again holds its lease at once, and need not wait for its end."""
    return sha256(f"{os.uname().nodename}:{folder.resolve()}".encode()).hexdigest()[:16]


class LeaderLease:
    """One process's claim on a name."""

    def __init__(self, database: Database, name: str, holder: str | None = None) -> None:
        self._database = database
        self._name = name
        self._holder = holder or secrets.token_hex(8)
        self._until: datetime | None = None

    def hold(self, now: datetime) -> bool:
        """Take or renew it; False while another process has it. Writes only every RENEW_S."""
        if self._until is not None and now < self._until - timedelta(seconds=LEASE_S - RENEW_S):
            return True
        until = now + timedelta(seconds=LEASE_S)
        ahead = LeaseRow.until > now + timedelta(seconds=AHEAD_S)
        free = or_(LeaseRow.holder == self._holder, LeaseRow.until <= now, ahead)
        with self._database.write() as session:
            insert_new(session, LeaseRow, [{"name": self._name, "holder": self._holder, "until": now}], ("name",))
            mine = update(LeaseRow).where(LeaseRow.name == self._name, free)
            held = bool(session.execute(mine.values(holder=self._holder, until=until)).rowcount)  # type: ignore[attr-defined]
        self._until = until if held else None
        return held

    def release(self) -> None:
        """Let another process have it at once; nothing is left of it."""
        self._until = None
        with self._database.write() as session:
            session.execute(delete(LeaseRow).where(LeaseRow.name == self._name, LeaseRow.holder == self._holder))
