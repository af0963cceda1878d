"""What devices say, into the database: one handler for MQTT and HTTP, a batch a transaction, idempotent.

INVARIANT: a message of a device that is not registered changes nothing.
INVARIANT: the same batch again changes nothing but `last_seen`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from registry.contracts.api.devices import DeviceReports
from registry.contracts.device.messages import MAX_CONTROL_BYTES, Event, Health, Presence, Reported
from registry.contracts.fit.platforms import Platform
from registry.core.intake import DeviceMessage, Recorded, checked, is_sign_of_life, two_agents
from registry.core.presence import DEFAULT_EXPIRY_S, ended_before
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow, EventRow
from registry.db.insert import insert_new
from registry.errors import InvalidError
from registry.services.deployments import take_facts
from registry.services.fleet.desired import find_device
from registry.services.fleet.device_states import DeviceState, find_states, keep_states
from registry.services.fleet.epochs import epoch_of, renew_epoch
from registry.services.fleet.health import take_health
from registry.services.fleet.results import record
from registry.services.jobs import take_statuses
from registry.services.rollouts.reports import Said, take_said

RENEW_PAUSE = timedelta(hours=1)
"""A device that lies about what it has seen costs the fleet a new epoch no more often."""
log = logging.getLogger(__name__)


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
    facts_wanted: set[str] = field(default_factory=set)
    """Devices that reported facts by a digest that the registry does not have."""
    went_back: str | None = None
    """A device that has seen a later generation of this epoch than there is: the database was put back."""


class Telemetry:
    """Takes what devices say."""

    def __init__(self, database: Database, *, expiry_s: float = DEFAULT_EXPIRY_S) -> None:
        """A device that has been silent for `expiry_s` seconds is offline."""
        self._database = database
        self._expiry_s = expiry_s

    def take(self, batch: Sequence[DeviceMessage]) -> Taken:
        """Store a batch in one transaction, in order."""
        with self._database.write() as session:
            taken = _apply(session, batch, self._expiry_s)
        if taken.went_back is not None:
            self._begin_again(taken.went_back, batch[-1].at)
        return taken

    def take_reports(self, device: str, reports: DeviceReports, now: datetime) -> bool:
        """What a device would have sent over MQTT. True: its facts are wanted. Raises NotFoundError, InvalidError."""
        reported = (reports.reported,) if reports.reported is not None else ()
        try:
            batch = [checked(device, body, now) for body in (*reported, *reports.events, *reports.health)]
        except ValueError as error:
            raise InvalidError(f"The report cannot be taken: {error}") from error
        with self._database.read() as session:
            find_device(session, device)
        return device in self.take(batch).facts_wanted

    def put_facts(self, device: str, facts: Platform, now: datetime) -> None:
        """What a device found out about its host. Raises NotFoundError, InvalidError."""
        try:
            size = len(facts.canonical())
        except ValueError as error:
            raise InvalidError(f"The facts cannot be kept: {error}") from error
        if size > MAX_CONTROL_BYTES:
            raise InvalidError(f"The facts have {size} bytes; {MAX_CONTROL_BYTES} are the most.")
        with self._database.write() as session:
            take_facts(session, find_device(session, device), facts, now)

    def _begin_again(self, device: str, now: datetime) -> None:
        reason = f"device {device} has seen a later state than this database holds: it was put back from a backup"
        with self._database.write() as session:
            renewed = renew_epoch(session, now, reason, again_after=RENEW_PAUSE)
        if renewed:
            log.warning("a new epoch begins: %s", reason)

    def events(self, device: str, before: int, limit: int) -> list[tuple[int, Event]]:
        """Up to `limit` events of a device below the id `before`, newest first, with their ids. NotFoundError."""
        with self._database.read() as session:
            row = find_device(session, device)
            query = select(EventRow).where(EventRow.device_id == row.id, EventRow.id < before)
            rows = session.scalars(query.order_by(EventRow.id.desc()).limit(limit)).all()
        return [(row.id, Event.model_validate_json(row.document)) for row in rows]


def _apply(session: Session, batch: Sequence[DeviceMessage], expiry_s: float) -> Taken:
    states = find_states(session, {intake.device for intake in batch}, expiry_s)
    taken, epoch = Taken(), epoch_of(session)
    health: list[tuple[int, DeviceMessage, Health]] = []
    events: list[tuple[int, DeviceMessage]] = []
    results: list[tuple[int, datetime, Recorded]] = []
    said: list[Said] = []
    for intake in batch:
        state, body = states.get(intake.device), intake.body
        if state is None:
            taken.unknown += 1
            continue
        device_id = state.device_id
        alarm = _hear(state, intake)
        if alarm is not None:
            events.append((device_id, alarm))
        if isinstance(body, Presence):
            _take_presence(state, intake, body)
        elif isinstance(body, Reported):
            if _take_reported(session, state, intake, body):
                said.append((device_id, intake.at, _of_epoch(body, epoch)))
            _compare(state, intake, body, epoch, taken)
        elif isinstance(body, Health):
            health.append((device_id, intake, body))
        elif isinstance(body, Event):
            events.append((device_id, intake))
            said.append((device_id, intake.at, body))
        else:
            results.append((device_id, intake.at, body))
    fresh = take_health(session, health)
    for _, intake, _ in fresh:
        states[intake.device].changes["health"] = intake.text
    keep_states(session, states.values())
    _take_events(session, events)
    take_said(session, said)
    taken.repeated = len(health) - len(fresh)
    taken.unrecorded = len(results) - record(session, results)
    taken.stored = len(batch) - taken.unknown - taken.repeated - taken.unrecorded
    return taken


def _hear(state: DeviceState, intake: DeviceMessage) -> DeviceMessage | None:
    """A sign of life, if it is one; brings an event where it shows that two agents have this name."""
    body = intake.body
    if isinstance(body, Reported):
        state.speaks_every(body.heard_every_s)
    if not is_sign_of_life(intake):
        return None
    state.heard(intake.at)
    if isinstance(body, (Presence, Reported, Health)) and state.spoke(body.session_id, intake.at):
        return two_agents(intake, state.speakers.rivals(intake.at))
    return None


def _of_epoch(body: Reported, epoch: str) -> Reported:
    """What answers a document of another epoch answers none of this one, whatever its number."""
    return body if body.epoch in {"", epoch} else body.model_copy(update={"generation": 0})


def _compare(state: DeviceState, intake: DeviceMessage, body: Reported, epoch: str, taken: Taken) -> None:
    """What the device knows with what the registry knows."""
    if body.epoch in {"", epoch} and body.generation > state.generation:
        taken.went_back = intake.device
    if body.facts_digest == state.facts_digest:
        taken.facts_wanted.discard(intake.device)
    else:
        taken.facts_wanted.add(intake.device)


def _take_presence(state: DeviceState, intake: DeviceMessage, body: Presence) -> None:
    """What the broker had kept counts where it is news: it is read again on every connection of the registry."""
    if body.online:
        if intake.retained:
            known = state.online and state.session_id == body.session_id
            if known or ended_before(state.speakers.sessions, body.session_id):
                return
            state.heard(intake.at)  # it came back while nobody listened
        state.born(body.session_id, intake.text)
    elif state.session_id is not None and state.session_id != body.session_id:
        return  # the will of an earlier session, late: the device is back already
    elif not intake.retained or state.online:
        state.died(intake.at, intake.text)


def _take_reported(session: Session, state: DeviceState, intake: DeviceMessage, body: Reported) -> bool:
    """False: it is late, and changes nothing."""
    if state.is_late(body.session_id, body.at, retained=intake.retained):
        return False
    state.reported(intake.text, body.session_id, body.at)
    if intake.retained:
        state.heard(intake.at)  # it was said while nobody listened
    if not body.jobs and body.facts is None:
        return True
    device = session.get_one(DeviceRow, state.device_id, options=[defer(DeviceRow.facts)])
    take_statuses(session, device, body.jobs, intake.at)
    if body.facts is not None:
        take_facts(session, device, body.facts, intake.at)
    state.facts_digest = device.facts_digest
    return True


def _take_events(session: Session, events: Sequence[tuple[int, DeviceMessage]]) -> None:
    rows = [
        {"device_id": device_id, "event_id": intake.body.event_id, "at": intake.at, "document": intake.text}
        for device_id, intake in events
        if isinstance(intake.body, Event)
    ]
    insert_new(session, EventRow, rows, ("device_id", "event_id"))
