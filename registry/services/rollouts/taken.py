"""Whose a device is by now: what its slot wants was written by this rollout, or somebody else took it since.

Conditions on the actions of one rollout, so that any number of devices are one statement. A device that was never
offered the version is another's only once a person deployed to it after the rollout was planned.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select
from sqlalchemy.orm import aliased

from registry.core.rollouts.machine import RolloutTrigger
from registry.db.fleet_rows import DeploymentRow
from registry.db.rollout_rows import ActionRow, RolloutHistoryRow, RolloutRow
from registry.services.rollouts.store import BY_ROLLOUT, by_of

_PLANNED = (RolloutTrigger.PLANNED.value, RolloutTrigger.PLANNED_FOR_APPROVAL.value)


def by_hand_since(row: RolloutRow) -> ColumnElement[bool]:
    """Of a deployment: a person made it for the rollout's model after the rollout was first planned."""
    planned = select(func.max(RolloutHistoryRow.at)).where(
        RolloutHistoryRow.rollout_id == row.id, RolloutHistoryRow.generation == 1, RolloutHistoryRow.cause.in_(_PLANNED)
    )
    by_person = ~DeploymentRow.set_by.startswith(BY_ROLLOUT)
    return (DeploymentRow.model == row.model) & by_person & (DeploymentRow.set_at > planned.scalar_subquery())


def is_taken(row: RolloutRow) -> ColumnElement[bool]:
    """Of an action: somebody else took the device since its offer or, was it never offered it, since the plan."""
    by_hand = select(DeploymentRow.model).where(DeploymentRow.device_id == ActionRow.device_id, by_hand_since(row))
    return case((ActionRow.offered_at.is_(None), by_hand.exists()), else_=~_still_ours(row))


def still_wants_it(row: RolloutRow) -> ColumnElement[bool]:
    """Of an action: its slot wants the rollout's version, by this rollout."""
    slot = select(DeploymentRow.model).where(
        DeploymentRow.device_id == ActionRow.device_id, DeploymentRow.model == row.model
    )
    return slot.where(DeploymentRow.set_by == by_of(row), DeploymentRow.manifest == row.manifest).exists()


def taker(row: RolloutRow) -> ColumnElement[str]:
    """Of an action whose device was taken: by whom, as a sentence."""
    other = aliased(RolloutRow)
    by_rollout = literal("rollout ") + func.coalesce(other.name, other.public) + literal(" of ") + other.version
    by_person = literal("a deployment by ") + DeploymentRow.set_by
    who = (
        select(case((other.id.is_not(None), by_rollout), else_=by_person))
        .select_from(DeploymentRow)
        .outerjoin(other, DeploymentRow.set_by == literal(BY_ROLLOUT) + other.public)
        .where(DeploymentRow.device_id == ActionRow.device_id, DeploymentRow.model == row.model)
        .correlate(ActionRow)
    )
    return func.coalesce(who.scalar_subquery(), literal("whoever removed the model from it")) + literal(" took it")


def _still_ours(row: RolloutRow) -> ColumnElement[bool]:
    """Of an action: what its slot wants was written by this rollout, or it wants nothing, as before the rollout."""
    slot = select(DeploymentRow.model).where(
        DeploymentRow.device_id == ActionRow.device_id, DeploymentRow.model == row.model
    )
    emptied = and_(ActionRow.previous_manifest.is_(None), ~slot.exists())
    return or_(slot.where(DeploymentRow.set_by == by_of(row)).exists(), emptied)
