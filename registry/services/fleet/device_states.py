"""The newest of what devices said, of many devices at once: read as plain values, written by one statement a kind."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, inspect, select, update
from sqlalchemy.orm import Session

from registry.core.presence import Speakers, ended_before, patience_s
from registry.db.fleet_rows import DesiredRow, DeviceRow, DeviceStateRow

# The table, not the mapped class: the ORM would take a third of the time of a batch of reports.
_STATES: Any = inspect(DeviceStateRow).local_table


@dataclass
class DeviceState:
    """What decides whether a message is late or news, and what becomes of the row."""

    device_id: int
    session_id: str | None
    """Of the last birth."""
    reported_session: str | None
    reported_at: datetime | None
    online: bool
    """What the broker said last of its session."""
    heard_every_s: float | None
    expiry_s: float
    """The registry's least patience."""
    speakers: Speakers
    facts_digest: str | None
    """Of the facts that the registry has."""
    generation: int
    """Of its desired document."""
    changes: dict[str, Any] = field(default_factory=dict)
    """By column of `DeviceStateRow`."""

    def heard(self, at: datetime) -> None:
        """It gave a sign of life."""
        until = at + timedelta(seconds=patience_s(self.heard_every_s, self.expiry_s))
        self.changes.update(last_seen=at, heard_until=until, gone_at=None)

    def spoke(self, session_id: str, at: datetime) -> bool:
        """A live message of this session. True: from now on it is known that two agents have this name."""
        before, self.speakers = self.speakers, self.speakers.heard(session_id, at)
        if self.speakers is before:
            return False
        self.changes.update(
            sessions=list(self.speakers.sessions),
            returns=self.speakers.returns,
            returned_at=self.speakers.returned_at,
        )
        return bool(self.speakers.rivals(at)) and not before.rivals(at)

    def speaks_every(self, seconds: float | None) -> None:
        """How often it says that it speaks."""
        if seconds != self.heard_every_s:
            self.heard_every_s = self.changes["heard_every_s"] = seconds

    def born(self, session_id: str, text: str) -> None:
        """A session of it began, or came back."""
        self.session_id = self.changes["session_id"] = session_id
        self.online = True
        self.changes.update(online=True, presence=text)

    def died(self, at: datetime, text: str) -> None:
        """Its session ended."""
        self.online = False
        self.changes.update(online=False, presence=text, gone_at=at)

    def reported(self, text: str, session_id: str, at: datetime) -> None:
        """Its state, by its own clock."""
        self.reported_session, self.reported_at = session_id, at
        self.changes.update(reported=text, reported_session=session_id, reported_at=at)

    def is_late(self, session_id: str, at: datetime, *, retained: bool) -> bool:
        """Is this report older than the one that is known, or that one again?"""
        if self.reported_at is None:
            return False
        if session_id == self.reported_session:
            return at <= self.reported_at if retained else at < self.reported_at
        return retained and (at < self.reported_at or ended_before(self.speakers.sessions, session_id))


def find_states(session: Session, names: Collection[str], expiry_s: float) -> dict[str, DeviceState]:
    """By name; devices that are not registered are missing. At most a few thousand names."""
    columns = (
        DeviceRow.name,
        DeviceRow.id,
        DeviceRow.facts_digest,
        DeviceStateRow.session_id,
        DeviceStateRow.reported_session,
        DeviceStateRow.reported_at,
        DeviceStateRow.online,
        DeviceStateRow.heard_every_s,
        DeviceStateRow.sessions,
        DeviceStateRow.returns,
        DeviceStateRow.returned_at,
        DesiredRow.generation,
    )
    query = select(*columns).join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
    query = query.join(DesiredRow, DesiredRow.device_id == DeviceRow.id)
    return {
        row.name: DeviceState(
            device_id=row.id,
            session_id=row.session_id,
            reported_session=row.reported_session,
            reported_at=row.reported_at,
            online=row.online,
            heard_every_s=row.heard_every_s,
            expiry_s=expiry_s,
            speakers=Speakers(tuple(row.sessions or ()), row.returns, row.returned_at),
            facts_digest=row.facts_digest,
            generation=row.generation,
        )
        for row in session.execute(query.where(DeviceRow.name.in_(names)))
    }


def keep_states(session: Session, states: Iterable[DeviceState]) -> None:
    """Write what changed, in the devices' order: two writers then never wait for each other in a circle."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for state in sorted(states, key=lambda each: each.device_id):
        if state.changes:
            kinds.setdefault(tuple(sorted(state.changes)), []).append({"of_device": state.device_id, **state.changes})
    for names, rows in sorted(kinds.items()):
        values: dict[str, Any] = {name: bindparam(name) for name in names}
        session.execute(update(_STATES).where(_STATES.c.device_id == bindparam("of_device")).values(values), rows)
