"""What devices say, into the database: one handler for MQTT and HTTP, a batch a transaction, idempotent.

INVARIANT: a message of a device that is not registered changes nothing.
INVARIANT: the same batch again changes nothing but `last_seen`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from registry.contracts.api import DeviceReports
from registry.contracts.messages import MAX_CONTROL_BYTES, Event, Health, Presence, Reported
from registry.contracts.platforms import Platform
from registry.core.intake import Intake, Recorded, checked
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow, DeviceStateRow, EventRow
from registry.db.insert import insert_new
from registry.errors import InvalidError
from registry.services.deployments import take_facts
from registry.services.desired import DesiredDocuments, find_device
from registry.services.health import take_health
from registry.services.jobs import take_statuses
from registry.services.results import record
from registry.services.rollouts.reports import Said, take_said


@dataclass
class Taken:
    """What became of a batch."""

    stored: int = 0
    unknown: int = 0
    """From devices that are not registered."""
    repeated: int = 0
    """Health reports that were taken before."""
    unrecorded: int = 0
    """Results of models that are not recorded."""
    desired_changed: bool = False
    actions_changed: bool = False
    """A device of a rollout went on."""
    facts_changed: bool = False


class Telemetry:
    """Takes what devices say."""

    def __init__(
        self,
        database: Database,
        documents: DesiredDocuments,
        *,
        on_actions: Callable[[], None] = lambda: None,
        on_facts: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_actions` is called after a device of a rollout went on, `on_facts` after facts changed."""
        self._database = database
        self._documents = documents
        self._on_actions, self._on_facts = on_actions, on_facts

    def take(self, batch: Sequence[Intake]) -> Taken:
        """Store a batch in one transaction, in order."""
        with self._database.write() as session:
            taken = _apply(session, batch)
        if taken.desired_changed:
            self._documents.changed()
        if taken.facts_changed:
            self._on_facts()
        elif taken.actions_changed:
            self._on_actions()
        return taken

    def take_reports(self, device: str, reports: DeviceReports, now: datetime) -> None:
        """What a device would have sent over MQTT. Raises NotFoundError, InvalidError."""
        reported = (reports.reported,) if reports.reported is not None else ()
        try:
            batch = [checked(device, body, now) for body in (*reported, *reports.events, *reports.health)]
        except ValueError as error:
            raise InvalidError(f"The report cannot be taken: {error}") from error
        with self._database.read() as session:
            find_device(session, device)
        self.take(batch)

    def put_facts(self, device: str, facts: Platform, now: datetime) -> None:
        """What a device found out about its host. Raises NotFoundError, InvalidError."""
        try:
            size = len(facts.canonical())
        except ValueError as error:
            raise InvalidError(f"The facts cannot be kept: {error}") from error
        if size > MAX_CONTROL_BYTES:
            raise InvalidError(f"The facts have {size} bytes; {MAX_CONTROL_BYTES} are the most.")
        with self._database.write() as session:
            changed = take_facts(session, find_device(session, device), facts, now)
        if changed:
            self._documents.changed()
        self._on_facts()

    def events(self, device: str, before: int, limit: int) -> list[tuple[int, Event]]:
        """Up to `limit` events of a device below the id `before`, newest first, with their ids. NotFoundError."""
        with self._database.read() as session:
            row = find_device(session, device)
            query = select(EventRow).where(EventRow.device_id == row.id, EventRow.id < before)
            rows = session.scalars(query.order_by(EventRow.id.desc()).limit(limit)).all()
        return [(row.id, Event.model_validate_json(row.document)) for row in rows]


_UNREAD = tuple(defer(text) for text in (DeviceStateRow.presence, DeviceStateRow.reported, DeviceStateRow.health))
"""Documents that are replaced, whatever they say."""


def _apply(session: Session, batch: Sequence[Intake]) -> Taken:
    names = {intake.device for intake in batch}
    by_name = select(DeviceRow).where(DeviceRow.name.in_(names)).options(defer(DeviceRow.facts))
    devices = {row.name: row for row in session.scalars(by_name)}
    ids = [row.id for row in devices.values()]
    query = select(DeviceStateRow).where(DeviceStateRow.device_id.in_(ids)).options(*_UNREAD)
    states = {row.device_id: row for row in session.scalars(query)}
    taken = Taken()
    health: list[tuple[int, Intake, Health]] = []
    events: list[tuple[int, Intake, Event]] = []
    results: list[tuple[int, datetime, Recorded]] = []
    said: list[Said] = []
    for intake in batch:
        device = devices.get(intake.device)
        if device is None:
            taken.unknown += 1
            continue
        state, body = states[device.id], intake.body
        if not intake.retained and not (isinstance(body, Presence) and not body.online):
            state.last_seen = intake.at
        if isinstance(body, Presence):
            _take_presence(state, intake, body)
        elif isinstance(body, Reported):
            known = device.facts_digest
            if (changed := _take_reported(session, device, state, intake, body)) is None:
                continue
            taken.desired_changed |= changed
            taken.facts_changed |= device.facts_digest != known
            said.append((device.id, intake.at, body))
        elif isinstance(body, Health):
            health.append((device.id, intake, body))
        elif isinstance(body, Event):
            events.append((device.id, intake, body))
            said.append((device.id, intake.at, body))
        else:
            results.append((device.id, intake.at, body))
    fresh = take_health(session, health)
    for device_id, intake, _ in fresh:
        states[device_id].health = intake.text
    _take_events(session, events)
    taken.actions_changed = take_said(session, said)
    taken.repeated = len(health) - len(fresh)
    taken.unrecorded = len(results) - record(session, results)
    taken.stored = len(batch) - taken.unknown - taken.repeated - taken.unrecorded
    return taken


def _take_presence(state: DeviceStateRow, intake: Intake, body: Presence) -> None:
    if body.online:
        state.session_id = body.session_id
    elif state.session_id is not None and state.session_id != body.session_id:
        return  # the will of an earlier session, late: the device is back already
    state.online, state.presence = body.online, intake.text


def _take_reported(
    session: Session, device: DeviceRow, state: DeviceStateRow, intake: Intake, body: Reported
) -> bool | None:
    """Whether a document changed; None: it is late, and changes nothing."""
    same_session = state.reported_session == body.session_id
    if same_session and state.reported_at is not None and body.at < state.reported_at:
        return None
    state.reported, state.reported_session, state.reported_at = intake.text, body.session_id, body.at
    jobs_changed = take_statuses(session, device, body.jobs, intake.at)
    return (body.facts is not None and take_facts(session, device, body.facts, intake.at)) or jobs_changed


def _take_events(session: Session, events: Sequence[tuple[int, Intake, Event]]) -> None:
    rows = [
        {"device_id": device_id, "event_id": event.event_id, "at": intake.at, "document": intake.text}
        for device_id, intake, event in events
    ]
    insert_new(session, EventRow, rows, ("device_id", "event_id"))
