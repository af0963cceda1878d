"""What a rollout writes into desired states: the offer, the way back, the hold. Always with the action that it is for,
in one transaction; what another one wants from the device by now is left alone.

A device's last good version is what served there when it was offered: its desired state, unless that came from a
rollout that had not committed there (then that one's last good is taken over), or the device serves something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import DeploymentCode, DeviceReasonCode
from registry.contracts.device.messages import DesiredModel, ServingState
from registry.contracts.fit.platforms import Platform
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.texts import how_many
from registry.core.rollouts import actions
from registry.db.catalog_rows import ModelRow
from registry.db.engine import Changed, announce
from registry.db.fleet_rows import DeploymentRow, DeviceRow, DeviceStateRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import ConflictError
from registry.services.choice import choose
from registry.services.fleet.desired import SlotChange, as_desired, set_many
from registry.services.queries import in_batches, manifest_body
from registry.services.rollouts.store import (
    ACTIVE,
    BY_PERSON,
    Changes,
    as_action,
    by_hand_since,
    by_of,
    called,
    policy_of,
    previous_of,
    put_state,
)

_S = ActionState
_GOES_ON = (RolloutState.RUNNING.value, RolloutState.PAUSED.value)
_WILL_HAVE = tuple(state.value for state in actions.PARKED | actions.IN_FLIGHT)
_HAS = tuple(state.value for state in actions.SUCCESS)
_UNPROVEN = tuple(state.value for state in actions.IN_FLIGHT | actions.PARKED | actions.FAILURE | {_S.TIMED_OUT})


def offer(session: Session, row: RolloutRow, rows: Sequence[ActionRow], changes: Changes, now: datetime) -> int:
    """Put it into the desired state of these devices; how many were told."""
    rows = _fitting(session, row, rows, changes)
    if row.state != RolloutState.ROLLING_BACK.value:
        rows = _not_newer(session, row, rows, changes)
        rows = _not_by_hand(session, row, rows, changes)
        _remember_last_good(session, row, rows)
        supersede(session, row.model, [r.device_id for r in rows if r.device_id is not None], row.id, now)
    told = changes.set(rows, _S.OFFERED)
    for each in told:
        each.offered_at, each.held, each.spoke = now, False, False
    refused = set_many(session, row.model, _offers(session, row, changes.spec, told), by_of(row), now)
    changes.set(
        (r for r in told if r.device_id in refused),
        _S.FAILED,
        DeviceReasonCode.NO_ROOM,
        "its desired state has no room",
    )
    return len(told) - len(refused)


def _offers(session: Session, row: RolloutRow, spec: RolloutSpec, rows: Sequence[ActionRow]) -> list[SlotChange]:
    """What each device is offered in this generation."""
    settings = session.get(ModelRow, row.model)
    policy = policy_of(row, spec)
    new = DesiredModel(
        version=row.version,
        manifest=row.manifest,
        rollout=row.public,
        profile=spec.profile,
        record_results=settings is not None and settings.record_results,
    )

    def target(action: ActionRow) -> DesiredModel | None:
        update = {"rollout": row.public, "attempt": action.attempt, "policy": policy}
        if not action.goes_back:
            return new.model_copy(update={**update, "variant": action.variant})
        previous = previous_of(action)
        return previous.model_copy(update=update) if previous is not None else None

    return [SlotChange(action.device_id, target(action)) for action in rows if action.device_id is not None]


def restore(session: Session, row: RolloutRow, rows: Iterable[ActionRow], now: datetime) -> list[ActionRow]:
    """The desired state of these devices returns to what it was before this rollout, as it stood.

    Returns:
        Those whose desired state has no room for that: it still wants this rollout's version, and their actions say so.
    """
    ours = _still_ours(session, row, rows)
    wanted = [SlotChange(r.device_id, previous_of(r), r.previous_pinned) for r in ours if r.device_id is not None]
    refused = set_many(session, row.model, wanted, by_of(row), now)
    stay = [r for r in ours if r.device_id in refused]
    if stay:
        changes = Changes(session, row, now)
        for each in stay:
            text = (
                f"its desired state has no room for {each.previous_version}, its last good version, and still wants "
                f"{row.version}; take models or jobs off the device, then deploy to it"
            )
            action = as_action(each, row.public)
            changes.put(each, replace(action, code=DeviceReasonCode.NO_ROOM, message=text))
        changes.flush()
    return stay


MAX_TOLD = 5
"""Devices that a refusal names."""


def let_go(session: Session, row: RolloutRow, now: datetime) -> None:
    """The rollout is deleted, and nobody has said that its version is good: who is still held by it returns to its last
    good version.

    Raises:
        ConflictError: for some the desired state has no room for that.
    """
    held = select(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.held)
    stay = restore(session, row, session.scalars(held).all(), now)
    if stay:
        raise ConflictError(
            f"Rollout {row.public} still holds {how_many(len(stay), 'device')} whose desired state has no room for "
            "the last good version. Nothing was deleted: take models or jobs off them first.",
            tuple(f"{each.device}: {each.message}" for each in stay[:MAX_TOLD]),
        )


def hold(session: Session, row: RolloutRow, rows: Iterable[ActionRow], now: datetime) -> None:
    """Tell these devices to hold, or to go on, as their `held` says. Nothing else of their desired state changes, and a
    slot that a later deployment or rollout took is left alone."""
    held = {r.device_id: r.held for r in rows if r.device_id is not None}
    ours = (DeploymentRow.device_id.in_(held), DeploymentRow.model == row.model, DeploymentRow.rollout == row.public)
    slots = session.scalars(select(DeploymentRow).where(*ours)).all()
    wanted = [SlotChange(s.device_id, _held(as_desired(s), held[s.device_id]), s.pinned, s.note) for s in slots]
    session.flush()
    set_many(session, row.model, wanted, by_of(row), now, adapts=True)


def _held(wanted: DesiredModel, held: bool) -> DesiredModel:
    return wanted.model_copy(update={"policy": wanted.policy.model_copy(update={"hold": held})})


def _not_newer(session: Session, row: RolloutRow, rows: Sequence[ActionRow], changes: Changes) -> list[ActionRow]:
    """Without those that a rollout of the same model, begun after this one, has or is to have: the newer one wins."""
    began_later = (RolloutRow.started_at > row.started_at) | (
        (RolloutRow.started_at == row.started_at) & (RolloutRow.id > row.id)
    )
    has = DeploymentRow.rollout == RolloutRow.public
    will = RolloutRow.state.in_(_GOES_ON) & ActionRow.state.in_(_WILL_HAVE)
    newer = (
        select(ActionRow.device_id, called(RolloutRow))
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .outerjoin(
            DeploymentRow, (DeploymentRow.device_id == ActionRow.device_id) & (DeploymentRow.model == RolloutRow.model)
        )
        .where(RolloutRow.model == row.model, RolloutRow.id != row.id, began_later)
        .where(ActionRow.goes_back.is_(False), will | (ActionRow.state.in_(_HAS) & has))
        .order_by(RolloutRow.started_at, RolloutRow.id)
    )
    return _without_taken(rows, in_batches(session, newer, ActionRow.device_id, _ids(rows)), changes)


def _not_by_hand(session: Session, row: RolloutRow, rows: Sequence[ActionRow], changes: Changes) -> list[ActionRow]:
    """Without those that a person deployed to after the rollout was planned, while it had no action to supersede."""
    by_hand = select(DeploymentRow.device_id, BY_PERSON + DeploymentRow.set_by).where(by_hand_since(row))
    return _without_taken(rows, in_batches(session, by_hand, DeploymentRow.device_id, _ids(rows)), changes)


def _without_taken(rows: Sequence[ActionRow], taken: Iterable[Any], changes: Changes) -> list[ActionRow]:
    """`taken`: rows of a device and who has it."""
    takers: dict[int | None, str] = dict(taken)
    for who in sorted(set(takers.values())):
        lost = (r for r in rows if takers.get(r.device_id) == who)
        changes.set(lost, _S.SUPERSEDED, message=f"{who} took it")
    return [r for r in rows if r.device_id not in takers]


def _ids(rows: Iterable[ActionRow]) -> list[int]:
    return [r.device_id for r in rows if r.device_id is not None]


def supersede(session: Session, model: str, devices: Sequence[int], but: int | None, now: datetime) -> None:
    """Another version is wanted on these devices: what other rollouts had for them is over."""
    others = (
        select(ActionRow)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .where(RolloutRow.model == model, RolloutRow.state.in_(ACTIVE), RolloutRow.id != (but or 0))
    )
    found: dict[int, list[ActionRow]] = {}
    for (action,) in in_batches(session, others, ActionRow.device_id, devices):
        found.setdefault(action.rollout_id, []).append(action)
    who = session.scalar(select(called(RolloutRow)).where(RolloutRow.id == but)) or "a person"
    for rollout_id, lost in found.items():
        other = session.get_one(RolloutRow, rollout_id)
        if put_state(session, other, lost, _S.SUPERSEDED, now, message=f"{who} took it"):
            announce(session, Changed.ROLLOUTS)


def _still_ours(session: Session, row: RolloutRow, rows: Iterable[ActionRow]) -> list[ActionRow]:
    """Those whose slot still wants what this rollout wrote: a later deployment or rollout is left alone."""
    by_device = {r.device_id: r for r in rows if r.device_id is not None}
    query = select(DeploymentRow.device_id).where(
        DeploymentRow.device_id.in_(by_device), DeploymentRow.model == row.model, DeploymentRow.rollout == row.public
    )
    return [by_device[device] for device in session.scalars(query)]


def _fitting(session: Session, row: RolloutRow, rows: Sequence[ActionRow], changes: Changes) -> list[ActionRow]:
    """Facts that changed since the plan choose again; who fits nothing any more is told nothing."""
    known = in_batches(session, select(DeviceRow.id, DeviceRow.facts_digest), DeviceRow.id, _ids(rows))
    digests: dict[int, str | None] = dict(known)
    changes.set((r for r in rows if r.device_id is None), _S.DECOMMISSIONED)
    present = [r for r in rows if r.device_id in digests]
    if row.state == RolloutState.ROLLING_BACK.value:
        return present
    changed = [r for r in present if digests[r.device_id or 0] != r.facts]
    chosen = variants_for(session, row.manifest, {d for r in changed if (d := digests[r.device_id or 0])})
    for each in changed:
        digest = digests[each.device_id or 0]
        each.facts, each.variant, each.size = digest, *chosen.get(digest or "", (None, 0))
    changes.set((r for r in changed if r.variant is None), _S.INCOMPATIBLE, DeploymentCode.NO_FITTING_VARIANT)
    return [r for r in present if r.variant is not None]


def variants_for(session: Session, manifest: str, digests: Iterable[str]) -> dict[str, tuple[str | None, int]]:
    """The variant and its size for hosts with these facts, resolved once for each digest."""
    found: dict[str, tuple[str | None, int]] = {}
    body = None
    for digest in digests:
        body = body or manifest_body(session, manifest)
        facts = session.scalar(select(DeviceRow.facts).where(DeviceRow.facts_digest == digest).limit(1))
        if body is None or facts is None:
            continue
        parsed = Manifest.model_validate_json(body)
        name = choose(session, parsed, Platform.model_validate_json(facts)).chosen
        variant = parsed.variant(name) if name is not None else None
        found[digest] = (name, variant.size if variant is not None else 0)
    return found


def _remember_last_good(session: Session, row: RolloutRow, rows: Sequence[ActionRow]) -> None:
    ids = _ids(rows)
    said = select(DeviceStateRow.device_id, DeviceStateRow.reported)
    reported = dict(in_batches(session, said, DeviceStateRow.device_id, ids))
    wanted = select(DeploymentRow).where(DeploymentRow.model == row.model)
    slots = {slot.device_id: slot for (slot,) in in_batches(session, wanted, DeploymentRow.device_id, ids)}
    others = (
        select(ActionRow)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .join(DeploymentRow, (DeploymentRow.rollout == RolloutRow.public)
              & (DeploymentRow.device_id == ActionRow.device_id) & (DeploymentRow.model == RolloutRow.model))
        .where(RolloutRow.model == row.model, ActionRow.state.in_(_UNPROVEN))
    )  # fmt: skip
    unproven = {action.device_id: action for (action,) in in_batches(session, others, ActionRow.device_id, ids)}
    for each in rows:
        device = each.device_id or 0
        before, slot = unproven.get(device), slots.get(device)
        if before is not None:
            each.previous, each.previous_pinned = before.previous, before.previous_pinned
            each.previous_version, each.previous_manifest = before.previous_version, before.previous_manifest
        elif slot is not None:
            good = _held(_serving_instead(as_desired(slot), reported.get(device), row.model), held=False)
            each.previous = good.canonical().decode()
            each.previous_version, each.previous_manifest = good.version, good.manifest
            each.previous_pinned = slot.pinned and good.version == slot.version
        else:
            each.previous, each.previous_pinned = None, False
            each.previous_version = each.previous_manifest = None


def _serving_instead(wanted: DesiredModel, reported: str | None, model: str) -> DesiredModel:
    """What the device serves at rest instead of what is wanted from it: that is its last good."""
    slot = json.loads(reported).get("models", {}).get(model, {}) if reported else {}
    settled = slot.get("state") == ServingState.FAILED and slot.get("desired_version") == wanted.version
    if not settled or not slot.get("manifest") or slot["manifest"] == wanted.manifest:
        return wanted
    names = {key: slot.get(key) for key in ("version", "manifest", "variant")}
    return wanted.model_copy(update={**names, "rollout": None})
