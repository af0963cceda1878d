"""Keeps the fleet's index (`registry/db/index_rows.py`) in line with the rows that it follows from.

RULE: whoever changes what a device should serve, what it said, or its facts calls `index` in the same transaction.
Nothing is written for a device of which nothing changed, and a sign of life of a device that is there changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import bindparam, delete, func, inspect, select, tuple_, update
from sqlalchemy.orm import Session

from registry.contracts.api.fleet import ConnectionState, SlotState, SlotView
from registry.core import device_states as rules
from registry.core.device_states import IndexedDevice, WantedSlot
from registry.core.presence import as_of as presence_as_of
from registry.db.base import put_rows
from registry.db.engine import Database
from registry.db.fleet_rows import DeploymentRow, DeviceRow, DeviceStateRow, RegistryStateRow
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.errors import BusyError
from registry.services.fleet.epochs import registry_state
from registry.services.queries import batches

NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
BATCH = 500
"""Devices of one transaction of the sweep and of a rebuild."""
MAX_SWEPT = 200
"""Batches of one sweep; the next does the rest."""
_INDEX: Any = inspect(DeviceIndexRow).local_table
_SLOTS: Any = inspect(DeviceSlotRow).local_table


def index(session: Session, devices: Collection[int], now: datetime) -> None:
    """Bring the rows of these devices in line, within the caller's transaction. Devices that are gone are passed over.

    Args:
        devices: Their ids.
        now: The registry's clock.
    """
    as_of = _as_of(session, now)
    for batch in batches(sorted(set(devices))):
        _index_batch(session, batch, now, as_of)


def _as_of(session: Session, now: datetime) -> datetime:
    """Silence counts only while the registry listened."""
    return presence_as_of(session.scalar(select(RegistryStateRow.listened_at).where(RegistryStateRow.id == 1)), now)


def forget_index(session: Session) -> None:
    """Have it made again at the next start: everything may have changed."""
    session.execute(update(RegistryStateRow).values(index_rules=0))


def is_current(session: Session) -> bool:
    """Was the whole index made by the rules of this program?"""
    return session.scalar(select(RegistryStateRow.index_rules).where(RegistryStateRow.id == 1)) == rules.RULES


def require_index(session: Session) -> None:
    """Raises BusyError while it is not: an answer would leave devices out."""
    if not is_current(session):
        raise BusyError("The fleet's index is not made yet, because the database took no writes; try again.")


def rebuild_index(database: Database, now: datetime, progress: Callable[[int, int], None] = lambda *_: None) -> int:
    """Make the whole index where it was made by other rules, a batch a transaction; how many devices were looked at.

    One that was killed begins again.

    Args:
        database: Its database.
        now: The registry's clock.
        progress: Told after each batch how many devices are done, and how many there were at the beginning.
    """
    with database.read() as session:
        if is_current(session):
            return 0
        total = session.scalar(select(func.count()).select_from(DeviceRow)) or 0
    after = done = 0
    while True:
        with database.write() as session:
            query = select(DeviceRow.id).where(DeviceRow.id > after).order_by(DeviceRow.id).limit(BATCH)
            found = session.scalars(query).all()
            index(session, found, now)
            if not found:
                registry_state(session, now).index_rules = rules.RULES
                return done
        after, done = found[-1], done + len(found)
        progress(done, total)


@dataclass(frozen=True)
class IndexComparison:
    """The index against the devices."""

    devices: int
    """That there are."""
    compared: int
    """Of them: fewer where the time was over."""
    wrong: tuple[int, ...]
    """Ids of those of which it says something else than follows from their rows."""


def compare_index(database: Database, now: datetime, is_over: Callable[[], bool]) -> IndexComparison:
    """Look whether the index says what follows from the other rows; nothing is written.

    Args:
        database: Its database.
        now: The registry's clock.
        is_over: Asked after each batch: is there no more time?

    Raises:
        BusyError: the index is not made yet.
    """
    after = compared = 0
    wrong: list[int] = []
    while True:
        with database.read() as session:  # a snapshot: what follows and what it follows from change together
            if not compared:
                require_index(session)
            query = select(DeviceRow.id).where(DeviceRow.id > after).order_by(DeviceRow.id).limit(BATCH)
            found = session.scalars(query).all()
            wrong += sorted(_changes(session, found, now, _as_of(session, now)).told) if found else []
            compared += len(found)
            if len(found) < BATCH or is_over():
                devices = session.scalar(select(func.count()).select_from(DeviceRow)) or 0
                return IndexComparison(devices, compared, tuple(wrong))
        after = found[-1]


def sweep_index(database: Database, now: datetime) -> int:
    """Move what only time changes: look at the devices whose deadline has come, a batch a transaction; how many."""
    if rebuild_index(database, now):
        return 0
    with database.read() as session:
        as_of = _as_of(session, now)
    due = select(DeviceIndexRow.device_id).where(DeviceIndexRow.deadline <= as_of)
    due = due.order_by(DeviceIndexRow.deadline, DeviceIndexRow.device_id).limit(BATCH)
    done = 0
    for _ in range(MAX_SWEPT):
        with database.read() as session:
            waiting = session.scalars(due.limit(1)).first()
        if waiting is None:
            break
        with database.write() as session:
            found = session.scalars(due).all()
            _look_again(session, found, as_of)
        done += len(found)
        if len(found) < BATCH:
            break
    return done


def look_at_late(session: Session, now: datetime) -> None:
    """Have the next sweep look at every device that is late: its patience was extended."""
    late = DeviceIndexRow.connection == ConnectionState.LATE.value
    session.execute(update(DeviceIndexRow).where(late).values(deadline=now))


def indexed_devices(
    session: Session, devices: Sequence[int]
) -> tuple[dict[int, DeviceIndexRow], dict[int, dict[str, SlotView]]]:
    """The rows of these devices by their ids, and what each of their slots serves by model."""
    rows = session.scalars(select(DeviceIndexRow).where(DeviceIndexRow.device_id.in_(devices)))
    slots: dict[int, dict[str, SlotView]] = {}
    query = select(DeviceSlotRow).where(DeviceSlotRow.device_id.in_(devices)).order_by(DeviceSlotRow.model)
    for slot in session.scalars(query):
        slots.setdefault(slot.device_id, {})[slot.model] = SlotView(
            version=slot.version or None,
            desired=slot.desired or None,
            state=SlotState(slot.state),
            code=slot.code,
            changed_at=slot.changed_at,
        )
    return {row.device_id: row for row in rows}, slots


_CONNECTION = (
    DeviceStateRow.last_seen,
    DeviceStateRow.heard_until,
    DeviceStateRow.gone_at,
    DeviceStateRow.online,
)


def _look_again(session: Session, devices: Sequence[int], as_of: datetime) -> None:
    """The connections alone."""
    query = select(DeviceStateRow.device_id, *_CONNECTION).where(DeviceStateRow.device_id.in_(devices))
    found = session.execute(query.order_by(DeviceStateRow.device_id))
    rows = [{"of_device": row.device_id, **_connection(row, as_of)} for row in found]
    if rows:
        values: dict[str, Any] = {name: bindparam(name) for name in ("connection", "deadline", "seen_at")}
        session.execute(update(_INDEX).where(_INDEX.c.device_id == bindparam("of_device")).values(values), rows)


def _connection(row: Any, as_of: datetime) -> dict[str, Any]:
    state, deadline = rules.connection(row.last_seen, row.heard_until, row.gone_at, row.online, as_of)
    return {"connection": state.value, "deadline": deadline, "seen_at": row.last_seen or NEVER}


@dataclass(frozen=True)
class _Changes:
    """What the index lacks of some devices."""

    rows: list[dict[str, Any]]
    new_slots: list[dict[str, Any]]
    gone: list[tuple[int, str]]
    """Slots that are there no more, by device and model."""
    told: frozenset[int]
    """Devices of which it says something wrong, or nothing; what only time changes may be late."""


def _index_batch(session: Session, devices: Sequence[int], now: datetime, as_of: datetime) -> None:
    found = _changes(session, devices, now, as_of)
    if found.gone:
        session.execute(delete(_SLOTS).where(tuple_(_SLOTS.c.device_id, _SLOTS.c.model).in_(found.gone)))
    put_rows(session, DeviceIndexRow, found.rows, ("device_id",))
    put_rows(session, DeviceSlotRow, found.new_slots, ("device_id", "model"))


def _changes(session: Session, devices: Sequence[int], now: datetime, as_of: datetime) -> _Changes:
    wanted = _wanted(session, devices)
    known = {row.device_id: row for row in session.execute(select(_INDEX).where(_INDEX.c.device_id.in_(devices)))}
    slots: dict[int, dict[str, Any]] = {}
    for slot in session.execute(select(_SLOTS).where(_SLOTS.c.device_id.in_(devices))):
        slots.setdefault(slot.device_id, {})[slot.model] = slot
    columns = (DeviceRow.id, DeviceRow.name, DeviceRow.facts_digest, DeviceStateRow.reported, *_CONNECTION)
    query = select(*columns).join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
    found = session.execute(query.where(DeviceRow.id.in_(devices)).order_by(DeviceRow.id)).all()
    of_host = _hardware(session, {each.facts_digest: each.id for each in found if each.facts_digest})
    rows: list[dict[str, Any]] = []
    new_slots: list[dict[str, Any]] = []
    gone: list[tuple[int, str]] = []
    told: set[int] = set()
    for each in found:
        made = rules.device(wanted.get(each.id, {}), json.loads(each.reported) if each.reported else None)
        before, had = known.get(each.id), slots.get(each.id, {})
        whose = {"device_id": each.id, "name": each.name, "hardware": of_host.get(each.facts_digest, "")}
        more = _changed_slots(whose, made, had, now)
        less = [(each.id, model) for model in had if model not in made.slots]
        new_slots += more
        gone += less
        row = {
            **whose, **_connection(each, as_of), "state": made.state.value, "code": made.code[:64],
            "behind": made.behind, "changed_at": now,
        }  # fmt: skip
        if before is not None and not (more or less) and _same_state(before, made):
            row["changed_at"] = before.changed_at
        if before is None or any(getattr(before, key) != row[key] for key in row):
            rows.append(row)
            if before is None or any(getattr(before, key) != row[key] for key in row.keys() - _BY_TIME):
                told.add(each.id)
        if more or less:
            told.add(each.id)
    return _Changes(rows, new_slots, gone, frozenset(told))


_BY_TIME = frozenset({"connection", "deadline", "seen_at", "changed_at"})
"""Columns that may be late, and when it changed."""


def _same_state(before: Any, made: IndexedDevice) -> bool:
    return (before.state, before.code, before.behind) == (made.state.value, made.code[:64], made.behind)


def _changed_slots(
    whose: Mapping[str, Any], made: IndexedDevice, had: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """Rows to be written."""
    more: list[dict[str, Any]] = []
    for model, slot in made.slots.items():
        row = {
            **whose, "model": model, "version": slot.version, "desired": slot.desired, "state": slot.state.value,
            "code": slot.code[:64], "behind": slot.behind,
        }  # fmt: skip
        before = had.get(model)
        if before is None or any(getattr(before, key) != row[key] for key in row):
            more.append({**row, "changed_at": now})
    return more


def _wanted(session: Session, devices: Sequence[int]) -> dict[int, dict[str, WantedSlot]]:
    columns = (DeploymentRow.device_id, DeploymentRow.model, DeploymentRow.version)
    query = select(*columns, DeploymentRow.manifest, DeploymentRow.attempt).where(DeploymentRow.device_id.in_(devices))
    wanted: dict[int, dict[str, WantedSlot]] = {}
    for device_id, model, version, manifest, attempt in session.execute(query):
        wanted.setdefault(device_id, {})[model] = WantedSlot(version, manifest, attempt)
    return wanted


_HOSTS: dict[str, str] = {}
"""Facts' digest to what `hardware` makes of them: the same for ever."""
MAX_HOSTS = 10_000


def _hardware(session: Session, owners: Mapping[str, int]) -> dict[str | None, str]:
    """By digest; `owners` names a device that has these facts."""
    found: dict[str | None, str] = {digest: host for digest in owners if (host := _HOSTS.get(digest)) is not None}
    for digest in owners.keys() - found.keys():
        facts = session.scalar(select(DeviceRow.facts).where(DeviceRow.id == owners[digest]))
        found[digest] = rules.hardware(json.loads(facts)) if facts else ""
        if len(_HOSTS) >= MAX_HOSTS:
            _HOSTS.clear()
        _HOSTS[str(digest)] = found[digest]
    return found
