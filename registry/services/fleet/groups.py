"""Named sets of devices, and which devices a fleet means: selectors and groups as SQL, see `device_sets`."""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from registry.contracts.api.answers import Scope
from registry.contracts.rollout.spec import Fleet, GroupBody, GroupView
from registry.contracts.rollout.states import RolloutState
from registry.core.rollouts.machine import AT_REST
from registry.db.engine import Changed, announce
from registry.db.fleet_rows import DeviceLabelRow, DeviceRow
from registry.db.rollout_rows import GroupDeviceRow, GroupRow, RolloutRow
from registry.errors import InUseError, InvalidError
from registry.services.access.permits import require_fleet
from registry.services.device_sets import matching
from registry.services.queries import UseCases, batches, found

OVER = tuple(state.value for state in RolloutState if state in AT_REST and state is not RolloutState.DRAFT)


class Groups(UseCases):
    """The use cases of groups."""

    def put(self, name: str, body: GroupBody, now: datetime) -> GroupView:
        """Make a group or change it. Raises InvalidError for a selector that is none."""
        if not (body.selector.strip() or body.devices):
            raise InvalidError("A group has a selector, devices, or both.")
        matching(body.selector)
        with self._database.write() as session:
            row = session.get(GroupRow, name)
            if row is not None:
                require_fleet(session, Scope.DEPLOY, None, Fleet(groups=(name,)))
            require_fleet(session, Scope.DEPLOY, None, Fleet(selector=body.selector, devices=body.devices))
            row = row or GroupRow(name=name)
            row.selector, row.note, row.changed_at = body.selector.strip(), body.note, now
            session.add(row)
            session.flush()
            session.execute(delete(GroupDeviceRow).where(GroupDeviceRow.group == name))
            members = [{"group": name, "device": device} for device in dict.fromkeys(body.devices)]
            if members:
                session.execute(insert(GroupDeviceRow), members)
            announce(session, Changed.FLEET)
            return _view(session, row)

    def get(self, name: str) -> GroupView:
        """One group. Raises NotFoundError."""
        with self._database.read() as session:
            return _view(session, find_group(session, name))

    def page(self, after: str, limit: int) -> list[GroupView]:
        """Up to `limit` groups by name, after the name `after`."""
        with self._database.read() as session:
            rows = session.scalars(select(GroupRow).where(GroupRow.name > after).order_by(GroupRow.name).limit(limit))
            return [_view(session, row) for row in rows.all()]

    def delete(self, name: str) -> None:
        """Forget a group. Raises NotFoundError; InUseError while a rollout that is not over names it."""
        with self._database.write() as session:
            row = find_group(session, name)
            require_fleet(session, Scope.DEPLOY, None, Fleet(groups=(name,)))
            open_specs = select(RolloutRow.public, RolloutRow.name, RolloutRow.spec)
            users = [
                called or public
                for public, called, spec in session.execute(open_specs.where(RolloutRow.state.not_in(OVER)))
                if name in json.loads(spec).get("fleet", {}).get("groups", ())
            ]
            if users:
                raise InUseError(f"Rollouts that are not over use the group {name!r}.", tuple(users))
            session.delete(row)
            announce(session, Changed.FLEET)


def find_group(session: Session, name: str) -> GroupRow:
    """The group's row. Raises NotFoundError."""
    return found(session.get(GroupRow, name), f"There is no group named {name!r}.")


def in_fleet(session: Session, fleet: Fleet) -> ColumnElement[bool]:
    """A condition on `devices`: those that a fleet means.

    Raises:
        InvalidError: a selector is none.
        NotFoundError: there is no such group.
    """
    parts: list[ColumnElement[bool]] = []
    if fleet.selector.strip():
        parts.append(matching(fleet.selector))
    parts.extend(_in_group(find_group(session, name)) for name in fleet.groups)
    parts.extend(DeviceRow.name.in_(batch) for batch in batches(fleet.devices))
    return or_(*parts)


def labels_of(session: Session, *which: ColumnElement[bool]) -> dict[int, dict[str, str]]:
    """The labels of the devices for which the conditions on `device_labels` hold, by the device's id."""
    found: dict[int, dict[str, str]] = {}
    for label in session.scalars(select(DeviceLabelRow).where(*which)):
        found.setdefault(label.device_id, {})[label.key] = label.value
    return found


def _in_group(row: GroupRow) -> ColumnElement[bool]:
    members = select(GroupDeviceRow.device).where(GroupDeviceRow.group == row.name)
    condition: ColumnElement[bool] = DeviceRow.name.in_(members)
    return or_(condition, matching(row.selector)) if row.selector else condition


def _view(session: Session, row: GroupRow) -> GroupView:
    query = select(GroupDeviceRow.device).where(GroupDeviceRow.group == row.name).order_by(GroupDeviceRow.device)
    count = select(func.count()).select_from(DeviceRow).where(_in_group(row))
    return GroupView(
        name=row.name,
        selector=row.selector,
        devices=tuple(session.scalars(query)),
        note=row.note,
        count=session.scalar(count) or 0,
        changed_at=row.changed_at,
    )
