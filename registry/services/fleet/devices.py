"""Devices: registering, credentials, labels, listing, deleting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session, defer

from registry.contracts.api.answers import Scope
from registry.contracts.api.approvals import ChangeKind
from registry.contracts.api.devices import DeviceCreated, DeviceView
from registry.contracts.api.fleet import SlotState
from registry.contracts.device.messages import Health, Presence, Reported
from registry.contracts.faults import fault_lines
from registry.contracts.fit.platforms import Platform
from registry.contracts.wire import LabelKey, LabelValue
from registry.core import device_states, presence
from registry.db.engine import Changed, Database, announce
from registry.db.fleet_rows import (
    DeploymentRow,
    DesiredRow,
    DeviceLabelRow,
    DeviceRow,
    DeviceStateRow,
    RegistryStateRow,
    TombstoneRow,
)
from registry.errors import InvalidError
from registry.services.access.permits import require_devices
from registry.services.access.second_person import SecondPerson
from registry.services.fleet.activities import ActivityKind, note_activity
from registry.services.fleet.desired import find_device, first_document
from registry.services.fleet.device_index import index, indexed_devices
from registry.services.fleet.epochs import next_revision
from registry.services.fleet.groups import labels_of
from registry.services.fleet.listing import Asked, Key, find_page
from registry.services.fleet.presence import judged_at
from registry.services.queries import UseCases
from registry.services.tokens import put_device_token, remove_device_token

MAX_LABELS = 64
_LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[LabelKey, LabelValue])


class Devices(UseCases):
    """The use cases of devices. Whoever gives out another credential of a device, or makes room for a new device of its
    name, could report for it: both need a second person where the rule is on."""

    def __init__(self, database: Database, rule: SecondPerson | None = None) -> None:
        super().__init__(database)
        self._rule = rule or SecondPerson(database, required=False)

    def put(self, name: str, labels: Mapping[str, str], now: datetime, by: str = "") -> DeviceCreated | DeviceView:
        """Register a device, or set the labels of one that is there.

        Returns:
            A new device's credential, which is shown only here; the view of one that was there.

        Raises:
            InvalidError: too many labels, or one that is not allowed.
        """
        check_labels(labels)
        with self._database.write() as session:
            row = session.scalar(select(DeviceRow).where(DeviceRow.name == name))
            created = row is None
            if row is not None:
                require_devices(session, Scope.DEPLOY, None, DeviceRow.id == row.id)
            row = row or _register(session, name, now)
            before = labels_of(session, DeviceLabelRow.device_id == row.id).get(row.id, {})
            what = _changes(before, labels)
            if created:
                note_activity(session, ActivityKind.REGISTERED, by, now, device=name, message=what)
            elif what:
                note_activity(session, ActivityKind.LABELS, by, now, device=name, message=what)
            session.execute(delete(DeviceLabelRow).where(DeviceLabelRow.device_id == row.id))
            session.add_all(DeviceLabelRow(device_id=row.id, key=key, value=labels[key]) for key in labels)
            session.flush()
            require_devices(session, Scope.DEPLOY, None, DeviceRow.id == row.id)
            token = put_device_token(session, name, now) if created else ""
            announce(session, Changed.FLEET)
            view = _views(session, [row], now)[0]
        return DeviceCreated(device=name, token=token) if created else view

    def rotate(self, name: str, now: datetime, by: str = "") -> DeviceCreated:
        """A new credential; the old one works no more, at once in this process. Raises NotFoundError."""
        with self._rule.writing(ChangeKind.CREDENTIAL, name, {}, now) as session:
            require_devices(session, Scope.DEPLOY, None, DeviceRow.id == find_device(session, name).id)
            token = put_device_token(session, name, now)
            note_activity(session, ActivityKind.CREDENTIAL, by, now, device=name)
        return DeviceCreated(device=name, token=token)

    def delete(self, name: str, now: datetime, by: str = "") -> None:
        """Forget a device, its history and its credential; the bridge clears its retained messages. NotFoundError."""
        with self._rule.writing(ChangeKind.REMOVE, name, {}, now) as session:
            row = find_device(session, name)
            require_devices(session, Scope.DEPLOY, None, DeviceRow.id == row.id)
            generation = session.get_one(DesiredRow, row.id).generation
            revision = next_revision(session)
            session.merge(
                TombstoneRow(name=name, generation=generation, revision=revision, cleared=False, deleted_at=now)
            )
            session.execute(delete(DeviceRow).where(DeviceRow.id == row.id))  # its rows follow: ON DELETE CASCADE
            remove_device_token(session, name)
            note_activity(session, ActivityKind.REMOVED, by, now, device=name)
            announce(session, Changed.FLEET)

    def view(self, name: str, now: datetime) -> DeviceView:
        """One device. Raises NotFoundError."""
        with self._database.read() as session:
            return _views(session, [find_device(session, name)], now)[0]

    def page(self, asked: Asked, now: datetime, *, brief: bool = False) -> tuple[list[DeviceView], Key | None]:
        """One page of the list, and the key after which the next one begins; see `find_page`.

        Args:
            asked: Which.
            now: The registry's clock.
            brief: Without what they reported, their facts and their health.
        """
        with self._database.read() as session:
            ids, more = find_page(session, asked, now)
            columns = [defer(DeviceRow.facts)] if brief else []
            query = select(DeviceRow).where(DeviceRow.id.in_(ids)).options(*columns)
            rows = {row.id: row for row in session.scalars(query)}
            return _views(session, [rows[each] for each in ids], now, brief=brief), more


def _register(session: Session, name: str, now: datetime) -> DeviceRow:
    row = DeviceRow(name=name, created_at=now)
    session.add(row)
    session.flush()
    session.add(DeviceStateRow(device_id=row.id))
    tombstone = session.get(TombstoneRow, name)
    generation = tombstone.generation + 1 if tombstone is not None else 1
    if tombstone is not None:
        session.delete(tombstone)
    first_document(session, row, generation, now)
    index(session, [row.id], now)
    return row


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """In words; empty: none."""
    words = [f"{key}={value}" for key, value in sorted(after.items()) if before.get(key) != value]
    return ", ".join([*words, *(f"{key} removed" for key in sorted(before.keys() - after.keys()))])


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises InvalidError: too many labels, or one that is not allowed."""
    if len(labels) > MAX_LABELS:
        raise InvalidError(f"{len(labels)} labels; {MAX_LABELS} are the most.")
    try:
        _LABELS.validate_python(dict(labels))
    except ValidationError as error:
        raise InvalidError("A label is not allowed.", fault_lines(error.errors())) from error


def _views(session: Session, rows: Sequence[DeviceRow], now: datetime, *, brief: bool = False) -> list[DeviceView]:
    ids = [row.id for row in rows]
    documents = (DeviceStateRow.presence, DeviceStateRow.reported, DeviceStateRow.health)
    options = [defer(column) for column in documents] if brief else []
    of_devices = select(DeviceStateRow).where(DeviceStateRow.device_id.in_(ids)).options(*options)
    states = {s.device_id: s for s in session.scalars(of_devices)}
    query = select(DesiredRow.device_id, DesiredRow.generation).where(DesiredRow.device_id.in_(ids))
    generations = {found.device_id: found.generation for found in session.execute(query)}
    labels = labels_of(session, DeviceLabelRow.device_id.in_(ids))
    desired: dict[int, dict[str, str]] = {}
    deployed = select(DeploymentRow.device_id, DeploymentRow.model, DeploymentRow.version)
    for device_id, model, version in session.execute(deployed.where(DeploymentRow.device_id.in_(ids))):
        desired.setdefault(device_id, {})[model] = version
    as_of, life = judged_at(session, now), session.get(RegistryStateRow, 1)
    indexed, slots = indexed_devices(session, ids)

    def view(row: DeviceRow) -> DeviceView:
        state, known = states[row.id], indexed.get(row.id)
        there = presence.is_online(state.heard_until, state.gone_at, as_of)
        speakers = presence.Speakers(tuple(state.sessions or ()), state.returns, state.returned_at)
        connection, _ = device_states.connection(state.last_seen, state.heard_until, state.gone_at, state.online, as_of)
        whole: dict[str, Any] = {} if brief else _documents(row, state)
        return DeviceView(
            name=row.name,
            labels=labels.get(row.id, {}),
            created_at=row.created_at,
            last_seen=state.last_seen,
            online=there,
            expires_at=state.heard_until if there else None,
            rivals=speakers.rivals(as_of),
            facts_at=row.facts_at,
            generation=generations[row.id],
            epoch=life.epoch if life is not None else "",
            epoch_since=life.epoch_since if life is not None else None,
            epoch_reason=life.epoch_reason if life is not None else "",
            desired=desired.get(row.id, {}),
            connection=connection,
            state=SlotState(known.state) if known is not None else None,
            code=known.code if known is not None else "",
            hardware=known.hardware if known is not None else "",
            changed_at=known.changed_at if known is not None else None,
            slots=slots.get(row.id, {}),
            **whole,
        )

    return [view(row) for row in rows]


def _documents(row: DeviceRow, state: DeviceStateRow) -> dict[str, Any]:
    return {
        "presence": Presence.model_validate_json(state.presence) if state.presence else None,
        "reported": Reported.model_validate_json(state.reported) if state.reported else None,
        "facts": Platform.model_validate_json(row.facts) if row.facts else None,
        "health": Health.model_validate_json(state.health) if state.health else None,
    }
