"""Working a plan out and freezing it: devices in bulk, resolved once per class of facts, rows written in batches.

A planner that dies, or is stopped, leaves the rollout in `planning`: whoever plans next begins again, with the same
result. While one plans, it holds a lease of the rollout, and each batch is written only while it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, inspect, select, update
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import RolloutReason
from registry.contracts.texts import how_many
from registry.core.rollouts import actions
from registry.core.rollouts.gates import Kind
from registry.core.rollouts.machine import RolloutTrigger
from registry.core.rollouts.plan import IN_QUARANTINE, QUARANTINED, Known, Other, RolloutPlan, plan
from registry.core.rollouts.waves import label, tail
from registry.core.selectors import SelectorError
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow
from registry.db.rollout_rows import ActionRow, RolloutRow, WaveRow
from registry.errors import InvalidError, NotFoundError
from registry.services.choice import choose
from registry.services.fleet.groups import in_fleet
from registry.services.queries import batches, found
from registry.services.rollouts.known import known_devices, platforms_of
from registry.services.rollouts.lease import LeaderLease
from registry.services.rollouts.store import ACTIVE, move, spec_of
from registry.services.views import manifest_body

CHUNK = 5000
"""Rows that one transaction writes."""
_ACTIONS: Any = inspect(ActionRow).local_table
"""The table itself: the ORM would take half of the time of an insert of 100,000 rows."""
_S = ActionState
_MAY_COLLIDE = tuple(state.value for state in actions.PARKED | actions.IN_FLIGHT)


def work_out(session: Session, rollout: str, spec: RolloutSpec, manifest: Manifest, now: datetime) -> RolloutPlan:
    """What a rollout would do now.

    Raises:
        InvalidError: a selector is none.
        NotFoundError: there is no such group.
    """
    known = known_devices(session, spec, manifest, now, in_fleet(session, spec.fleet))
    return _plan(session, rollout, spec, manifest, known)


def _plan(session: Session, rollout: str, spec: RolloutSpec, manifest: Manifest, known: Sequence[Known]) -> RolloutPlan:
    try:
        return plan(
            rollout,
            spec,
            manifest,
            known,
            platforms_of(session, known),
            resolver=lambda of, platform: choose(session, of, platform),
            others=_others(session, manifest.model, rollout),
        )
    except SelectorError as error:
        raise InvalidError(f"{error}.") from error


def find_manifest(session: Session, digest: str) -> Manifest:
    """A published manifest. Raises NotFoundError when it is gone."""
    body = found(manifest_body(session, digest), f"There is no manifest {digest}; was the version deleted?")
    return Manifest.model_validate_json(body)


class Planner:
    """Plans rollouts that are in `planning`."""

    def __init__(self, database: Database, *, two_person: bool = False) -> None:
        self._database, self._two_person = database, two_person

    def run(self, rollout_id: int, clock: Callable[[], datetime], stop: Callable[[], bool] = lambda: False) -> bool:
        """Plan it and move it on; False when another process does, it is no longer to be planned, or `stop` says so."""
        with self._database.read() as session:
            row = session.get(RolloutRow, rollout_id)
            if row is None or row.state != RolloutState.PLANNING.value:
                return False
            lease = LeaderLease(self._database, f"plan/{row.public}")
        if not lease.hold(clock()):
            return False
        try:
            return self._freeze(row, lambda: not stop() and lease.hold(clock()), clock())
        finally:
            lease.release()

    def _freeze(self, row: RolloutRow, goes_on: Callable[[], bool], now: datetime) -> bool:
        spec = spec_of(row)
        failure = RolloutTrigger.PLAN_FAILED if row.generation == 1 else RolloutTrigger.REPLAN_FAILED
        try:
            with self._database.read() as session:
                manifest = find_manifest(session, row.manifest)
                again = _was_offered(session, row)
                which = DeviceRow.id.in_(_planned(row)) if again else in_fleet(session, spec.fleet)
                found = _plan(
                    session, row.public, spec, manifest, known_devices(session, spec, manifest, now, which, again=again)
                )
                ids = {name: device for device, name in session.execute(select(DeviceRow.id, DeviceRow.name))}
        except (InvalidError, NotFoundError) as error:
            return self._end(row, failure, error.message, now)
        if not found.placed:
            why = f"no device would get it: {found.view.already_current} serve it already, {len(found.gaps)} cannot"
            return self._end(row, failure, why, now)
        if not self._write(row, spec, found, ids, again, goes_on, now):
            return False
        approve = spec.requires_approval or self._two_person
        event = RolloutTrigger.PLANNED_FOR_APPROVAL if approve else RolloutTrigger.PLANNED
        return self._end(row, event, _what_it_waits_for(spec, len(found.placed), approve=approve), now, found)

    def _write(  # noqa: PLR0917 - private, called once
        self, row: RolloutRow, spec: RolloutSpec, found: RolloutPlan, ids: dict[str, int], again: bool,
        goes_on: Callable[[], bool], now: datetime,
    ) -> bool:  # fmt: skip
        rows = _rows_again(row, found, now) if again else _rows(row, found, ids, now)
        for start in range(0, len(rows), CHUNK):
            if not goes_on():
                return False
            with self._database.write() as session:
                if not _still(session, row):
                    return False
                if start == 0:
                    _clear(session, row, spec, again)
                if again:
                    known = dict(_ids_of(session, row, [r["device"] for r in rows[start : start + CHUNK]]))
                    some = [
                        {**r, "id": known[r["device"]]} for r in rows[start : start + CHUNK] if r["device"] in known
                    ]
                    session.execute(update(ActionRow), [{k: v for k, v in r.items() if k != "device"} for r in some])
                else:
                    session.execute(insert(_ACTIONS), rows[start : start + CHUNK])
        return True

    def _end(
        self, row: RolloutRow, event: RolloutTrigger, text: str, now: datetime, found: RolloutPlan | None = None
    ) -> bool:
        codes = {
            RolloutTrigger.PLANNED: ReasonCode.NOT_YET_TIME,
            RolloutTrigger.PLANNED_FOR_APPROVAL: ReasonCode.NEEDS_APPROVAL,
        }
        reason = RolloutReason(code=codes.get(event, ReasonCode.PLAN_FAILED), text=text[:2048])
        with self._database.write() as session:
            fresh = session.get(RolloutRow, row.id)
            if fresh is None or fresh.revision != row.revision:
                return False
            if found is not None:
                fresh.plan_digest, fresh.plan = found.view.digest, found.view.model_dump_json()
            move(session, fresh, event, reason, now)
        return True


def _what_it_waits_for(spec: RolloutSpec, devices: int, *, approve: bool) -> str:
    planned = f"{how_many(devices, 'device')} would get it"
    if approve:
        return f"{planned}; somebody has to approve the plan"
    return (
        planned if spec.start_at is None else f"{planned}; it starts at {spec.start_at.isoformat(timespec='seconds')}"
    )


def _still(session: Session, row: RolloutRow) -> bool:
    return session.scalar(select(RolloutRow.revision).where(RolloutRow.id == row.id)) == row.revision


def _was_offered(session: Session, row: RolloutRow) -> bool:
    query = select(ActionRow.id).where(ActionRow.rollout_id == row.id, ActionRow.offered_at.is_not(None))
    return session.scalar(query.limit(1)) is not None


def _planned(row: RolloutRow) -> Any:
    return select(ActionRow.device_id).where(ActionRow.rollout_id == row.id, ActionRow.state == _S.PLANNED.value)


def _others(session: Session, model: str, rollout: str) -> list[Other]:
    """Rollouts of the same model that are not over, with the devices that they may still change."""
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.state.in_(ACTIVE))
    found = []
    for other in session.scalars(query.where(RolloutRow.public != rollout)).all():
        devices = select(ActionRow.device).where(ActionRow.rollout_id == other.id, ActionRow.state.in_(_MAY_COLLIDE))
        state = RolloutState(other.state)
        found.append(Other(other.public, other.name, other.version, state, session.scalars(devices).all()))
    return found


def _clear(session: Session, row: RolloutRow, spec: RolloutSpec, again: bool) -> None:
    """Before the first batch: nothing of an earlier plan is left."""
    if again:
        return
    session.execute(delete(ActionRow).where(ActionRow.rollout_id == row.id))
    session.execute(delete(WaveRow).where(WaveRow.rollout_id == row.id))
    waves = [
        {"number": index, "kind": Kind.WAVE.value, "label": label(wave)[:256], "soak_s": wave.soak_s,
         "min_committed": wave.min_committed}
        for index, wave in enumerate(spec.waves)
    ]  # fmt: skip
    waves.append({"number": tail(spec), "kind": Kind.TAIL.value, "label": "tail", "soak_s": 0.0, "min_committed": 0})
    state = {"rollout_id": row.id, "state": WaveState.PENDING.value, "accepted": {}}
    session.execute(insert(WaveRow), [{**state, **wave} for wave in waves])


def _rows(row: RolloutRow, found: RolloutPlan, ids: dict[str, int], now: datetime) -> list[dict[str, Any]]:
    base = {
        "rollout_id": row.id, "generation": row.generation, "since": now, "target": row.manifest, "code": "",
        "wave": None, "rank": 0, "variant": None, "size": 0, "facts": None, "attempt": 0, "message": "",
        "previous_pinned": False, "held": False, "spoke": False, "goes_back": False, "late": False,
        "steps": 0, "shadow_compared": 0, "shadow_agreed": 0.0,
    }  # fmt: skip  # every column that has a default: SQLAlchemy would fill each in row by row
    made = [
        {**base, "device": p.device, "state": _S.PLANNED.value, "wave": p.wave, "rank": rank, "variant": p.variant,
         "size": p.bytes, "facts": p.facts}
        for rank, p in enumerate(found.placed)
    ]  # fmt: skip
    made += [{**base, "device": name, "state": _S.ALREADY_CURRENT.value} for name in found.current]
    refused = {"state": _S.REJECTED.value, "message": IN_QUARANTINE}
    made += [
        {**base, "device": name, "state": _S.INCOMPATIBLE.value, "code": code[:64],
         **(refused if code == QUARANTINED else {})}
        for name, code in found.gaps.items()
    ]  # fmt: skip
    return [{**each, "device_id": ids[str(each["device"])]} for each in made if each["device"] in ids]


def _rows_again(row: RolloutRow, found: RolloutPlan, now: datetime) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"device": p.device, "wave": p.wave, "rank": rank, "variant": p.variant, "size": p.bytes, "facts": p.facts}
        for rank, p in enumerate(found.placed)
    ]
    return [*made, *({"device": name, "state": _S.INCOMPATIBLE.value, "code": code[:64], "since": now}
                     for name, code in found.gaps.items())]  # fmt: skip


def _ids_of(session: Session, row: RolloutRow, devices: Sequence[str]) -> Iterable[tuple[str, int]]:
    for batch in batches(devices):
        query = select(ActionRow.device, ActionRow.id).where(
            ActionRow.rollout_id == row.id, ActionRow.device.in_(batch)
        )
        yield from ((found.device, found.id) for found in session.execute(query))
