"""Whether whoever acts may do it to these devices, asked inside the transaction that does it.

Who has the permission at all, and on which models, is checked before; see `registry.server.middleware.auth`. A selector
or a group passes if it names everything that the grant's own selector names, so that whatever matches it later is
covered, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from registry.contracts.api.access import RoleGrant
from registry.contracts.api.answers import Scope
from registry.contracts.rollout.spec import Fleet
from registry.core.access import ROLE_OF
from registry.db.fleet_rows import DeviceRow
from registry.db.rollout_rows import GroupDeviceRow, GroupRow
from registry.errors import ForbiddenError
from registry.services.access.principals import Principal, acting
from registry.services.device_sets import matching, terms_of
from registry.services.queries import batches


def require_devices(session: Session, scope: Scope, model: str | None, which: ColumnElement[bool]) -> None:
    """Raises ForbiddenError unless whoever acts has the permission on all these devices: a condition on `devices`.

    Args:
        session: Of the change.
        scope: What is needed.
        model: On this model; None: on what touches no model in particular.
        which: The devices.
    """
    limits = _limits(scope, model)
    if limits is None:
        return
    who, grants = limits
    covered = or_(*(matching(each.devices) for each in grants))
    outside = session.scalar(select(DeviceRow.name).where(which, ~covered).order_by(DeviceRow.name).limit(1))
    if outside is not None:
        raise ForbiddenError(
            f"{who.name!r} is {who.roles}; device {outside!r} is outside of that. Nothing was changed."
        )


def require_fleet(session: Session, scope: Scope, model: str | None, fleet: Fleet) -> None:
    """Raises ForbiddenError unless whoever acts has the permission on all that a fleet means, now and later."""
    limits = _limits(scope, model)
    if limits is None:
        return
    who, grants = limits
    selectors = [fleet.selector] if fleet.selector.strip() else []
    names = list(fleet.devices)
    for group in fleet.groups:
        row = session.get(GroupRow, group)
        selectors += [row.selector] if row is not None and row.selector.strip() else []
        names += session.scalars(select(GroupDeviceRow.device).where(GroupDeviceRow.group == group))
    for selector in selectors:
        if not any(set(terms_of(each.devices)) <= set(terms_of(selector)) for each in grants):
            own = " or ".join(each.devices for each in grants)
            raise ForbiddenError(
                f"{who.name!r} is {who.roles}; the selector {selector} reaches beyond that. Begin it with {own}."
            )
    for some in batches(names):
        known = set(session.scalars(select(DeviceRow.name).where(DeviceRow.name.in_(some))))
        if missing := sorted(set(some) - known):
            raise ForbiddenError(f"{who.name!r} is {who.roles}; there is no device {missing[0]!r} among those.")
        require_devices(session, scope, model, DeviceRow.name.in_(some))


def _limits(scope: Scope, model: str | None) -> tuple[Principal, Sequence[RoleGrant]] | None:
    """Who acts, and the grants, each with a selector; None: all devices are covered. Raises ForbiddenError."""
    actor = acting()
    if actor is None:
        return None
    who = actor.principal
    grants = who.allowing(scope, model)
    if not grants:
        who.require(scope, model)
        raise ForbiddenError(f"This needs the role {ROLE_OF[scope]} of all models; {who.name!r} is {who.roles}.")
    return None if any(not each.devices.strip() for each in grants) else (who, grants)
