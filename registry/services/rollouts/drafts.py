"""Rollouts that have not begun: made, and changed for as long as no device has heard of them.

A spec is checked before it is kept, and its version is resolved then: an alias that moves later changes no rollout.
Everything here works within the caller's transaction.
"""

from __future__ import annotations

import json
import re
import secrets
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.codes import DeviceReasonCode, ReasonCode
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import RolloutState
from registry.contracts.rollout.views import MAX_NAMED, PlanGap, PlanView
from registry.core.differences import differences
from registry.core.rollouts.waves import selectors
from registry.core.selectors import SelectorError
from registry.db.fleet_rows import DeviceRow
from registry.db.rollout_rows import GroupDeviceRow, RolloutRow
from registry.errors import ConflictError, InvalidError
from registry.services.fleet.groups import find_group
from registry.services.fleet.groups import named as named_devices
from registry.services.rollouts.store import record
from registry.services.views import find_version

MAX_OPEN = 1000
"""Rollouts that are not over; another one is refused."""
_PUBLIC = re.compile(r"r-[0-9a-f]{12}")
"""An id, by which a rollout is found as by its name."""
_CHANGEABLE = frozenset({RolloutState.DRAFT, RolloutState.DENIED})


def named(session: Session, name: str) -> RolloutRow | None:
    """The rollout of that name, if there is one."""
    return session.scalar(select(RolloutRow).where(RolloutRow.name == name))


def require_time(spec: RolloutSpec, now: datetime) -> None:
    """Raises InvalidError when the rollout would end before it could begin."""
    if spec.valid_until is not None and spec.valid_until <= now:
        raise InvalidError(f"valid_until, {spec.valid_until.isoformat(timespec='seconds')}, is over.")


def _check(session: Session, spec: RolloutSpec, now: datetime) -> None:
    require_time(spec, now)
    if spec.name is not None and _PUBLIC.fullmatch(spec.name):
        raise InvalidError(f"{spec.name!r} has the form of a rollout's id; give it another name.")
    try:
        selectors(spec)
    except SelectorError as error:
        raise InvalidError(f"{error}.") from error
    for group in spec.fleet.groups:
        find_group(session, group)


def make_draft(session: Session, spec: RolloutSpec, by: str, now: datetime) -> RolloutRow:
    """A new rollout, whose name the caller found free.

    Raises:
        NotFoundError: no such version, alias or group.
        InvalidError: a selector is none, its time is over, or the name has the form of an id.
        ConflictError: MAX_OPEN are not over.
    """
    _check(session, spec, now)
    still_open = select(RolloutRow.id).where(RolloutRow.ended_at.is_(None)).limit(MAX_OPEN)
    if len(session.scalars(still_open).all()) >= MAX_OPEN:
        raise ConflictError(f"{MAX_OPEN} rollouts are not over; end or delete some first.")
    version = find_version(session, spec.model, spec.version)
    row = RolloutRow(
        public=f"r-{secrets.token_hex(6)}", name=spec.name, model=spec.model, version=version.version,
        manifest=version.manifest, spec=spec.canonical().decode(), state=RolloutState.DRAFT.value, revision=1,
        generation=1, reason=ReasonCode.NEW.value, reason_text="", since=now, created_at=now, created_by=by,
        tokens=0.0, byte_tokens=0.0,
    )  # fmt: skip
    session.add(row)
    session.flush()
    record(session, row, None, "create", now, by=by, note=spec.note)
    return row


def change_draft(session: Session, row: RolloutRow, spec: RolloutSpec, by: str, now: datetime) -> None:
    """It asks for this now; what was planned is void.

    Raises:
        NotFoundError: no such version, alias or group.
        InvalidError: a selector is none, or its time is over.
        ConflictError: it has begun with another spec; `errors` names the differences.
    """
    if RolloutState(row.state) not in _CHANGEABLE or row.generation > 1:  # devices may have the earlier one
        raise ConflictError(
            f"Rollout {row.name!r} is {row.state} with another spec; give the new one another name.",
            differences(json.loads(row.spec), spec.to_json()),
        )
    _check(session, spec, now)
    version = find_version(session, spec.model, spec.version)
    row.spec, row.model = spec.canonical().decode(), spec.model
    row.version, row.manifest, row.plan, row.plan_digest = version.version, version.manifest, None, None
    row.revision += 1
    record(session, row, RolloutState(row.state), "change", now, by=by, note=spec.note)


def with_missing(session: Session, spec: RolloutSpec, found: PlanView) -> PlanView:
    """The plan, which says also of names in the fleet and its groups that no device has them: most are misspelt.

    They are no part of its digest: a device may be registered later, and joins as a newcomer.
    """
    listed = select(GroupDeviceRow.device).where(GroupDeviceRow.group.in_(spec.fleet.groups))
    asked = sorted({*spec.fleet.devices, *session.scalars(listed)})
    known = {name for some in named_devices(asked) for name in session.scalars(select(DeviceRow.name).where(some))}
    missing = tuple(name for name in asked if name not in known)
    if not missing:
        return found
    why = "no device of this name is registered; once it is, it joins while the rollout runs"
    gap = PlanGap(code=DeviceReasonCode.NOT_REGISTERED, why=why, count=len(missing), devices=missing[:MAX_NAMED])
    return found.model_copy(update={"nothing": (*found.nothing, gap)})
