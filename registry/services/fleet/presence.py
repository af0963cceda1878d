"""Who is there: the rule of `registry.core.presence` over rows, polls as signs of life, whether the registry listens.

INVARIANT: everything that asks whether a device is online asks here.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, func, inspect, or_, select, update
from sqlalchemy.orm import Session

from registry.core import presence
from registry.core.device_states import HEARD, THERE
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow, DeviceStateRow, RegistryStateRow
from registry.db.index_rows import DeviceIndexRow
from registry.services.fleet.device_index import index, look_at_late, sweep_index
from registry.services.fleet.epochs import registry_state
from registry.services.queries import batches
from registry.services.tallies import tallied

MAX_POLLS = 1 << 17
"""Devices whose polls wait to be written; more are not noted, and count as silent until they say something."""
BATCH = 1000
_STATES: Any = inspect(DeviceStateRow).local_table
_POLLED = (
    update(_STATES)
    .where(
        _STATES.c.device_id == bindparam("of_device"),
        or_(_STATES.c.last_seen.is_(None), _STATES.c.last_seen < bindparam("polled_at")),
        or_(_STATES.c.gone_at.is_(None), _STATES.c.gone_at < bindparam("polled_at")),
    )
    .values(last_seen=bindparam("polled_at"), heard_until=bindparam("until"), gone_at=None)
)


def judged_at(session: Session, now: datetime) -> datetime:
    """The time for which presence is judged; see `registry.core.presence.as_of`."""
    listened = session.scalar(select(RegistryStateRow.listened_at).where(RegistryStateRow.id == 1))
    return presence.as_of(listened, now)


def is_online(session: Session, now: datetime) -> ColumnElement[bool]:
    """`registry.core.presence.is_online` as a condition on `device_states`."""
    heard = DeviceStateRow.heard_until
    return and_(DeviceStateRow.gone_at.is_(None), heard.is_not(None), heard > judged_at(session, now))


class PresenceTracker:
    """Thread-safe."""

    def __init__(self, database: Database, expiry_s: float = presence.DEFAULT_EXPIRY_S) -> None:
        self._database = database
        self._expiry_s = expiry_s
        self._lock = threading.Lock()
        self._polls: dict[str, datetime] = {}

    def polled(self, device: str, now: datetime) -> None:
        """A device asked for its desired state, with its own credential; never blocks. `listen` writes it."""
        if len(self._polls) < MAX_POLLS:
            self._polls[device] = now

    def listen(self, now: datetime) -> None:
        """The registry is there, and hears. Where it was not, for longer than it would note, no device was silent.
        Then the index follows what only time has changed."""
        with self._lock:
            polls, self._polls = self._polls, {}
            try:
                with self._database.write() as session:
                    row = registry_state(session, now)
                    _extend(session, row.listened_at, now)
                    row.listened_at = now
                    self._take_polls(session, polls, now)
            except Exception:
                self._polls = {**polls, **self._polls}
                raise
        sweep_index(self._database, now)

    def _take_polls(self, session: Session, polls: dict[str, datetime], now: datetime) -> None:
        """What came after a poll, a sign of life or the end of a session, stays."""
        names = sorted(polls)
        for batch in batches(names, BATCH):
            query = select(DeviceRow.id, DeviceRow.name, DeviceStateRow.heard_every_s, DeviceIndexRow.connection)
            query = query.join(DeviceStateRow).outerjoin(DeviceIndexRow, DeviceIndexRow.device_id == DeviceRow.id)
            found = session.execute(query.where(DeviceRow.name.in_(batch)).order_by(DeviceRow.id)).all()
            rows = [
                {
                    "of_device": device,
                    "polled_at": polls[name],
                    "until": polls[name] + timedelta(seconds=presence.patience_s(every, self._expiry_s)),
                }
                for device, name, every, _ in found
            ]
            if rows:
                session.execute(_POLLED, rows)
            index(session, [device for device, _, _, connection in found if connection not in HEARD], now)

    def count(self, now: datetime) -> tuple[int, int, int]:
        """Devices that are online, all others, and those whose name two agents have. Whose patience is over counts as
        online until the index is looked at next, LISTEN_S later at the latest."""
        with self._database.read() as session:
            by_state = {state: number for (state,), number in tallied(session, "connection").items()}
            since = now - timedelta(seconds=presence.RIVAL_WINDOW_S)
            known = (DeviceStateRow.returned_at >= since, DeviceStateRow.returns >= presence.MIN_RETURNS)
            rivals = session.scalar(select(func.count()).where(*known)) or 0
        online = sum(by_state.get(state.value, 0) for state in THERE)
        return online, sum(by_state.values()) - online, rivals


def _extend(session: Session, listened_at: datetime | None, now: datetime) -> None:
    gap = presence.unheard(listened_at, now)
    if listened_at is None or not gap:
        return
    query = select(DeviceStateRow.device_id, DeviceStateRow.heard_until)
    query = query.where(DeviceStateRow.gone_at.is_(None), DeviceStateRow.heard_until > listened_at)
    rows = [
        {"of_device": device, "heard_until": until + gap}
        for device, until in session.execute(query.order_by(DeviceStateRow.device_id))
        if until is not None and until < now + timedelta(seconds=presence.MAX_PATIENCE_S)
    ]
    if rows:
        where = _STATES.c.device_id == bindparam("of_device")
        session.execute(update(_STATES).where(where).values(heard_until=bindparam("heard_until")), rows)
        look_at_late(session, now)
