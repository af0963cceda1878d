"""Devices: registering, credentials, labels, listing, deleting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.contracts.api.devices import DeviceCreated, DeviceView
from registry.contracts.messages import Health, Presence, Reported
from registry.contracts.names import LabelKey, LabelValue
from registry.contracts.platforms import Platform
from registry.db.engine import Database
from registry.db.fleet_rows import (
    DeploymentRow,
    DesiredRow,
    DeviceLabelRow,
    DeviceRow,
    DeviceStateRow,
    TombstoneRow,
)
from registry.errors import InvalidError
from registry.services.access import Access
from registry.services.desired import DesiredDocuments, find_device, first_document, next_revision
from registry.services.tokens import device_token_name, put_device_token, remove_device_token

MAX_LABELS = 64
_LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[LabelKey, LabelValue])


class Devices:
    """The use cases of devices."""

    def __init__(
        self,
        database: Database,
        access: Access,
        documents: DesiredDocuments,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called after devices or labels changed; it must not block."""
        self._database = database
        self._on_change = on_change
        self._access = access
        self._documents = documents

    def put(self, name: str, labels: Mapping[str, str], now: datetime) -> DeviceCreated | DeviceView:
        """Register a device, or set the labels of one that is there.

        Returns:
            A new device's credential, which is shown only here; the view of one that was there.

        Raises:
            InvalidError: too many labels, or one that is not allowed.
        """
        _check_labels(labels)
        with self._database.write() as session:
            row = session.scalar(select(DeviceRow).where(DeviceRow.name == name))
            created = row is None
            row = row or _register(session, name, now)
            session.execute(delete(DeviceLabelRow).where(DeviceLabelRow.device_id == row.id))
            session.add_all(DeviceLabelRow(device_id=row.id, key=key, value=labels[key]) for key in labels)
            session.flush()
            token = put_device_token(session, name, now) if created else ""
            view = _views(session, [row])[0]
        self._on_change()
        if not created:
            return view
        self._access.forget(device_token_name(name))
        self._documents.changed()
        return DeviceCreated(device=name, token=token)

    def rotate(self, name: str, now: datetime) -> DeviceCreated:
        """A new credential; the old one works no more, at once in this process. Raises NotFoundError."""
        with self._database.write() as session:
            find_device(session, name)
            token = put_device_token(session, name, now)
        self._access.forget(device_token_name(name))
        return DeviceCreated(device=name, token=token)

    def delete(self, name: str, now: datetime) -> None:
        """Forget a device, its history and its credential; the bridge clears its retained messages. NotFoundError."""
        with self._database.write() as session:
            row = find_device(session, name)
            generation = session.get_one(DesiredRow, row.id).generation
            revision = next_revision(session)
            session.merge(
                TombstoneRow(name=name, generation=generation, revision=revision, cleared=False, deleted_at=now)
            )
            session.execute(delete(DeviceRow).where(DeviceRow.id == row.id))  # its rows follow: ON DELETE CASCADE
            remove_device_token(session, name)
        self._access.forget(device_token_name(name))
        self._documents.changed()
        self._on_change()

    def view(self, name: str) -> DeviceView:
        """One device. Raises NotFoundError."""
        with self._database.read() as session:
            return _views(session, [find_device(session, name)])[0]

    def page(self, labels: Mapping[str, str], online: bool | None, after: str, limit: int) -> list[DeviceView]:
        """Up to `limit` devices by name, after the name `after`.

        Args:
            labels: Only devices that have all of these.
            online: Only devices that are, or are not, connected; None: both.
        """
        query = select(DeviceRow).where(DeviceRow.name > after)
        for key, value in labels.items():
            having = select(DeviceLabelRow.device_id).where(DeviceLabelRow.key == key, DeviceLabelRow.value == value)
            query = query.where(DeviceRow.id.in_(having))
        if online is not None:
            query = query.join(DeviceStateRow).where(DeviceStateRow.online.is_(online))
        with self._database.read() as session:
            return _views(session, session.scalars(query.order_by(DeviceRow.name).limit(limit)).all())


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
    return row


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidError(f"{len(labels)} labels; {MAX_LABELS} are the most.")
    try:
        _LABELS.validate_python(dict(labels))
    except ValidationError as error:
        faults = tuple(f"{'.'.join(str(part) for part in f['loc'])}: {f['msg']}" for f in error.errors())
        raise InvalidError("A label is not allowed.", faults) from error


def _views(session: Session, rows: Sequence[DeviceRow]) -> list[DeviceView]:
    ids = [row.id for row in rows]
    states = {s.device_id: s for s in session.scalars(select(DeviceStateRow).where(DeviceStateRow.device_id.in_(ids)))}
    generations = select(DesiredRow.device_id, DesiredRow.generation).where(DesiredRow.device_id.in_(ids))
    generation = {found.device_id: found.generation for found in session.execute(generations)}
    labels: dict[int, dict[str, str]] = {}
    for label in session.scalars(select(DeviceLabelRow).where(DeviceLabelRow.device_id.in_(ids))):
        labels.setdefault(label.device_id, {})[label.key] = label.value
    desired: dict[int, dict[str, str]] = {}
    for slot in session.scalars(select(DeploymentRow).where(DeploymentRow.device_id.in_(ids))):
        desired.setdefault(slot.device_id, {})[slot.model] = slot.version
    return [
        _view(row, states[row.id], generation[row.id], labels.get(row.id, {}), desired.get(row.id, {})) for row in rows
    ]


def _view(
    row: DeviceRow, state: DeviceStateRow, generation: int, labels: dict[str, str], desired: dict[str, str]
) -> DeviceView:
    return DeviceView(
        name=row.name,
        labels=labels,
        created_at=row.created_at,
        last_seen=state.last_seen,
        presence=Presence.model_validate_json(state.presence) if state.presence else None,
        reported=Reported.model_validate_json(state.reported) if state.reported else None,
        facts=Platform.model_validate_json(row.facts) if row.facts else None,
        facts_at=row.facts_at,
        health=Health.model_validate_json(state.health) if state.health else None,
        generation=generation,
        desired=desired,
    )
