"""The epoch of the registry's database: a random name of its life, which ends when it is put back from a backup.

Devices keep the epoch with the generation that they saw: a generation means something only within one epoch.
"""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from sqlalchemy.orm import Session

from registry.db.fleet_rows import RegistryStateRow


def registry_state(session: Session, now: datetime) -> RegistryStateRow:
    """The registry's one row, made where there is none: a database without an epoch begins its first."""
    row = session.get(RegistryStateRow, 1)
    if row is None:
        row = RegistryStateRow(id=1, epoch=uuid4().hex, epoch_since=now, epoch_reason="first start")
        session.add(row)
    return row


def epoch_of(session: Session) -> str:
    """The epoch now; empty before a server has run."""
    row = session.get(RegistryStateRow, 1)
    return row.epoch if row is not None else ""
