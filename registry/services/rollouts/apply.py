"""Carries decisions out, each in a transaction that first checks that the rollout is still at the revision that was
looked at. One that comes too late changes nothing: the next look decides again.

A rollback is a new generation whose target is each device's own last good version; a retry is a new generation for
devices that did not get there. Both only prepare rows; the offers follow at their own rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, and_, case, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from registry.contracts.api.versions import TakenBack
from registry.contracts.codes import DeviceReasonCode, ReasonCode
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import GateVerdict, RolloutReason
from registry.core.rollouts import actions, retries
from registry.core.rollouts import decide as d
from registry.core.rollouts.gates import Accepted, GateDecision, Kind, accepted_of
from registry.core.rollouts.machine import InvalidMoveError, RolloutTrigger
from registry.core.rollouts.rates import was_set_back
from registry.core.rollouts.waves import tail
from registry.core.rollouts.why import cause_of_rollback
from registry.db.base import UtcDateTime
from registry.db.engine import Database
from registry.db.fleet_rows import DesiredRow
from registry.db.rollout_rows import ActionRow, RolloutRow, StepRow, WaveRow
from registry.services.queries import in_batches
from registry.services.rollouts.store import (
    BATCH,
    SYSTEM,
    Changes,
    is_taken,
    move,
    put_state,
    set_wave,
    spec_of,
    still_wants_it,
    taker,
)
from registry.services.rollouts.targets import offer, restore
from registry.services.withdrawn import mark_good, mark_taken_back, yanked_manifest

_S = ActionState


def apply(database: Database, rollout_id: int, revision: int, decision: d.Decision, now: datetime) -> bool:
    """Carry a decision out on the rollout of this id, looked at when it had this revision.

    Returns:
        False: it came too late, or there was nothing to do.
    """
    if isinstance(decision, d.Withdraw):
        return _withdraw(database, rollout_id, revision, now)
    with database.write() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None or row.revision != revision:
            return False
        return _STEPS[type(decision)](session, row, decision, now)


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
    if decision.event is RolloutTrigger.YANKED and not yanked_manifest(session, row.model, row.version):
        return False
    reason = RolloutReason(code=decision.code, text=decision.text[:2048])
    generation = row.generation
    if decision.event is RolloutTrigger.GATE_FAILED_ROLLBACK:
        row.generation = generation + 1
    try:
        after = move(session, row, decision.event, reason, now)
    except InvalidMoveError:
        row.generation = generation
        return False
    if decision.event in _ENDS_WELL:
        mark_good(session, row.model, row.version)
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
        remember_why_back(session, row, now)
        begin_rollback(session, row, now)
    if decision.wave is not None and after in _ENDS_BACK:
        set_wave(session, row, session.get_one(WaveRow, (row.id, decision.wave)), _ENDS_BACK[after], now)
    return True


def remember_why_back(session: Session, row: RolloutRow, now: datetime, *, by: str = SYSTEM, note: str = "") -> None:
    """Why it goes back, by the reason that stands in its row: before a person's command moves it, after its gate did.
    Its version does not count as the newest from here on. What a further try goes back for is what the first did."""
    if row.state != RolloutState.ROLLBACK_INCOMPLETE.value or row.went_back_at is None:
        row.went_back_code, row.went_back_text = cause_of_rollback(ReasonCode(row.reason), row.reason_text, by, note)
    row.went_back_at, row.went_back_by = now, by
    said = TakenBack(at=now, rollout=row.public, code=row.went_back_code, text=row.went_back_text)
    mark_taken_back(session, row.model, row.version, said)


_ENDS_WELL = (RolloutTrigger.FINISHED, RolloutTrigger.FINISHED_WITH_EXCEPTIONS)
_ENDS_BACK = {RolloutState.ROLLED_BACK: WaveState.PASSED, RolloutState.ROLLBACK_INCOMPLETE: WaveState.FAILED}
"""What the rollback's own wave becomes."""


_WaveStep = d.StartWave | d.Soak | d.Unsoak | d.PassWave
_WAVE_MOVES: dict[type[_WaveStep], tuple[frozenset[WaveState], WaveState]] = {
    d.StartWave: (frozenset({WaveState.PENDING}), WaveState.RELEASING),
    d.Soak: (frozenset({WaveState.RELEASING}), WaveState.SOAKING),
    d.Unsoak: (frozenset({WaveState.SOAKING}), WaveState.RELEASING),
    d.PassWave: (frozenset(WaveState) - {WaveState.PENDING, WaveState.PASSED}, WaveState.PASSED),
}
"""The states that a step leads from, and the one that it leads to."""


def _move_wave(session: Session, row: RolloutRow, decision: _WaveStep, now: datetime) -> bool:
    wave = session.get(WaveRow, (row.id, decision.wave))
    before, after = _WAVE_MOVES[type(decision)]
    if wave is None or WaveState(wave.state) not in before:
        return False
    if isinstance(decision, d.PassWave):
        wave.passed_at, wave.verdict = now, verdict_text(decision.verdict)
    else:
        wave.soak_since = now if after is WaveState.SOAKING else None
    if isinstance(decision, d.StartWave):
        wave.started_at = now
    set_wave(session, row, wave, after, now)
    if after is WaveState.SOAKING:
        row.reason, row.reason_text = ReasonCode.SOAKING.value, f"wave {wave.number + 1} is watched"
    elif after is WaveState.RELEASING and wave.kind == Kind.TAIL:
        row.reason, row.reason_text = ReasonCode.TAIL.value, "devices that were offline or came later"
    elif after is WaveState.RELEASING:
        row.reason, row.reason_text = ReasonCode.RELEASING.value, f"wave {wave.number + 1}"
    return True


def _offer(session: Session, row: RolloutRow, decision: d.Offer, now: datetime) -> bool:
    spec = spec_of(row)
    at = decision.bucket.at
    if row.filled_at is not None and at is not None and at < row.filled_at and not was_set_back(row.filled_at, at):
        return False
    if row.state != RolloutState.ROLLING_BACK.value and yanked_manifest(session, row.model, row.version):
        return False  # it was yanked since it was looked at: the next look pauses it
    rows = _rows(session, row, decision.devices, actions.PARKED)
    tail = len(spec.waves)
    for each in rows:
        if each.state == _S.EXCLUDED.value:
            each.wave = tail
    row.tokens, row.byte_tokens, row.filled_at = decision.bucket
    changes = Changes(session, row, now)
    with session.no_autoflush:  # one update of an action, not one before each query
        told = offer(session, row, rows, changes, now)
    changes.flush()
    return told > 0


def _time_out(session: Session, row: RolloutRow, decision: d.TimeOut, now: datetime) -> bool:
    seen = {each.device: each for each in decision.devices}
    rows = _rows(session, row, tuple(seen), actions.IN_FLIGHT)
    late = [r for r in rows if r.due == seen[r.device].due and r.state == seen[r.device].state.value]
    why = "nothing was heard of it in time"
    return bool(put_state(session, row, late, _S.TIMED_OUT, now, code=DeviceReasonCode.SILENT, message=why))


def _again(session: Session, row: RolloutRow, decision: d.Again, now: datetime) -> bool:
    """Another attempt, above every one that the device was ever told of; it is offered when it is due."""
    at = dict(decision.devices)
    rows = _rows(session, row, tuple(at), retries.STATES)
    changes, done = Changes(session, row, now), False
    for each in rows:
        message = f"try {each.tries + 2} after {each.code}: {each.message}"[:2048]
        if changes.set([each], _S.PLANNED, each.code, message):
            each.tries, each.retry_at, done = each.tries + 1, at[each.device], True
            each.attempt = session.get_one(DesiredRow, each.device_id).generation + 1
    changes.flush()
    return done


def _leave(session: Session, row: RolloutRow, decision: d.ExcludeOffline | d.FailOffline, now: datetime) -> bool:
    """Offline devices leave the wave; what they were offered is taken back."""
    rows = _rows(session, row, decision.devices, frozenset({_S.PLANNED, _S.OFFERED}))
    offered = {r.id for r in rows if r.state == _S.OFFERED.value}
    state = _S.FAILED if isinstance(decision, d.FailOffline) else _S.EXCLUDED
    why = "it was offline when its turn came"
    left = put_state(session, row, rows, state, now, code=DeviceReasonCode.OFFLINE, message=why)
    restore(session, row, [r for r in left if r.id in offered], now)
    return bool(left)


def _withdraw(database: Database, rollout_id: int, revision: int, now: datetime) -> bool:
    """Every device that has not switched returns to its last good version, a batch a transaction."""
    states = [state.value for state in actions.BEFORE_SWITCH]
    with database.write() as session:
        row = session.get(RolloutRow, rollout_id)
        if row is None or row.revision != revision:
            return False
        done = cancel_parked(session, row, now) > 0
        gave_up = select(ActionRow).where(ActionRow.rollout_id == rollout_id, ActionRow.state.in_(_GAVE_UP))
        restore(session, row, session.scalars(gave_up.where(ActionRow.goes_back.is_(False))).all(), now)
    while True:
        with database.write() as session:
            row = session.get(RolloutRow, rollout_id)
            if row is None or row.revision != revision:
                return done
            query = select(ActionRow).where(ActionRow.rollout_id == rollout_id, ActionRow.state.in_(states))
            rows = session.scalars(query.limit(BATCH)).all()
            left = put_state(session, row, rows, _S.CANCELLED, now)
            restore(session, row, left, now)
        done = done or bool(left)
        if len(rows) < BATCH or not left:
            return done


def _rows(session: Session, row: RolloutRow, devices: Sequence[str], states: frozenset[ActionState]) -> list[ActionRow]:
    """The actions of these devices that are in one of the states, in the devices' order."""
    query = select(ActionRow).where(
        ActionRow.rollout_id == row.id, ActionRow.state.in_([state.value for state in states])
    )
    found = {action.device: action for (action,) in in_batches(session, query, ActionRow.device, devices)}
    return [found[device] for device in devices if device in found]


_STEPS: dict[type, Callable[..., bool]] = {
    d.Shift: _shift,
    d.StartWave: _move_wave,
    d.Soak: _move_wave,
    d.Unsoak: _move_wave,
    d.PassWave: _move_wave,
    d.Offer: _offer,
    d.TimeOut: _time_out,
    d.Again: _again,
    d.ExcludeOffline: _leave,
    d.FailOffline: _leave,
}


def begin_rollback(session: Session, row: RolloutRow, now: datetime) -> None:
    """All that may have the new version are planned to go back; the rest is withdrawn. `row.generation` is the new one.

    Devices that somebody else took since stay as they are, and are superseded here. The way back is another
    attempt: a device that gave one up does not begin it again, and may once have given up what it goes back to.

    In one transaction, so a few statements for any number of devices: a rollback that was begun for half of the
    fleet would leave the other half no way back.
    """
    number = len(spec_of(row).waves) + 1
    session.execute(delete(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind == Kind.ROLLBACK.value))
    session.add(
        WaveRow(
            rollout_id=row.id, number=number, kind=Kind.ROLLBACK.value, label="rollback", started_at=now,
            state=WaveState.RELEASING.value, accepted={},
        )
    )  # fmt: skip
    row.tokens, row.byte_tokens, row.filled_at = 0.0, 0.0, None
    session.flush()
    cancel_parked(session, row, now)
    told = (ActionRow.rollout_id == row.id, ActionRow.offered_at.is_not(None), ActionRow.device_id.is_not(None))
    quiet = select(ActionRow).where(*told, ActionRow.goes_back.is_(False), ActionRow.state.in_(_GAVE_UP))
    restore(session, row, session.scalars(quiet).all(), now)
    withdrawn = (ActionRow.state == ActionState.CANCELLED.value) & still_wants_it(
        row
    )  # a retry's that was never offered it
    first = ActionRow.goes_back.is_(False) & (ActionRow.state.in_(_goes_back(returning=False)) | withdrawn)
    again = ActionRow.goes_back.is_(True) & ActionRow.state.in_(_goes_back(returning=True))
    _supersede_taken(session, row, and_(*told, first | again), now, wave=literal(number))
    session.execute(
        update(ActionRow)
        .where(*told, first | again)
        .values(**_FRESH, since=now, wave=number, generation=row.generation, goes_back=True,
                attempt=_another_attempt(), target=ActionRow.previous_manifest, **_LEFT)
        .execution_options(synchronize_session=False)
    )  # fmt: skip


_LEFT = {
    "left_wave": case((ActionRow.goes_back, ActionRow.left_wave), else_=ActionRow.wave),
    "left_state": case((ActionRow.goes_back, ActionRow.left_state), else_=ActionRow.state),
    "left_code": case((ActionRow.goes_back, ActionRow.left_code), else_=ActionRow.code),
    "left_message": case((ActionRow.goes_back, ActionRow.left_message), else_=ActionRow.message),
}
"""What an action was before it was told to go back, for the first time."""


_GAVE_UP = tuple(state.value for state in (ActionState.FAILED, ActionState.ROLLED_BACK, ActionState.REJECTED))
"""What served before still does on these; only their desired state has to return."""


_FRESH = {
    "state": ActionState.PLANNED.value, "due": None, "phase": None, "failed_in": None, "told_at": None, "until": None,
    "late": False, "spoke": False, "code": "", "message": "", "committed_at": None,
    "tries": 0, "retry_at": None,
}  # fmt: skip
"""Of an action that begins again. Whether it is held stays: its desired state says so until it is offered something."""


def _goes_back(*, returning: bool) -> list[str]:
    return [state.value for state in ActionState if actions.goes_back(state, returning=returning)]


def cancel_parked(session: Session, row: RolloutRow, now: datetime) -> int:
    """Devices that wait for an offer get none any more; how many. One statement for any number."""
    parked = ActionRow.state.in_([state.value for state in actions.PARKED])
    return _end(session, row, parked, {"state": literal(ActionState.CANCELLED.value), "message": literal("")}, now)


def _supersede_taken(
    session: Session, row: RolloutRow, which: ColumnElement[bool], now: datetime, **more: ColumnElement[int]
) -> None:
    """Of these devices, those that somebody else took since are no longer this rollout's."""
    superseded: dict[str, ColumnElement[Any]] = {
        "state": literal(ActionState.SUPERSEDED.value),
        "message": taker(row),
        **more,
    }
    _end(session, row, which & is_taken(row), superseded, now)


def _end(
    session: Session,
    row: RolloutRow,
    which: ColumnElement[bool],
    values: Mapping[str, ColumnElement[Any]],
    now: datetime,
) -> int:
    chosen = (ActionRow.rollout_id == row.id, which)
    what = (ActionRow.id, literal(now, UtcDateTime), ActionRow.generation, ActionRow.attempt)
    steps = select(*what, values["state"], literal(""), values["message"]).where(*chosen)
    columns = ["action_id", "at", "generation", "attempt", "state", "code", "message"]
    session.execute(insert(StepRow).from_select(columns, steps))
    ended = {**values, "since": now, "due": None, "until": None, "code": "", "steps": ActionRow.steps + 1}
    done = session.execute(
        update(ActionRow).where(*chosen).values(**ended).execution_options(synchronize_session=False)
    )
    return int(done.rowcount or 0)  # type: ignore[attr-defined]


MAX_LEFT_OUT = 1000


def plan_again(session: Session, row: RolloutRow, devices: Sequence[str], now: datetime) -> tuple[int, dict[str, str]]:
    """Devices that did not get there are to be planned for another attempt, and the waves begin again.

    Not those that somebody else took since they were offered it or, never offered it, since it was planned: these
    are superseded. What a person accepted of other devices stays accepted.

    Args:
        devices: Only these; none named: all that can be retried.

    Returns:
        How many devices were planned; device to why it is not tried again: all that were named, else those that
        somebody else took, MAX_LEFT_OUT of them.
    """
    states = [state.value for state in actions.RETRIABLE]
    went = [state.value for state in actions.SUCCESS | {ActionState.ALREADY_CURRENT}]
    fit = ActionRow.state.in_(states) | (ActionRow.goes_back.is_(True) & ActionRow.state.in_(went))
    asked = [ActionRow.device.in_(devices)] if devices else []
    chosen = and_(ActionRow.rollout_id == row.id, ActionRow.device_id.is_not(None), fit, *asked)
    left_out = _left_out(session, row, chosen, devices)
    last = tail(spec_of(row))  # until the plan says which: the rollback's wave is gone
    _supersede_taken(session, row, chosen, now, wave=func.coalesce(ActionRow.wave, last))
    values: dict[str, Any] = {"generation": row.generation, "attempt": _another_attempt(), "goes_back": False}
    values |= {"since": now, "target": row.manifest, "facts": None}
    values |= {"left_wave": None, "left_state": None, "left_code": "", "left_message": ""}
    values["wave"] = case((ActionRow.wave > last, last), else_=ActionRow.wave)
    again = update(ActionRow).where(chosen).values(**_FRESH, **values).execution_options(synchronize_session=False)
    planned = session.execute(again).rowcount  # type: ignore[attr-defined]
    session.execute(delete(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind == Kind.ROLLBACK.value))
    _begin_waves_again(session, row, now)
    return int(planned or 0), left_out


def _left_out(session: Session, row: RolloutRow, chosen: ColumnElement[bool], devices: Sequence[str]) -> dict[str, str]:
    query = select(ActionRow.device, taker(row)).where(chosen, is_taken(row)).order_by(ActionRow.device)
    found = {device: why for device, why in session.execute(query.limit(MAX_LEFT_OUT))}  # noqa: C416 - rows are no pairs
    named = ActionRow.device.in_(devices)
    known = select(ActionRow.device, ActionRow.state, chosen).where(ActionRow.rollout_id == row.id, named)
    fits = {device: (state, fit) for device, state, fit in session.execute(known)} if devices else {}
    for device in devices:
        state, fit = fits.get(device, ("", False))
        if not fit:
            found[device] = f"it is {state}" if state else "this rollout has no such device"
    return found


def _begin_waves_again(session: Session, row: RolloutRow, now: datetime) -> None:
    accepted = _still_accepted(session, row, now)
    for wave in session.scalars(select(WaveRow).where(WaveRow.rollout_id == row.id)):
        wave.state, wave.started_at, wave.soak_since = WaveState.PENDING.value, None, None
        wave.passed_at = wave.verdict = None
        left = Accepted(**(wave.accepted or {})).at_most(accepted.get(wave.number, Accepted()))
        wave.accepted, wave.accepted_by = asdict(left), wave.accepted_by if left != Accepted() else ""
    session.flush()


def _still_accepted(session: Session, row: RolloutRow, now: datetime) -> dict[int, Accepted]:
    """By wave: devices whose end a person may have accepted, since it came before the wave began or went on."""
    began = ActionRow.since <= func.coalesce(WaveRow.started_at, literal(now, UtcDateTime))
    query = (
        select(WaveRow.number, ActionRow.state, func.count())
        .join(WaveRow, (WaveRow.rollout_id == ActionRow.rollout_id) & (WaveRow.number == ActionRow.wave))
        .where(ActionRow.rollout_id == row.id, began)
        .group_by(WaveRow.number, ActionRow.state)
    )
    counts: dict[int, dict[ActionState, int]] = defaultdict(dict)
    for wave, state, number in session.execute(query):
        counts[wave][ActionState(state)] = number
    return {wave: accepted_of(own) for wave, own in counts.items()}


def _another_attempt() -> ScalarSelect[int]:
    """Of an action: above every attempt that the device was ever told of, by whomever: none is above the generation
    of the document that it came with."""
    query = select(DesiredRow.generation + 1).where(DesiredRow.device_id == ActionRow.device_id)
    return query.scalar_subquery()
