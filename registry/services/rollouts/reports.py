"""What devices say becomes what their actions are: one handler for MQTT and HTTP, reported states and events.

Only the rollout whose version the slot is to serve hears of it: a device that somebody else took over says nothing
about an older rollout. Nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import Event, Reported, ServingState
from registry.contracts.rollout.states import ActionState
from registry.core.rollouts import actions
from registry.core.rollouts.actions import Report
from registry.db.engine import Changed, announce
from registry.db.fleet_rows import DeploymentRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.services.queries import in_batches
from registry.services.rollouts.store import Changes, as_action

Said = tuple[int, datetime, Reported | Event]
"""The device's id, when the registry heard it, and what it said."""
_IN_FLIGHT = tuple(state.value for state in actions.IN_FLIGHT)
_MOVING = frozenset({ServingState.CHANGING, ServingState.RECOVERING})
_PHASES = frozenset(phase.value for phase in Phase)


def take_said(session: Session, said: Sequence[Said]) -> None:
    """Take what devices said, in order; where an action changed, its rollout is to be looked at."""
    open_actions = _open_actions(session, [device for device, _, _ in said])
    if not open_actions:
        return
    changed = False
    collected: dict[int, Changes] = {}
    for device, at, message in said:
        for action, rollout, slot in open_actions.get(device, ()):
            report = _report(message, action, rollout, slot)
            if report is None:
                continue
            if rollout.id not in collected:
                collected[rollout.id] = Changes(session, rollout, at)
            changed |= _take(action, rollout, report, collected[rollout.id], at)
    for changes in collected.values():
        changes.flush()
    if changed:
        announce(session, Changed.ROLLOUTS)


_Open = tuple[ActionRow, RolloutRow, DeploymentRow | None]


def _open_actions(session: Session, devices: Sequence[int]) -> dict[int, list[_Open]]:
    """By device: the action of the rollout that each slot follows; and slots that are on their way to be emptied."""
    emptied = ActionRow.target.is_(None) & ActionRow.state.in_(_IN_FLIGHT) & DeploymentRow.device_id.is_(None)
    follows = (
        select(ActionRow, RolloutRow, DeploymentRow)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .outerjoin(
            DeploymentRow, (DeploymentRow.device_id == ActionRow.device_id) & (DeploymentRow.model == RolloutRow.model)
        )
        .where(or_(DeploymentRow.rollout == RolloutRow.public, emptied))
    )
    found: dict[int, list[_Open]] = {}
    for action, rollout, slot in in_batches(session, follows, ActionRow.device_id, sorted(set(devices))):
        found.setdefault(action.device_id or 0, []).append((action, rollout, slot))
    return found


def _report(
    message: Reported | Event, action: ActionRow, rollout: RolloutRow, slot: DeploymentRow | None
) -> Report | None:
    """What the message says of this slot; None: nothing."""
    wanted = slot is not None and slot.manifest == action.target
    if isinstance(message, Event):
        progress = _from_event(message, action, rollout, slot)
        return Report(progress, wanted=wanted) if progress is not None else None
    generation = slot.generation if slot is not None else 0
    model = message.models.get(rollout.model)
    if model is None:
        if message.generation < generation:
            return None  # it has not read this yet
        return Report(None, None, steady=True, at=message.at, wanted=wanted)
    steady = model.state not in _MOVING and message.generation >= generation
    return Report(model.deployment, model.manifest, steady=steady, at=message.at, wanted=wanted)


def _from_event(
    event: Event, action: ActionRow, rollout: RolloutRow, slot: DeploymentRow | None
) -> DeploymentProgress | None:
    """An event names no attempt; that it answers this one, its generation says, once the slot is told of this one."""
    ours = event.kind == "deployment" and event.rollout == rollout.public and event.model == rollout.model
    if not ours or event.phase not in _PHASES or action.target is None or slot is None:
        return None
    if (slot.manifest, slot.attempt) != (action.target, action.attempt):
        return None  # what it tells of is the deployment that this action is to replace
    if event.generation < slot.generation or event.version not in (None, slot.version):
        return None
    return DeploymentProgress(
        version=slot.version,
        manifest=action.target,
        rollout=rollout.public,
        attempt=action.attempt,
        phase=Phase(event.phase),
        since=event.at,
        code=event.code[:64],
        message=event.message[:2048],
    )


def _take(action: ActionRow, rollout: RolloutRow, report: Report, changes: Changes, at: datetime) -> bool:
    progress = report.progress
    speaks = progress is not None and (progress.rollout, progress.attempt, progress.manifest) == (
        rollout.public,
        action.attempt,
        action.target,
    )
    if speaks and progress is not None:
        if not action.spoke:
            action.spoke = True
        _take_shadow(action, progress)
    before = ActionState(action.state)
    after = actions.take(as_action(action, rollout.public), report, at)
    changes.put(action, after)
    return ActionState(action.state) is not before


def _take_shadow(action: ActionRow, progress: DeploymentProgress) -> None:
    shadow = progress.shadow
    if shadow is None:
        return
    # What the candidate could not answer, where the active version did, it did not agree on.
    compared, agreed = shadow.compared + shadow.errors, (shadow.agreement or 0.0) * shadow.compared
    if (action.shadow_compared, action.shadow_agreed) != (compared, agreed):
        action.shadow_compared, action.shadow_agreed = compared, agreed
