"""What people did that no other row keeps, as events: written in the transaction of what it tells.

The newest MAX_KEPT are kept, however old they are.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.api.events import Severity
from registry.contracts.enums import StrEnum
from registry.contracts.texts import how_many
from registry.db.engine import Database
from registry.db.fleet_rows import ActivityRow
from registry.services.fleet.retention import forget

MAX_KEPT = 200_000
MAX_EACH = 20
"""Devices of one change that have an event each; of more there is one for all."""


class ActivityKind(StrEnum):
    """What was done."""

    YANKED = "yanked"
    YANK_UNDONE = "yank_undone"
    REGISTERED = "device_registered"
    REMOVED = "device_removed"
    LABELS = "labels_changed"
    CREDENTIAL = "credential_renewed"


_WARNINGS = frozenset({ActivityKind.YANKED, ActivityKind.REMOVED})


def note_activity(
    session: Session,
    kind: ActivityKind,
    by: str,
    now: datetime,
    *,
    device: str | None = None,
    version: tuple[str, str] | None = None,
    message: str = "",
    before: str = "",
) -> None:
    """Write it down, within the caller's transaction.

    Args:
        by: The name of a token.
        device: About this one; None: about none, or many.
        version: Model and version that it is about.
        message: For a person.
        before: What stood there.
    """
    severity = Severity.WARNING if kind in _WARNINGS else Severity.INFO
    model, of_model = version or (None, None)
    session.add(
        ActivityRow(
            at=now, by=by, kind=kind.value, severity=list(Severity).index(severity), device=device, model=model,
            version=of_model, message=message, before=before,
        )
    )  # fmt: skip


def note_labels(session: Session, changed: list[str], what: str, by: str, now: datetime, *, meant: str) -> None:
    """Labels of these devices were changed. `what`: in words; `meant`: by which selector, empty: by name."""
    whose = f" of the devices with {meant}" if meant else ""
    if len(changed) <= MAX_EACH:
        for device in changed:
            note_activity(session, ActivityKind.LABELS, by, now, device=device, message=f"{what}{whose}")
        return
    told = f"{what} on {how_many(len(changed), 'device')}{whose}: {', '.join(changed[:MAX_EACH])}, ..."
    note_activity(session, ActivityKind.LABELS, by, now, message=told)


def sweep_activities(database: Database) -> int:
    """Forget the oldest above MAX_KEPT; how many."""
    with database.read() as session:
        first = session.scalar(select(ActivityRow.id).order_by(ActivityRow.id.desc()).offset(MAX_KEPT - 1).limit(1))
    return forget(database, select(ActivityRow.id).where(ActivityRow.id < first)) if first is not None else 0
