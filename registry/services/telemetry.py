"""What devices say, into the database: one handler for MQTT and HTTP, a batch a transaction, idempotent.

The newest of what a device said is read as plain values for all devices of a batch at once, and written by one
statement for each kind of change.

INVARIANT: a message of a device that is not registered changes nothing.
INVARIANT: the same batch again changes nothing but `last_seen`.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, inspect, select, update
from sqlalchemy.orm import Session, defer

from registry.contracts.api.devices import DeviceReports
from registry.contracts.api.events import Severity
from registry.contracts.counters import MAX_LABEL, MAX_LABELS, OTHER
from registry.contracts.device.messages import MAX_CONTROL_BYTES, Event, Health, Presence, Reported
from registry.contracts.fit.platforms import Platform
from registry.core.device_states import HEARD
from registry.core.intake import KINDS, DeviceMessage, Recorded, checked, is_sign_of_life, known, two_agents
from registry.core.presence import DEFAULT_EXPIRY_S, Speakers, ended_before, patience_s
from registry.core.retention import Increase
from registry.core.severities import of_device
from registry.db.base import insert_new
from registry.db.engine import Database
from registry.db.fleet_rows import DesiredRow, DeviceRow, DeviceStateRow, EventRow, HealthRow, ResultRow
from registry.db.index_rows import DeviceIndexRow
from registry.errors import InvalidError
from registry.services.deployments import take_facts
from registry.services.fleet.desired import find_device
from registry.services.fleet.device_index import index
from registry.services.fleet.epochs import epoch_of, later_epoch_told, renew_epoch
from registry.services.fleet.fleet_certificates import FleetCertificates
from registry.services.fleet.fleet_totals import FleetTotals
from registry.services.fleet.history import record, take_health
from registry.services.intake.budgets import IntakeBudgets
from registry.services.intake.kept import KeptBound, KeptOfDevices
from registry.services.jobs import take_statuses
from registry.services.rollouts.reports import Said, take_said
from registry.services.shares import ShareRefusals

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
    connection: str | None
    """What the index says of it."""
    moved: bool = False
    """The index may have to follow."""
    changes: dict[str, Any] = field(default_factory=dict)
    """By column of `DeviceStateRow`."""

    def heard(self, at: datetime) -> None:
        """It gave a sign of life."""
        until = at + timedelta(seconds=patience_s(self.heard_every_s, self.expiry_s))
        self.changes.update(last_seen=at, heard_until=until, gone_at=None)
        self.moved |= self.connection not in HEARD

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
        self.online = self.moved = True
        self.changes.update(online=True, presence=text)

    def died(self, at: datetime, text: str) -> None:
        """Its session ended."""
        self.online, self.moved = False, True
        self.changes.update(online=False, presence=text, gone_at=at)

    def reported(self, text: str, session_id: str, at: datetime) -> None:
        """Its state, by its own clock."""
        self.reported_session, self.reported_at, self.moved = session_id, at, True
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
        DeviceIndexRow.connection,
    )
    query = select(*columns).join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
    query = query.join(DesiredRow, DesiredRow.device_id == DeviceRow.id)
    query = query.outerjoin(DeviceIndexRow, DeviceIndexRow.device_id == DeviceRow.id)
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
            connection=row.connection,
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


WAYS = ("mqtt", "http")
MAX_AGENTS = 1 << 17
"""Devices whose agent's version is remembered."""
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
    increases: list[Increase] = field(default_factory=list)
    """What health reports added to the requests of each version."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Messages of registered devices, by kind."""
    certificates: list[tuple[str, datetime, dict[str, datetime]]] = field(default_factory=list)
    """What health reports told of ends of certificates: device, when, by use."""
    agents: dict[str, str] = field(default_factory=dict)
    """The agent's version by device, of those that were born."""
    went_back: str | None = None
    """A device that has seen a later generation of this epoch than there is, or a later epoch: the database was put
    back."""


class Telemetry:
    """Takes what devices say."""

    def __init__(
        self,
        database: Database,
        *,
        expiry_s: float = DEFAULT_EXPIRY_S,
        kept: KeptOfDevices | None = None,
        budgets: IntakeBudgets | None = None,
    ) -> None:
        """A device that has been silent for `expiry_s` seconds is offline. `kept`, `budgets`: what one device may keep,
        and say over HTTP; those of MQTT are the bridge's."""
        self._database = database
        self._kept = kept or KeptOfDevices(KeptBound(1 << 40, 1 << 50))
        self._budgets = budgets or IntakeBudgets(ShareRefusals())
        self._expiry_s = expiry_s
        self._lock = threading.Lock()
        self._received: Counter[tuple[str, ...]] = Counter()
        self._agents: dict[str, str] = {}
        self.totals = FleetTotals()
        self.certificates = FleetCertificates()

    def received(self) -> dict[tuple[str, ...], float]:
        """Messages of registered devices since the start, by kind and by how they came: `mqtt` or `http`."""
        with self._lock:
            return {**{(kind, way): 0 for kind in KINDS for way in WAYS}, **self._received}

    def agents(self) -> dict[tuple[str, ...], float]:
        """Devices by the version of their agent, of those whose birth this process has read: the broker keeps them, and
        brings all of them after a start."""
        with self._lock:
            found = Counter(self._agents.values()).most_common()
        shown: dict[tuple[str, ...], float] = {(version,): number for version, number in found[: MAX_LABELS - 1]}
        if rest := sum(number for _, number in found[MAX_LABELS - 1 :]):
            shown[OTHER,] = rest
        return shown

    def take(self, batch: Sequence[DeviceMessage], way: str = "mqtt") -> Taken:
        """Store a batch in one transaction, in order."""
        with self._database.write() as session:
            taken = _apply(session, batch, self._expiry_s, self._kept, at_broker=way == "mqtt")
        self.totals.add(taken.increases)
        for device, at, ends in taken.certificates:
            self.certificates.note(device, at, ends)
        with self._lock:
            self._received.update({(kind, way): number for kind, number in taken.kinds.items()})
            if len(self._agents) < MAX_AGENTS:
                self._agents.update(taken.agents)
        if taken.went_back is not None:
            self._begin_again(taken.went_back, batch[-1].at)
        return taken

    def require_budget(self, device: str) -> None:
        """Before a report of it is read. Raises ShareError: it has reported more than its part."""
        self._budgets.require_some(device)

    def take_reports(self, device: str, reports: DeviceReports, now: datetime) -> bool:
        """What a device would have sent over MQTT. True: its facts are wanted.

        Raises:
            NotFoundError, InvalidError, ShareError: it has reported more than its part.
        """
        reported = (reports.reported,) if reports.reported is not None else ()
        try:
            batch = [checked(device, known(body), now) for body in (*reported, *reports.events, *reports.health)]
        except ValueError as error:
            raise InvalidError(f"The report cannot be taken: {error}") from error
        with self._database.read() as session:
            find_device(session, device)
        self._budgets.require(device, len(batch), sum(len(each.text) for each in batch))
        return device in self.take(batch, "http").facts_wanted

    def put_facts(self, device: str, facts: Platform, now: datetime) -> None:
        """What a device found out about its host. Raises NotFoundError, InvalidError."""
        try:
            size = len(facts.canonical())
        except ValueError as error:
            raise InvalidError(f"The facts cannot be kept: {error}") from error
        if size > MAX_CONTROL_BYTES:
            raise InvalidError(f"The facts have {size} bytes; {MAX_CONTROL_BYTES} are the most.")
        with self._database.write() as session:
            row = find_device(session, device)
            take_facts(session, row, facts, now)
            index(session, [row.id], now)

    def _begin_again(self, device: str, now: datetime) -> None:
        reason = f"device {device} has seen a later state than this database holds: it was put back from a backup"
        with self._database.write() as session:
            renewed = renew_epoch(session, now, reason, again_after=RENEW_PAUSE)
        if renewed:
            log.warning("a new epoch begins: %s", reason)


def _apply(
    session: Session, batch: Sequence[DeviceMessage], expiry_s: float, kept: KeptOfDevices, *, at_broker: bool
) -> Taken:
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
        taken.kinds[intake.kind] += 1
        device_id = state.device_id
        alarm = _hear(state, intake, at_broker=at_broker)
        if alarm is not None:
            events.append((device_id, alarm))
        if isinstance(body, Presence):
            if body.online:
                taken.agents[intake.device] = body.agent_version[:MAX_LABEL] or "unknown"
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
    fresh, taken.increases = take_health(session, health)
    taken.certificates = [(intake.device, intake.at, body.certificates) for _, intake, body in fresh]
    for _, intake, _ in fresh:
        states[intake.device].changes["health"] = intake.text
    keep_states(session, states.values())
    if batch:  # a report may say nothing
        index(session, [state.device_id for state in states.values() if state.moved], batch[-1].at)
    _take_events(session, events)
    take_said(session, said)
    taken.repeated = len(health) - len(fresh)
    taken.unrecorded = len(results) - record(session, results)
    kept.wrote(session, EventRow, ((device_id, len(intake.text)) for device_id, intake in events))
    kept.wrote(session, HealthRow, ((device_id, len(intake.text)) for device_id, intake, _ in fresh))
    kept.wrote(session, ResultRow, ((device_id, len(each.result.body or b"")) for device_id, _, each in results))
    taken.stored = len(batch) - taken.unknown - taken.repeated - taken.unrecorded
    taken.went_back = taken.went_back or _knows_a_later_epoch(session, batch, epoch, states.keys())
    return taken


def _knows_a_later_epoch(
    session: Session, batch: Sequence[DeviceMessage], epoch: str, known: Collection[str]
) -> str | None:
    """A registered device that follows signed documents of an epoch after this one; None: none in the batch does."""
    for intake in batch:
        body = intake.body
        if not isinstance(body, Reported) or intake.device not in known or body.epoch in {"", epoch}:
            continue
        if body.epoch_began is not None and later_epoch_told(session, body.epoch_began, intake.at):
            return intake.device
    return None


def _hear(state: DeviceState, intake: DeviceMessage, *, at_broker: bool) -> DeviceMessage | None:
    """A sign of life, if it is one; brings an event where it shows that two agents have this name.

    What a session says at the broker shows that it has not ended there, whatever was said of its end: anybody who may
    publish can forge a will, and it holds no longer than to the next report.
    """
    body = intake.body
    if isinstance(body, Reported):
        state.speaks_every(body.heard_every_s)
    if not is_sign_of_life(intake):
        return None
    state.heard(intake.at)
    if at_broker and isinstance(body, (Reported, Health)) and body.session_id == state.session_id and not state.online:
        state.online = state.moved = True
        state.changes.update(online=True)
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
        {
            "device_id": device_id,
            "event_id": intake.body.event_id,
            "at": intake.at,
            "document": intake.text,
            "code": intake.body.code,
            "severity": list(Severity).index(of_device(intake.body.phase, intake.body.code)),
        }
        for device_id, intake in events
        if isinstance(intake.body, Event)
    ]
    insert_new(session, EventRow, rows, ("device_id", "event_id"))
