"""Devices that begin to match while a rollout runs: registered, relabelled, or known well enough by now. They join the
tail wave. Devices that were deleted leave. Level-triggered: found by comparing the fleet with the actions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from registry.contracts.codes import DeploymentCode
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.core.rollouts import actions
from registry.core.rollouts.waves import position, tail
from registry.db.engine import Database
from registry.db.fleet_rows import DeploymentRow, DeviceRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.services.fleet.groups import in_fleet
from registry.services.rollouts.known import serving
from registry.services.rollouts.store import BATCH, Changes, spec_of
from registry.services.rollouts.targets import variants_for

_S = ActionState
_LEAVES = tuple(state.value for state in actions.PARKED | actions.IN_FLIGHT)


def sweep(database: Database, rollout_id: int, now: datetime) -> int:
    """One pass over a rollout, a batch a transaction; how many devices joined or left."""
    done = 0
    while changed := _look(database, rollout_id, now):
        done += changed
        if changed < BATCH:
            break
    return done


def _look(database: Database, rollout_id: int, now: datetime) -> int:
    with database.read() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None or not _anything(session, row, spec_of(row)):
            return 0
    with database.write() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None:
            return 0
        spec = spec_of(row)
        gone = _gone(session, row, spec, now)
        if row.state != RolloutState.RUNNING.value or not spec.newcomers:
            return gone
        return gone + _join(session, row, spec, now) + _fit_by_now(session, row, spec, now)


def _anything(session: Session, row: RolloutRow, spec: RolloutSpec) -> bool:
    if session.scalar(_left(row).limit(1)) is not None:
        return True
    if row.state != RolloutState.RUNNING.value or not spec.newcomers:
        return False
    joins = session.execute(_new(session, row, spec).limit(1)).first()
    return joins is not None or session.execute(_known_by_now(row).limit(1)).first() is not None


def _left(row: RolloutRow):  # type: ignore[no-untyped-def]
    return select(ActionRow).where(
        ActionRow.device_id.is_(None), ActionRow.rollout_id == row.id, ActionRow.state.in_(_LEAVES)
    )


def _new(session: Session, row: RolloutRow, spec: RolloutSpec):  # type: ignore[no-untyped-def]
    has = select(ActionRow.id).where(ActionRow.device_id == DeviceRow.id, ActionRow.rollout_id == row.id)
    query = select(DeviceRow.id, DeviceRow.name, DeviceRow.facts_digest)
    return query.where(in_fleet(session, spec.fleet), ~has.exists())


def _known_by_now(row: RolloutRow):  # type: ignore[no-untyped-def]
    query = select(ActionRow, DeviceRow.facts_digest).join(DeviceRow, DeviceRow.id == ActionRow.device_id)
    changed = DeviceRow.facts_digest.is_not(None) & DeviceRow.facts_digest.is_distinct_from(ActionRow.facts)
    unfit = (ActionRow.rollout_id == row.id, ActionRow.state == _S.INCOMPATIBLE.value, ActionRow.goes_back.is_(False))
    return query.where(*unfit, changed)


def _gone(session: Session, row: RolloutRow, spec: RolloutSpec, now: datetime) -> int:
    changes = Changes(session, row, spec, now)
    left = changes.set(session.scalars(_left(row).limit(BATCH)).all(), _S.DECOMMISSIONED)
    changes.flush()
    return len(left)


def _join(session: Session, row: RolloutRow, spec: RolloutSpec, now: datetime) -> int:
    found = session.execute(_new(session, row, spec).limit(BATCH)).all()
    if not found:
        return 0
    chosen = variants_for(session, row.manifest, {d for _, _, d in found if d is not None})
    current = serving(session, row.model, row.manifest, DeploymentRow.device_id.in_([d for d, _, _ in found]))
    rows = []
    for device, name, digest in found:
        variant, size = chosen.get(digest or "", (None, 0))
        state = _S.PLANNED if variant is not None else _S.INCOMPATIBLE
        state = _S.ALREADY_CURRENT if device in current else state
        why = DeploymentCode.NO_FITTING_VARIANT if digest is not None else DeploymentCode.FACTS_UNKNOWN
        code = why if state is _S.INCOMPATIBLE else ""
        rows.append(
            {
                "rollout_id": row.id, "device_id": device, "device": name, "generation": row.generation,
                "state": state.value, "since": now, "target": row.manifest, "code": code, "facts": digest,
                "variant": variant, "size": size, "rank": position(row.public, name),
                "wave": tail(spec) if state is _S.PLANNED else None,
            }
        )  # fmt: skip
    names = [name for _, name, _ in found]  # one that was deleted and registered again is another device
    orphans = delete(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.device_id.is_(None))
    session.execute(orphans.where(ActionRow.device.in_(names)))
    session.execute(insert(ActionRow), rows)
    return len(rows)


def _fit_by_now(session: Session, row: RolloutRow, spec: RolloutSpec, now: datetime) -> int:
    """Devices that nothing fitted, or whose facts nobody knew, and that have others now."""
    found = session.execute(_known_by_now(row).limit(BATCH)).all()
    chosen = variants_for(session, row.manifest, {digest for _, digest in found})
    changes = Changes(session, row, spec, now)
    for action, digest in found:
        variant, size = chosen.get(digest, (None, 0))
        action.facts = digest
        if variant is not None and changes.set([action], _S.PLANNED):
            action.variant, action.size, action.wave = variant, size, tail(spec)
    changes.flush()
    return len(found)
