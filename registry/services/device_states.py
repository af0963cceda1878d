"""The newest of what devices said, of many devices at once: read as plain values, written by one statement a kind."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, inspect, select, update
from sqlalchemy.orm import Session

from registry.db.fleet_rows import DeviceRow, DeviceStateRow

# The table, not the mapped class: the ORM would take a third of the time of a batch of reports.
_STATES: Any = inspect(DeviceStateRow).local_table


@dataclass
class DeviceState:
    """What decides whether a message is late, and what becomes of the row."""

    device_id: int
    session_id: str | None
    """Of the last birth."""
    reported_session: str | None
    reported_at: datetime | None
    changes: dict[str, Any] = field(default_factory=dict)
    """By column of `DeviceStateRow`."""

    def heard(self, at: datetime) -> None:
        """It gave a sign of life."""
        self.changes["last_seen"] = at

    def born(self, session_id: str) -> None:
        """A session of it began."""
        self.session_id = self.changes["session_id"] = session_id

    def reported(self, text: str, session_id: str, at: datetime) -> None:
        """Its state, by its own clock."""
        self.reported_session, self.reported_at = session_id, at
        self.changes.update(reported=text, reported_session=session_id, reported_at=at)


def find_states(session: Session, names: Collection[str]) -> dict[str, DeviceState]:
    """By name; devices that are not registered are missing. At most a few thousand names."""
    columns = (
        DeviceRow.name,
        DeviceRow.id,
        DeviceStateRow.session_id,
        DeviceStateRow.reported_session,
        DeviceStateRow.reported_at,
    )
    query = select(*columns).join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
    found = session.execute(query.where(DeviceRow.name.in_(names)))
    return {name: DeviceState(device, birth, told_in, told_at) for name, device, birth, told_in, told_at in found}


def keep_states(session: Session, states: Iterable[DeviceState]) -> None:
    """Write what changed, in the devices' order: two writers then never wait for each other in a circle."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for state in sorted(states, key=lambda each: each.device_id):
        if state.changes:
            kinds.setdefault(tuple(sorted(state.changes)), []).append({"of_device": state.device_id, **state.changes})
    for names, rows in sorted(kinds.items()):
        values: dict[str, Any] = {name: bindparam(name) for name in names}
        session.execute(update(_STATES).where(_STATES.c.device_id == bindparam("of_device")).values(values), rows)
