"""What happened in the fleet, newest first: what devices told, beside what people and rollouts did.

Each source is read backwards by its own numbers, along an index, and the sources are merged by time. Filters without an
index (kind, model) are asked of the rows on the way, of at most BUDGET of them: a page may thus be shorter than asked
for, or empty, and still have a next one. What a device told, what has a code or is severe, what a person did and a
rollout's changes are found by index, however rare they are.

Numbers rise with time, but for what came at the same moment: a time limit is taken to be passed SLACK after it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from typing import Any

from pydantic_core import from_json
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from registry.contracts.api.events import EventQuery, EventSource, FleetEvent, Severity
from registry.contracts.device.messages import Event
from registry.core.severities import of_rollout
from registry.db.catalog_rows import AliasMoveRow
from registry.db.fleet_rows import ActivityRow, DeploymentRow, DeviceRow, EventRow
from registry.db.rollout_rows import RolloutHistoryRow, RolloutRow
from registry.errors import InvalidError
from registry.services.fleet.desired import find_device
from registry.services.queries import UseCases

ANY = "any"
BUDGET = 10_000
"""Rows that one page looks at."""
STEP = 500
"""Rows that one query brings."""
SLACK = timedelta(minutes=1)
NEWEST = (1 << 63) - 1
Key = tuple[int, ...]
"""Where a page begins: for each source, in the order of SOURCES, the number below which it goes on."""
SOURCES = (EventSource.DEVICE, EventSource.ROLLOUT, EventSource.ALIAS, EventSource.DEPLOYMENT, EventSource.PERSON)
SEVERITIES = tuple(Severity)
"""From the least; rows keep the place."""
_START: Key = (NEWEST,) * len(SOURCES)


@dataclass(frozen=True)
class EventPage:
    """A part of the list."""

    items: list[FleetEvent]
    next: Key | None
    """Where the next page begins; None: this is the last one."""
    reached: datetime | None
    """The time of the oldest row that was looked at; None: there was none."""


@dataclass(frozen=True)
class _Row:
    """One thing that happened, before anybody knows whether it is wanted."""

    source: int
    """Index in SOURCES."""
    number: int
    at: datetime
    view: Callable[[], FleetEvent | None]
    """The event; None: it is not wanted."""


class FleetEvents(UseCases):
    """Reads the list."""

    def page(self, wanted: EventQuery, after: Key | None, limit: int) -> EventPage:
        """Up to `limit` events, newest first.

        Args:
            wanted: Which.
            after: `next` of the page before; None: from the newest.
            limit: How many at most.

        Raises:
            NotFoundError: there is no such device or rollout.
            InvalidError: the cursor is none.
        """
        start = _START if after is None else after
        if len(start) != len(SOURCES) or any(type(part) is not int for part in start):
            raise InvalidError("The cursor is not one that this list gave out; start without a cursor.")
        positions, looked = list(start), 0
        items: list[FleetEvent] = []
        reached: datetime | None = None
        with self._database.read() as session:
            for row in merge(*_sources(session, wanted, start), key=lambda row: row.at, reverse=True):
                if len(items) == limit or looked == BUDGET:
                    return EventPage(items, tuple(positions), reached)
                looked += 1
                positions[row.source], reached = row.number, row.at
                in_time = (wanted.since is None or row.at >= wanted.since) and (
                    wanted.until is None or row.at < wanted.until
                )
                event = row.view() if in_time else None
                if event is not None:
                    items.append(event)
        return EventPage(items, None, reached)


def _sources(session: Session, wanted: EventQuery, start: Key) -> list[Iterator[_Row]]:
    """Those that may have what is wanted."""
    only = EventSource(wanted.id.partition(":")[0]) if wanted.id.partition(":")[0] in tuple(EventSource) else None
    if wanted.id and (only is None or wanted.source not in (None, only)):
        return []
    source = only or wanted.source
    found = []
    for number, (each, rows) in enumerate(zip(SOURCES, (_told, _rolled, _moved, _set, _did), strict=True)):
        if source in (None, each):
            found.append(_until(rows(session, wanted, number, start[number]), wanted.since))
    return found


def _until(rows: Iterator[_Row], since: datetime | None) -> Iterator[_Row]:
    for row in rows:
        if since is not None and row.at < since - SLACK:
            return
        yield row


def _told(session: Session, wanted: EventQuery, source: int, below: int) -> Iterator[_Row]:
    """Of devices."""
    if wanted.by:
        return
    query = select(EventRow.id, EventRow.at, EventRow.document, DeviceRow.name, EventRow.severity)
    if wanted.code:
        query = query.where(text("events.code <> ''"))
    if _is_named(wanted.code):
        query = query.where(EventRow.code == wanted.code)
    if least := _least(wanted):
        query = query.where(text(f"events.severity >= {least}"))
    query = query.join(DeviceRow, DeviceRow.id == EventRow.device_id)
    _, _, rest = wanted.id.partition(":")
    name, _, event_id = rest.partition(":")
    if wanted.id:
        query = query.where(DeviceRow.name == name, EventRow.event_id == event_id)
    if wanted.device is not None:
        query = query.where(EventRow.device_id == find_device(session, wanted.device).id)
    elif wanted.until is not None and not wanted.id:
        newest = select(EventRow.id).where(EventRow.at <= wanted.until + SLACK)
        newest = newest.order_by(EventRow.at.desc(), EventRow.id.desc()).limit(1)
        below = min(below, (session.scalar(newest) or 0) + 1)
    rollout = _rollout(session, wanted)

    def view(device: str, at: datetime, document: str, severity: int) -> FleetEvent | None:
        said = from_json(document)
        if not (
            (not wanted.kind or said.get("kind") == wanted.kind)
            and (wanted.model is None or said.get("model") == wanted.model)
            and (rollout is None or said.get("rollout") == rollout)
        ):
            return None
        event = Event.model_validate_json(document)
        return FleetEvent(
            id=f"{EventSource.DEVICE.value}:{device}:{event.event_id}", at=at, told_at=event.at, device=device,
            source=EventSource.DEVICE, kind=event.kind, model=event.model, version=event.version,
            rollout=event.rollout, phase=event.phase, code=event.code, message=event.message,
            severity=SEVERITIES[severity],
        )  # fmt: skip

    for number, at, document, device, severity in _backwards(session, query, EventRow.id, below):
        yield _Row(source, number, at, lambda d=device, a=at, t=document, s=severity: view(d, a, t, s))  # type: ignore[misc]


def _is_named(wanted: str) -> bool:
    return wanted not in ("", ANY)


def _least(wanted: EventQuery) -> int:
    """The place of the least severity that is wanted."""
    return SEVERITIES.index(wanted.severity) if wanted.severity is not None else 0


def _rolled(session: Session, wanted: EventQuery, source: int, below: int) -> Iterator[_Row]:
    """Of rollouts."""
    if wanted.device is not None or wanted.code:
        return
    row = RolloutHistoryRow
    columns = (row.id, row.at, row.before, row.after, row.cause, row.by, row.reason_text, row.note, row.revision)
    query = select(*columns, RolloutRow.public, RolloutRow.model, RolloutRow.version)
    query = query.join(RolloutRow, RolloutRow.id == row.rollout_id)
    if wanted.id:
        _, public, revision = f"{wanted.id}::".split(":")[:3]
        number = int(revision) if revision.isdecimal() and len(revision) < 18 else -1
        query = query.where(RolloutRow.public == public, row.revision == number)
    if wanted.rollout:
        query = query.where(RolloutRow.public == _rollout(session, wanted))
    if wanted.by:
        query = query.where(row.by == wanted.by)

    def view(found: Any) -> FleetEvent | None:
        severity = of_rollout(found.after, found.by)
        if (wanted.kind and found.cause != wanted.kind) or (wanted.model not in (None, found.model)):
            return None
        if SEVERITIES.index(severity) < _least(wanted):
            return None
        return FleetEvent(
            id=f"{EventSource.ROLLOUT.value}:{found.public}:{found.revision}", at=found.at,
            source=EventSource.ROLLOUT, kind=found.cause, model=found.model, version=found.version,
            rollout=found.public, message=found.reason_text, by=found.by, before=found.before or "",
            after=found.after, note=found.note, severity=severity,
        )  # fmt: skip

    for found in _backwards(session, query, row.id, below):
        yield _Row(source, found.id, found.at, lambda f=found: view(f))  # type: ignore[misc]


def _moved(session: Session, wanted: EventQuery, source: int, below: int) -> Iterator[_Row]:
    """Of aliases."""
    if wanted.device is not None or wanted.code or wanted.rollout or _least(wanted):
        return
    row = AliasMoveRow
    query = select(row.id, row.moved_at, row.model, row.alias, row.version, row.revision, row.moved_by)
    if wanted.by:
        query = query.where(row.moved_by == wanted.by)
    if wanted.id:
        _, model, alias, revision = f"{wanted.id}:::".split(":")[:4]
        number = int(revision) if revision.isdecimal() and len(revision) < 10 else -1
        query = query.where(row.model == model, row.alias == alias, row.revision == number)

    def view(found: Any) -> FleetEvent | None:
        kind = "removed" if found.version is None else "moved"
        if (wanted.kind and kind != wanted.kind) or (wanted.model not in (None, found.model)):
            return None
        earlier = select(row.version).where(row.model == found.model, row.alias == found.alias)
        before = session.scalar(earlier.where(row.revision < found.revision).order_by(row.revision.desc()).limit(1))
        return FleetEvent(
            id=f"{EventSource.ALIAS.value}:{found.model}:{found.alias}:{found.revision}", at=found.moved_at,
            source=EventSource.ALIAS, kind=kind, model=found.model, version=found.version, by=found.moved_by,
            before=before or "", after=found.version or "", message=f"alias {found.alias}",
        )  # fmt: skip

    for found in _backwards(session, query, row.id, below):
        yield _Row(source, found.id, found.moved_at, lambda f=found: view(f))  # type: ignore[misc]


def _set(session: Session, wanted: EventQuery, source: int, below: int) -> Iterator[_Row]:
    """Of the slots of one device; their numbers are their places, counted down."""
    _, name, model = f"{wanted.id}::".split(":")[:3] if wanted.id else ("", wanted.device, None)
    if not name or wanted.code or wanted.kind not in ("", "set") or _least(wanted):
        return
    query = select(DeploymentRow).join(DeviceRow, DeviceRow.id == DeploymentRow.device_id).where(DeviceRow.name == name)
    rollout = _rollout(session, wanted)
    slots = sorted(session.scalars(query), key=lambda slot: (slot.set_at, slot.model), reverse=True)

    def view(slot: DeploymentRow) -> FleetEvent | None:
        if rollout not in (None, slot.rollout) or wanted.model not in (None, slot.model):
            return None
        if wanted.by not in ("", slot.set_by):
            return None
        return FleetEvent(
            id=f"{EventSource.DEPLOYMENT.value}:{name}:{slot.model}", at=slot.set_at, source=EventSource.DEPLOYMENT,
            kind="set", device=name, model=slot.model, version=slot.version, rollout=slot.rollout, by=slot.set_by,
            after=slot.version, note=slot.note,
        )  # fmt: skip

    for place, slot in enumerate(slots):
        number = NEWEST - 1 - place
        if number < below and model in (None, slot.model):
            yield _Row(source, number, slot.set_at, lambda s=slot: view(s))  # type: ignore[misc]


def _did(session: Session, wanted: EventQuery, source: int, below: int) -> Iterator[_Row]:
    """Of people, where no other row keeps it."""
    if wanted.code or wanted.rollout:
        return
    query = select(ActivityRow)
    if wanted.id:
        number = wanted.id.partition(":")[2]
        query = query.where(ActivityRow.id == (int(number) if number.isdecimal() and len(number) < 19 else -1))
    if wanted.by:
        query = query.where(ActivityRow.by == wanted.by)
    if wanted.device is not None:
        query = query.where(ActivityRow.device == wanted.device)

    def view(row: ActivityRow) -> FleetEvent | None:
        if (wanted.kind and row.kind != wanted.kind) or (wanted.model not in (None, row.model)):
            return None
        if row.severity < _least(wanted):
            return None
        return FleetEvent(
            id=f"{EventSource.PERSON.value}:{row.id}", at=row.at, source=EventSource.PERSON, kind=row.kind,
            severity=SEVERITIES[row.severity], device=row.device, model=row.model, version=row.version,
            message=row.message, by=row.by, before=row.before,
        )  # fmt: skip

    while True:
        rows = session.scalars(query.where(ActivityRow.id < below).order_by(ActivityRow.id.desc()).limit(STEP)).all()
        for row in rows:
            yield _Row(source, row.id, row.at, lambda r=row: view(r))  # type: ignore[misc]
        if len(rows) < STEP:
            return
        below = rows[-1].id


def _rollout(session: Session, wanted: EventQuery) -> str | None:
    """The id of the rollout that is wanted. None: any. NotFoundError is not raised: events outlive rollouts."""
    if not wanted.rollout:
        return None
    named = select(RolloutRow.public).where(RolloutRow.name == wanted.rollout)
    return session.scalar(named) or wanted.rollout


def _backwards(session: Session, query: Any, number: Any, below: int) -> Iterator[Any]:
    """The rows with a number below, from the largest, STEP a query."""
    while True:
        rows = session.execute(query.where(number < below).order_by(number.desc()).limit(STEP)).all()
        yield from rows
        if len(rows) < STEP:
            return
        below = rows[-1][0]
