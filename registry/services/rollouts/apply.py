"""Carries decisions out, each in a transaction that first checks that the rollout is still at the revision that was
looked at. One that comes too late changes nothing: the next look decides again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.codes import DeviceReasonCode, ReasonCode
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import GateVerdict, RolloutReason
from registry.core.rollouts import actions, retries
from registry.core.rollouts import decide as d
from registry.core.rollouts.gates import GateDecision, Kind
from registry.core.rollouts.machine import InvalidMoveError, RolloutTrigger
from registry.core.rollouts.rates import was_set_back
from registry.db.engine import Database
from registry.db.fleet_rows import DesiredRow
from registry.db.rollout_rows import ActionRow, RolloutRow, WaveRow
from registry.services.queries import batches
from registry.services.rollouts.back import begin_rollback, cancel_parked
from registry.services.rollouts.store import BATCH, Changes, move, set_wave, spec_of
from registry.services.rollouts.targets import offer, restore

_S = ActionState


class Apply:
    """Applies decisions to the rollout of this id, looked at when it had this revision."""

    def __init__(self, database: Database, rollout_id: int, revision: int, now: datetime) -> None:
        self._database, self._id, self._revision, self._now = database, rollout_id, revision, now

    def one(self, decision: d.Decision) -> bool:
        """Carry it out; False when it came too late, or there was nothing to do."""
        if isinstance(decision, d.Withdraw):
            return withdraw_some(self._database, self._id, self._revision, self._now)
        with self._database.write() as session:
            row = session.get(RolloutRow, self._id)
            if row is None or row.revision != self._revision:
                return False
            return _STEPS[type(decision)](session, row, decision, self._now)


def verdict_text(verdict: GateDecision) -> str:
    """As a wave keeps it."""
    return GateVerdict(
        outcome=verdict.outcome.value,
        reason=RolloutReason(code=verdict.code, text=verdict.text[:2048]),
        until=verdict.until,
        figures=dict(verdict.figures),
        notes=verdict.notes,
    ).model_dump_json()


def _shift(session: Session, row: RolloutRow, decision: d.Shift, now: datetime) -> bool:
    reason = RolloutReason(code=decision.code, text=decision.text[:2048])
    generation = row.generation
    if decision.event is RolloutTrigger.GATE_FAILED_ROLLBACK:
        row.generation = generation + 1
    try:
        after = move(session, row, decision.event, reason, now)
    except InvalidMoveError:
        row.generation = generation
        return False
    if decision.event is RolloutTrigger.DUE:
        row.started_at = row.started_at or now
    if decision.wave is not None and after in (RolloutState.PAUSED, RolloutState.ROLLING_BACK):
        wave = session.get(WaveRow, (row.id, decision.wave))
        if wave is not None and wave.state != WaveState.PASSED.value:
            failed = decision.event is not RolloutTrigger.INCONCLUSIVE
            set_wave(session, row, wave, WaveState.FAILED if failed else WaveState.INCONCLUSIVE, now)
        if wave is not None and decision.verdict is not None:
            wave.verdict = verdict_text(decision.verdict)
    if decision.event is RolloutTrigger.GATE_FAILED_ROLLBACK:
        begin_rollback(session, row, now)
    if decision.wave is not None and after in _ENDS_BACK:
        set_wave(session, row, session.get_one(WaveRow, (row.id, decision.wave)), _ENDS_BACK[after], now)
    return True


_ENDS_BACK = {RolloutState.ROLLED_BACK: WaveState.PASSED, RolloutState.ROLLBACK_INCOMPLETE: WaveState.FAILED}
"""What the rollback's own wave becomes."""


def _start_wave(session: Session, row: RolloutRow, decision: d.StartWave, now: datetime) -> bool:
    wave = session.get(WaveRow, (row.id, decision.wave))
    if wave is None or wave.state != WaveState.PENDING.value:
        return False
    wave.started_at, wave.soak_since = now, None
    set_wave(session, row, wave, WaveState.RELEASING, now)
    row.reason = (ReasonCode.TAIL if wave.kind == Kind.TAIL else ReasonCode.RELEASING).value
    row.reason_text = "devices that were offline or came later" if wave.kind == Kind.TAIL else f"wave {wave.number + 1}"
    return True


def _soak(session: Session, row: RolloutRow, decision: d.Soak, now: datetime) -> bool:
    wave = session.get(WaveRow, (row.id, decision.wave))
    if wave is None or wave.state != WaveState.RELEASING.value:
        return False
    wave.soak_since = now
    set_wave(session, row, wave, WaveState.SOAKING, now)
    row.reason, row.reason_text = ReasonCode.SOAKING.value, f"wave {wave.number + 1} is watched"
    return True


def _unsoak(session: Session, row: RolloutRow, decision: d.Unsoak, now: datetime) -> bool:
    wave = session.get(WaveRow, (row.id, decision.wave))
    if wave is None or wave.state != WaveState.SOAKING.value:
        return False
    wave.soak_since = None
    set_wave(session, row, wave, WaveState.RELEASING, now)
    row.reason, row.reason_text = ReasonCode.RELEASING.value, f"wave {wave.number + 1}"
    return True


def _pass_wave(session: Session, row: RolloutRow, decision: d.PassWave, now: datetime) -> bool:
    wave = session.get(WaveRow, (row.id, decision.wave))
    if wave is None or wave.state in (WaveState.PASSED.value, WaveState.PENDING.value):
        return False
    wave.passed_at, wave.verdict = now, verdict_text(decision.verdict)
    set_wave(session, row, wave, WaveState.PASSED, now)
    return True


def _offer(session: Session, row: RolloutRow, decision: d.Offer, now: datetime) -> bool:
    spec = spec_of(row)
    at = decision.bucket.at
    if row.filled_at is not None and at is not None and at < row.filled_at and not was_set_back(row.filled_at, at):
        return False
    rows = _rows(session, row, decision.devices, actions.PARKED)
    tail = len(spec.waves)
    for each in rows:
        if each.state == _S.EXCLUDED.value:
            each.wave = tail
    row.tokens, row.byte_tokens, row.filled_at = decision.bucket
    changes = Changes(session, row, spec, now)
    with session.no_autoflush:  # one update of an action, not one before each query
        told = offer(session, row, rows, changes, now)
    changes.flush()
    return told > 0


def _time_out(session: Session, row: RolloutRow, decision: d.TimeOut, now: datetime) -> bool:
    seen = {each.device: each for each in decision.devices}
    rows = _rows(session, row, tuple(seen), actions.IN_FLIGHT)
    late = [r for r in rows if r.due == seen[r.device].due and r.state == seen[r.device].state.value]
    changes = Changes(session, row, spec_of(row), now)
    done = changes.set(late, _S.TIMED_OUT, DeviceReasonCode.SILENT, "nothing was heard of it in time")
    changes.flush()
    return bool(done)


def _again(session: Session, row: RolloutRow, decision: d.Again, now: datetime) -> bool:
    """Another attempt, above every one that the device was ever told of; it is offered when it is due."""
    at = dict(decision.devices)
    rows = _rows(session, row, tuple(at), retries.STATES)
    changes, done = Changes(session, row, spec_of(row), now), False
    for each in rows:
        message = f"try {each.tries + 2} after {each.code}: {each.message}"[:2048]
        if changes.set([each], _S.PLANNED, each.code, message):
            each.tries, each.retry_at, done = each.tries + 1, at[each.device], True
            each.attempt = session.get_one(DesiredRow, each.device_id).generation + 1
    changes.flush()
    return done


def _leave(session: Session, row: RolloutRow, devices: Sequence[str], state: ActionState, now: datetime) -> bool:
    """Offline devices leave the wave; what they were offered is taken back."""
    spec = spec_of(row)
    rows = _rows(session, row, devices, frozenset({_S.PLANNED, _S.OFFERED}))
    offered = {r.id for r in rows if r.state == _S.OFFERED.value}
    changes = Changes(session, row, spec, now)
    left = changes.set(rows, state, DeviceReasonCode.OFFLINE, "it was offline when its turn came")
    changes.flush()
    restore(session, row, [r for r in left if r.id in offered], now)
    return bool(left)


def _exclude(session: Session, row: RolloutRow, decision: d.ExcludeOffline, now: datetime) -> bool:
    return _leave(session, row, decision.devices, _S.EXCLUDED, now)


def _fail_offline(session: Session, row: RolloutRow, decision: d.FailOffline, now: datetime) -> bool:
    return _leave(session, row, decision.devices, _S.FAILED, now)


def withdraw_some(database: Database, rollout_id: int, revision: int, now: datetime) -> bool:
    """Every device that has not switched returns to its last good version, a batch a transaction."""
    states = [state.value for state in actions.BEFORE_SWITCH]
    quiet = [state.value for state in (_S.FAILED, _S.ROLLED_BACK, _S.REJECTED)]
    with database.write() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None or row.revision != revision:
            return False
        done = cancel_parked(session, row, now) > 0
        gave_up = select(ActionRow).where(ActionRow.rollout_id == rollout_id, ActionRow.state.in_(quiet))
        restore(session, row, session.scalars(gave_up.where(ActionRow.goes_back.is_(False))).all(), now)
    while True:
        with database.write() as session:
            row = session.get(RolloutRow, rollout_id)
            if row is None or row.revision != revision:
                return done
            query = select(ActionRow).where(ActionRow.rollout_id == rollout_id, ActionRow.state.in_(states))
            rows = session.scalars(query.limit(BATCH)).all()
            changes = Changes(session, row, spec_of(row), now)
            left = changes.set(rows, _S.CANCELLED)
            changes.flush()
            restore(session, row, left, now)
        done = done or bool(left)
        if len(rows) < BATCH or not left:
            return done


def _rows(session: Session, row: RolloutRow, devices: Sequence[str], states: frozenset[ActionState]) -> list[ActionRow]:
    """The actions of these devices that are in one of the states, in the devices' order."""
    found: dict[str, ActionRow] = {}
    for batch in batches(devices):
        query = select(ActionRow).where(
            ActionRow.rollout_id == row.id,
            ActionRow.device.in_(batch),
            ActionRow.state.in_([state.value for state in states]),
        )
        found.update((r.device, r) for r in session.scalars(query))
    return [found[device] for device in devices if device in found]


_STEPS: dict[type, Callable[..., bool]] = {
    d.Shift: _shift,
    d.StartWave: _start_wave,
    d.Soak: _soak,
    d.Unsoak: _unsoak,
    d.PassWave: _pass_wave,
    d.Offer: _offer,
    d.TimeOut: _time_out,
    d.Again: _again,
    d.ExcludeOffline: _exclude,
    d.FailOffline: _fail_offline,
}
