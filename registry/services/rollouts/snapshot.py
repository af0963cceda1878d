"""A rollout as `decide` sees it, read from the rows: everything is counted, nothing is remembered.

The health of the devices of a wave is read against that of the devices of the rollout that were not yet updated, over
the same minutes. Of every device the newest report within the window counts, so that a chatty device weighs no more
than another; what it answered and failed in the window stands in the increases of all its reports. At most MAX_DEVICES
of a cohort are read, in the order of their turn, which is random with respect to health.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from registry.contracts.codes import InferenceCode as Code
from registry.contracts.rollout.spec import OfflinePolicy, RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.core.retention import Increase
from registry.core.rollouts import actions, retries
from registry.core.rollouts.decide import Away, Failed, Overdue, Snapshot
from registry.core.rollouts.gates import Accepted, Cohort, Cohorts, Kind, WaveFacts
from registry.core.rollouts.rates import MAX_BATCH, Bucket, Candidate
from registry.db.fleet_rows import DeviceRow, DeviceStateRow, HealthRow
from registry.db.rollout_rows import ActionRow, RolloutRow, WaveRow
from registry.services.fleet.presence import is_online
from registry.services.queries import in_batches
from registry.services.rollouts.store import is_taken, spec_of
from registry.services.rollouts.tally import RolloutTally, tally_of
from registry.services.withdrawn import yanked_manifest

MAX_DEVICES = 500
WINDOW_S = 3600.0
"""Longest window; a younger wave is compared since it began."""
FAULTS = frozenset({Code.RUN_FAILED, Code.RUN_TIMEOUT, Code.WORKER_CRASHED, Code.RESULT_TOO_LARGE})
"""Errors that speak against a version; refusals of bad input and of overload do not."""
_UPDATED = actions.SUCCESS | {ActionState.PROBATION, ActionState.CONFIRMING}
_WAITING = actions.PARKED


MAX_ROWS = 1000
"""Of any list in a snapshot; the rest comes next time."""
_S = ActionState
_MOVING = (RolloutState.RUNNING, RolloutState.ROLLING_BACK)


def take_snapshot(session: Session, row: RolloutRow, now: datetime) -> Snapshot:
    """What is stored and counted now."""
    spec, state = spec_of(row), RolloutState(row.state)
    tally = tally_of(session, row.id)
    waves = wave_facts(session, row, tally)
    started = [wave.index for wave in waves if wave.state is not WaveState.PENDING]
    judged = next((wave for wave in waves if wave.kind is Kind.WAVE and wave.state is not WaveState.PASSED), None)
    measured = state is RolloutState.RUNNING and judged is not None and judged.state is not WaveState.PENDING
    watched = state is RolloutState.RUNNING and _grace_is_over(waves, spec, now)
    return Snapshot(
        spec=spec,
        state=state,
        since=row.since,
        valid_until=row.valid_until or row.since + timedelta(days=36500),
        waves=waves,
        candidates=_candidates(session, row, waves, now) if state in _MOVING else (),
        overdue=_overdue(session, row, now),
        away=_away(session, row, spec, started, now) if watched else (),
        failed=_failed(session, row, spec, started) if state is RolloutState.RUNNING else (),
        yanked=yanked_manifest(session, row.model, row.version) if state is RolloutState.RUNNING else "",
        refused=tally.counts[-1].get(_S.REJECTED, 0) if state is RolloutState.RUNNING else 0,
        lost=sum(lost_of(session, row, spec, now).values()),
        bucket=Bucket(row.tokens, row.byte_tokens, row.filled_at),
        generation=row.generation,
        cohorts=cohorts_of(session, row, tally, judged, now) if measured and judged is not None else Cohorts(),
    )


def wave_facts(session: Session, row: RolloutRow, tally: RolloutTally) -> tuple[WaveFacts, ...]:
    """Every wave that counts in this state, in order."""
    back = row.state == RolloutState.ROLLING_BACK.value
    every = row.state == RolloutState.ABORTING.value  # perhaps a rollback that is aborted
    rows = session.scalars(select(WaveRow).where(WaveRow.rollout_id == row.id).order_by(WaveRow.number)).all()
    return tuple(
        WaveFacts(
            index=wave.number,
            kind=Kind(wave.kind),
            state=WaveState(wave.state),
            counts=dict(tally.counts.get(wave.number, {})),
            spoke=tally.spoke.get(wave.number, 0),
            soak_s=wave.soak_s,
            min_committed=wave.min_committed,
            started_at=wave.started_at,
            soak_since=wave.soak_since,
            accepted=Accepted(**(wave.accepted or {})),
        )
        for wave in rows
        if every or (wave.kind == Kind.ROLLBACK) == back
    )


def _candidates(session: Session, row: RolloutRow, waves: Sequence[WaveFacts], now: datetime) -> tuple[Candidate, ...]:
    started = [wave.index for wave in waves if wave.state is not WaveState.PENDING]
    tail = any(wave.kind is Kind.TAIL and wave.state is not WaveState.PENDING for wave in waves)
    ripe = or_(ActionRow.retry_at.is_(None), ActionRow.retry_at <= now)
    planned = and_(ActionRow.wave.in_(started), ActionRow.state == _S.PLANNED.value, ripe)
    columns = (ActionRow.device, ActionRow.size)
    query = select(*columns).where(ActionRow.rollout_id == row.id, planned)
    found = session.execute(query.order_by(ActionRow.wave, ActionRow.rank).limit(MAX_BATCH)).all()
    if tail and len(found) < MAX_BATCH:
        offline = select(*columns).join(DeviceStateRow, DeviceStateRow.device_id == ActionRow.device_id)
        excluded = (ActionRow.rollout_id == row.id, ActionRow.state == _S.EXCLUDED.value, is_online(session, now))
        found = [*found, *session.execute(offline.where(*excluded).order_by(ActionRow.rank).limit(MAX_BATCH))]
    back = row.state == RolloutState.ROLLING_BACK.value  # what it goes back to is on its disk
    return tuple(Candidate(device, 0 if back else size) for device, size in found)


def _failed(session: Session, row: RolloutRow, spec: RolloutSpec, started: Sequence[int]) -> tuple[Failed, ...]:
    if not spec.retries:
        return ()
    most = max(rule.times for rule in spec.retries)
    query = select(ActionRow.device, ActionRow.code, ActionRow.tries, ActionRow.since).where(
        ActionRow.rollout_id == row.id,
        ActionRow.wave.in_(started),
        ActionRow.state.in_([state.value for state in retries.STATES]),
        ActionRow.code.in_(sorted(retries.codes_of(spec.retries))),
        ActionRow.tries < most,
        ActionRow.device_id.is_not(None),
        ActionRow.goes_back.is_(False),
        ~is_taken(row),
    )
    found = session.execute(query.order_by(ActionRow.wave, ActionRow.rank).limit(MAX_ROWS))
    return tuple(Failed(*each) for each in found)


def _overdue(session: Session, row: RolloutRow, now: datetime) -> tuple[Overdue, ...]:
    query = select(ActionRow.device, ActionRow.state, ActionRow.due)
    late = (ActionRow.rollout_id == row.id, ActionRow.due <= now)
    rows = session.execute(query.where(*late).order_by(ActionRow.due).limit(MAX_ROWS))
    return tuple(Overdue(device, ActionState(state), due or now) for device, state, due in rows)


def _grace_is_over(waves: Sequence[WaveFacts], spec: RolloutSpec, now: datetime) -> bool:
    """May a device of the wave under way leave it? Before that nobody has to be looked for, which takes long."""
    current = next((wave for wave in waves if wave.state is not WaveState.PASSED), None)
    if current is None or current.kind is Kind.ROLLBACK or current.started_at is None:
        return False
    return now >= current.started_at + timedelta(seconds=spec.offline.grace_s)


def _away(
    session: Session, row: RolloutRow, spec: RolloutSpec, started: Sequence[int], now: datetime
) -> tuple[Away, ...]:
    if spec.offline.policy is OfflinePolicy.WAIT:
        return ()
    since = func.coalesce(DeviceStateRow.last_seen, DeviceRow.created_at)
    query = (
        select(ActionRow.device, DeviceStateRow.last_seen, DeviceRow.created_at)
        .join(DeviceRow, DeviceRow.id == ActionRow.device_id)
        .join(DeviceStateRow, DeviceStateRow.device_id == ActionRow.device_id)
        .where(
            ActionRow.rollout_id == row.id,
            ActionRow.wave.in_(started),
            ActionRow.state.in_((_S.PLANNED.value, _S.OFFERED.value)),
            ~is_online(session, now),
            since <= now - timedelta(seconds=spec.offline.grace_s),
        )
    )
    found = session.execute(query.order_by(ActionRow.wave, ActionRow.rank).limit(MAX_ROWS))
    return tuple(Away(device, seen or made) for device, seen, made in found)


def lost_of(session: Session, row: RolloutRow, spec: RolloutSpec, now: datetime) -> dict[int | None, int]:
    """Wave to devices that failed and are not back; empty where nothing is limited by them."""
    if spec.rate.max_unavailable is None and spec.rollback.rate.max_unavailable is None:
        return {}
    dead = ActionRow.state.in_([state.value for state in actions.LOST])
    away = ActionRow.state.in_([state.value for state in actions.HOLDS_SLOT_WHILE_AWAY]) & ~is_online(session, now)
    away &= (ActionRow.state != _S.REJECTED.value) | ActionRow.offered_at.is_not(None)  # else its plan left it out
    query = (
        select(ActionRow.wave, func.count())
        .join(DeviceStateRow, DeviceStateRow.device_id == ActionRow.device_id)
        .where(ActionRow.rollout_id == row.id, dead | away)
        .group_by(ActionRow.wave)
    )
    return {wave: number for wave, number in session.execute(query)}  # noqa: C416 - rows are no pairs


def cohorts_of(session: Session, row: RolloutRow, tally: RolloutTally, wave: WaveFacts, now: datetime) -> Cohorts:
    """Both cohorts, for the wave that is judged."""
    spec = spec_of(row)
    if not (spec.gate.health or spec.gate.accuracy or spec.gate.shadow):
        return Cohorts()
    since = max(wave.started_at or now, now - timedelta(seconds=WINDOW_S))
    new = _devices(session, row, {wave.index: tally.counts.get(wave.index, {})}, _UPDATED)
    old = _devices(session, row, tally.counts, _WAITING)
    compared, agreed = _shadow(session, row, wave) if spec.policy.shadow is not None else (0, 0.0)
    return Cohorts(
        updated=_cohort(session, new, row.model, row.version, since),
        waiting=_cohort(session, old, row.model, None, since),
        shadow_compared=compared,
        shadow_agreed=agreed,
    )


def _devices(
    session: Session,
    row: RolloutRow,
    counts: Mapping[int, Mapping[ActionState, int]],
    states: frozenset[ActionState],
) -> list[int]:
    """The first by rank in these states. Of each wave and state an index has them in this order."""
    found: list[tuple[int, int]] = []
    for wave, of_wave in counts.items():
        for state in states & of_wave.keys():
            query = select(ActionRow.rank, ActionRow.device_id).where(
                ActionRow.rollout_id == row.id,
                ActionRow.wave == wave if wave >= 0 else ActionRow.wave.is_(None),
                ActionRow.state == state.value,
                ActionRow.device_id.is_not(None),
            )
            rows = session.execute(query.order_by(ActionRow.rank).limit(MAX_DEVICES))
            found += [(rank, device) for rank, device in rows if device is not None]
    return [device for _, device in sorted(found)[:MAX_DEVICES]]


def _cohort(session: Session, devices: Sequence[int], model: str, version: str | None, since: datetime) -> Cohort:
    """Sums over the devices; `version` None: whatever version answered."""
    requests = errors = 0
    nan: int | None = None
    p99: list[float] = []
    recent = select(HealthRow.increases).where(HealthRow.at >= since)
    for (increases,) in in_batches(session, recent, HealthRow.device_id, devices):
        for increase in (Increase(*fields) for fields in increases):
            if increase.model == model and version in (None, increase.version):
                requests += increase.requests
                errors += sum(count for code, count in increase.errors.items() if code in FAULTS)
                if increase.not_finite is not None:
                    nan = (nan or 0) + increase.not_finite
    newest = select(func.max(HealthRow.id)).where(HealthRow.at >= since).group_by(HealthRow.device_id)
    ids = [number for (number,) in in_batches(session, newest, HealthRow.device_id, devices)]
    for (text,) in in_batches(session, select(HealthRow.document), HealthRow.id, ids):
        report = json.loads(text).get("models", {}).get(model, {})
        if version in (None, report.get("version")) and report.get("run_us", {}).get("p99"):
            p99.append(float(report["run_us"]["p99"]))
    measured = _accuracy(session, devices, model)
    return Cohort(
        devices=len(devices),
        requests=requests,
        errors=errors,
        nan=nan,
        run_p99_us=median(p99) if p99 else None,
        accuracy=sum(measured) / len(measured) if measured else None,
        accuracy_devices=len(measured),
    )


def _accuracy(session: Session, devices: Sequence[int], model: str) -> list[float]:
    """Of the devices that measured what they serve on golden vectors: the share with the right top class."""
    found = []
    for (text,) in in_batches(session, select(DeviceStateRow.reported), DeviceStateRow.device_id, devices):
        slot = json.loads(text).get("models", {}).get(model, {}) if text else {}
        share = (slot.get("parity") or {}).get("top1_agreement")
        if isinstance(share, (int, float)):
            found.append(float(share))
    return found


def _shadow(session: Session, row: RolloutRow, wave: WaveFacts) -> tuple[int, float]:
    sums = select(func.sum(ActionRow.shadow_compared), func.sum(ActionRow.shadow_agreed))
    compared, agreed = session.execute(sums.where(ActionRow.rollout_id == row.id, ActionRow.wave == wave.index)).one()
    return int(compared or 0), float(agreed or 0.0)
