"""Working a plan out and freezing it: devices in bulk, resolved once per class of facts, rows written in batches.

A planner that dies, or is stopped, leaves the rollout in `planning`: whoever plans next begins again, with the same
result. While one plans, it holds a lease of the rollout, and each batch is written only while it does. What is known of
the devices is read in a few queries for any number.

A lease is one row that a process holds for LEASE_S and renews. It saves work, it guards nothing: every step of a
rollout is safe when two take it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, inspect, or_, select, true, update
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import QUARANTINES, ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.fit.platforms import Platform
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
from registry.db.base import insert_new
from registry.db.engine import Database
from registry.db.fleet_rows import DeploymentRow, DeviceRow, DeviceStateRow
from registry.db.rollout_rows import ActionRow, LeaseRow, RolloutRow, WaveRow
from registry.errors import InvalidError, NotFoundError
from registry.services.choice import choose
from registry.services.fleet.groups import in_fleet, labels_of
from registry.services.fleet.labels import why_no_match
from registry.services.fleet.presence import is_online
from registry.services.queries import batches, found, in_batches, manifest_body
from registry.services.rollouts.store import ACTIVE, move, spec_of

_OVER_BADLY = frozenset({Phase.FAILED, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED})
_GAVE_UP = tuple(state.value for state in actions.REQUEST_ENDS)
_EVERY: ColumnElement[bool] = true()


LEASE_S = 10.0
RENEW_S = 4.0
AHEAD_S = 60.0
"""A lease that ends later than this was taken by a clock that has been set back since: it is nobody's."""


def holder_in(folder: Path) -> str:
    """The holder that every process in this folder is, one after the other, since the folder is locked: a registry that
    was killed and is started again holds its lease at once, and need not wait for its end."""
    return sha256(f"{os.uname().nodename}:{folder.resolve()}".encode()).hexdigest()[:16]


class LeaderLease:
    """One process's claim on a name."""

    def __init__(self, database: Database, name: str, holder: str | None = None) -> None:
        self._database = database
        self._name = name
        self._holder = holder or secrets.token_hex(8)
        self._until: datetime | None = None

    def hold(self, now: datetime) -> bool:
        """Take or renew it; False while another process has it. Writes only every RENEW_S."""
        if self._until is not None and now < self._until - timedelta(seconds=LEASE_S - RENEW_S):
            return True
        until = now + timedelta(seconds=LEASE_S)
        ahead = LeaseRow.until > now + timedelta(seconds=AHEAD_S)
        free = or_(LeaseRow.holder == self._holder, LeaseRow.until <= now, ahead)
        with self._database.write() as session:
            insert_new(session, LeaseRow, [{"name": self._name, "holder": self._holder, "until": now}], ("name",))
            mine = update(LeaseRow).where(LeaseRow.name == self._name, free)
            held = bool(session.execute(mine.values(holder=self._holder, until=until)).rowcount)  # type: ignore[attr-defined]
        self._until = until if held else None
        return held

    def release(self) -> None:
        """Let another process have it at once; nothing is left of it."""
        self._until = None
        with self._database.write() as session:
            session.execute(delete(LeaseRow).where(LeaseRow.name == self._name, LeaseRow.holder == self._holder))


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
        self._database, self.two_person = database, two_person

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
                of_this = select(ActionRow.device_id).where(ActionRow.rollout_id == row.id)
                again = session.execute(of_this.where(ActionRow.offered_at.is_not(None)).limit(1)).first() is not None
                planned = DeviceRow.id.in_(of_this.where(ActionRow.state == _S.PLANNED.value))
                which = planned if again else in_fleet(session, spec.fleet)
                found = _plan(
                    session, row.public, spec, manifest, known_devices(session, spec, manifest, now, which, again=again)
                )
                ids = {name: device for device, name in session.execute(select(DeviceRow.id, DeviceRow.name))}
        except (InvalidError, NotFoundError) as error:
            return self._end(row, failure, error.message, now)
        if not found.placed:
            why = f"no device would get it: {found.view.already_current} serve it already, {len(found.gaps)} cannot"
            if not (found.view.already_current or found.gaps) and spec.fleet.selector.strip():
                with self._database.read() as session:
                    why = f"no device matches {spec.fleet.selector}. {why_no_match(session, spec.fleet.selector)}"
            return self._end(row, failure, why, now)
        if not self._write(row, spec, found, ids, again, goes_on, now):
            return False
        approve = spec.requires_approval or self.two_person
        event = RolloutTrigger.PLANNED_FOR_APPROVAL if approve else RolloutTrigger.PLANNED
        return self._end(row, event, _what_it_waits_for(spec, len(found.placed), approve=approve), now, found)

    def _write(  # noqa: PLR0917 - private, called once
        self, row: RolloutRow, spec: RolloutSpec, found: RolloutPlan, ids: dict[str, int], again: bool,
        goes_on: Callable[[], bool], now: datetime,
    ) -> bool:  # fmt: skip
        rows = _rows_again(row, found, now) if again else _rows(row, found, ids, now)
        for number, chunk in enumerate(batches(rows, CHUNK)):
            if not goes_on():
                return False
            with self._database.write() as session:
                if session.scalar(select(RolloutRow.revision).where(RolloutRow.id == row.id)) != row.revision:
                    return False
                if again:
                    query = select(ActionRow.device, ActionRow.id).where(ActionRow.rollout_id == row.id)
                    known = dict(in_batches(session, query, ActionRow.device, [r["device"] for r in chunk]))
                    some = [{**r, "id": known[r["device"]]} for r in chunk if r["device"] in known]
                    session.execute(update(ActionRow), some)
                    continue
                if number == 0:
                    _clear(session, row, spec)
                session.execute(insert(_ACTIONS), chunk)
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


def _others(session: Session, model: str, rollout: str) -> list[Other]:
    """Rollouts of the same model that are not over, with the devices that they may still change."""
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.state.in_(ACTIVE))
    found = []
    for other in session.scalars(query.where(RolloutRow.public != rollout)).all():
        devices = select(ActionRow.device).where(ActionRow.rollout_id == other.id, ActionRow.state.in_(_MAY_COLLIDE))
        state = RolloutState(other.state)
        found.append(Other(other.public, other.name, other.version, state, session.scalars(devices).all()))
    return found


def _clear(session: Session, row: RolloutRow, spec: RolloutSpec) -> None:
    """Before the first batch: nothing of an earlier plan is left."""
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


def known_devices(
    session: Session,
    spec: RolloutSpec,
    manifest: Manifest,
    now: datetime,
    which: ColumnElement[bool],
    *,
    again: bool = False,
) -> list[Known]:
    """The devices, with what decides about them; in one query, whatever their number."""
    digest = manifest.canonical_digest()
    labels = labels_of(session) if any(wave.selector for wave in spec.waves) else {}
    current = set() if again else serving(session, manifest.model, digest)
    barred = {} if again else quarantines(session, manifest, digest)  # another attempt lifts them
    query = (
        select(DeviceRow.id, DeviceRow.name, DeviceRow.facts_digest, is_online(session, now))
        .join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
        .where(which)
    )
    return [
        Known(name, facts, device in current, bool(online), labels.get(device, {}), barred.get(device, ()))
        for device, name, facts, online in session.execute(query)
    ]


def serving(session: Session, model: str, digest: str, which: ColumnElement[bool] = _EVERY) -> set[int]:
    """Devices that should serve the manifest, and say that they do; of those that the condition names."""
    query = (
        select(DeviceStateRow.device_id, DeviceStateRow.reported)
        .join(DeploymentRow, DeploymentRow.device_id == DeviceStateRow.device_id)
        .where(DeploymentRow.model == model, DeploymentRow.manifest == digest, DeviceStateRow.reported.is_not(None))
        .where(which)
    )
    return {
        device
        for device, text in session.execute(query)
        if json.loads(text or "{}").get("models", {}).get(model, {}).get("manifest") == digest
    }


def quarantines(session: Session, manifest: Manifest, digest: str) -> dict[int, set[str]]:
    """Device to the variants of a manifest that it took back or gave up for good, as far as is known here: from its
    last report, and from rollouts of the version that have not been rolled back since. All where it names none."""
    found: dict[int, set[str]] = defaultdict(set)
    every = {variant.name for variant in manifest.variants}
    told = select(DeviceStateRow.device_id, DeviceStateRow.reported).where(DeviceStateRow.reported.contains(digest))
    for device, text in session.execute(told):
        last = (json.loads(text or "{}").get("models", {}).get(manifest.model) or {}).get("deployment") or {}
        if last.get("manifest") == digest and last.get("phase") in _OVER_BADLY and last.get("code") in QUARANTINES:
            found[device] |= {last["variant"]} if last.get("variant") else every
    ended = (
        select(ActionRow.device_id, ActionRow.variant)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .where(RolloutRow.model == manifest.model, RolloutRow.manifest == digest, ActionRow.goes_back.is_(False))
        .where(ActionRow.state.in_(_GAVE_UP), ActionRow.code.in_(QUARANTINES), ActionRow.device_id.is_not(None))
    )
    for gave_up, variant in session.execute(ended):
        found[gave_up or 0] |= {variant} if variant else every
    return found


def platforms_of(session: Session, known: Iterable[Known]) -> dict[str, Platform]:
    """The facts of every digest that these devices have."""
    wanted = {device.facts for device in known if device.facts is not None}
    one = select(func.min(DeviceRow.id)).where(DeviceRow.facts_digest.is_not(None)).group_by(DeviceRow.facts_digest)
    query = select(DeviceRow.facts_digest, DeviceRow.facts).where(DeviceRow.id.in_(one))
    return {
        digest: Platform.model_validate_json(facts)
        for digest, facts in session.execute(query)
        if digest in wanted and facts is not None
    }
