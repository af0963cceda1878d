"""A rollback: a new generation whose target is each device's own last good version, and a retry: a new generation
for devices that did not get there. Both only prepare rows; the offers follow at their own rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, and_, case, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from registry.contracts.rollout.states import ActionState, WaveState
from registry.core.rollouts import actions
from registry.core.rollouts.gates import Accepted, Kind, accepted_of
from registry.core.rollouts.waves import tail
from registry.db.base import UtcDateTime
from registry.db.fleet_rows import DesiredRow
from registry.db.rollout_rows import ActionRow, RolloutRow, StepRow, WaveRow
from registry.services.rollouts.store import spec_of
from registry.services.rollouts.taken import is_taken, still_wants_it, taker
from registry.services.rollouts.targets import restore

_S = ActionState


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
    withdrawn = (ActionRow.state == _S.CANCELLED.value) & still_wants_it(row)  # a retry's that was never offered it
    first = ActionRow.goes_back.is_(False) & (ActionRow.state.in_(_goes_back(returning=False)) | withdrawn)
    again = ActionRow.goes_back.is_(True) & ActionRow.state.in_(_goes_back(returning=True))
    _supersede_taken(session, row, and_(*told, first | again), now, wave=literal(number))
    session.execute(
        update(ActionRow)
        .where(*told, first | again)
        .values(**_FRESH, since=now, wave=number, generation=row.generation, goes_back=True,
                attempt=_another_attempt(), target=ActionRow.previous_manifest)
        .execution_options(synchronize_session=False)
    )  # fmt: skip


_GAVE_UP = tuple(state.value for state in (_S.FAILED, _S.ROLLED_BACK, _S.REJECTED))
"""What served before still does on these; only their desired state has to return."""
_FRESH = {
    "state": _S.PLANNED.value, "due": None, "phase": None, "failed_in": None, "told_at": None, "until": None,
    "late": False, "spoke": False, "code": "", "message": "", "committed_at": None,
    "tries": 0, "retry_at": None,
}  # fmt: skip
"""Of an action that begins again. Whether it is held stays: its desired state says so until it is offered something."""


def _goes_back(*, returning: bool) -> list[str]:
    return [state.value for state in ActionState if actions.goes_back(state, returning=returning)]


def cancel_parked(session: Session, row: RolloutRow, now: datetime) -> int:
    """Devices that wait for an offer get none any more; how many. One statement for any number."""
    parked = ActionRow.state.in_([state.value for state in actions.PARKED])
    return _end(session, row, parked, {"state": literal(_S.CANCELLED.value), "message": literal("")}, now)


def _supersede_taken(
    session: Session, row: RolloutRow, which: ColumnElement[bool], now: datetime, **more: ColumnElement[int]
) -> None:
    """Of these devices, those that somebody else took since are no longer this rollout's."""
    superseded: dict[str, ColumnElement[Any]] = {"state": literal(_S.SUPERSEDED.value), "message": taker(row), **more}
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


@dataclass(frozen=True)
class Retried:
    """What a retry makes of the devices that were asked for."""

    planned: int
    left_out: Mapping[str, str]
    """Device to why it is not tried again: all that were named, else those that somebody else took; MAX_LEFT_OUT."""


MAX_LEFT_OUT = 1000


def plan_again(session: Session, row: RolloutRow, devices: Sequence[str], now: datetime) -> Retried:
    """Devices that did not get there are to be planned for another attempt, and the waves begin again.

    Not those that somebody else took since they were offered it or, never offered it, since it was planned: these
    are superseded. What a person accepted of other devices stays accepted.

    Args:
        devices: Only these; none named: all that can be retried.
    """
    states = [state.value for state in actions.RETRIABLE]
    went = [state.value for state in actions.SUCCESS | {_S.ALREADY_CURRENT}]
    fit = ActionRow.state.in_(states) | (ActionRow.goes_back.is_(True) & ActionRow.state.in_(went))
    asked = [ActionRow.device.in_(devices)] if devices else []
    chosen = and_(ActionRow.rollout_id == row.id, ActionRow.device_id.is_not(None), fit, *asked)
    left_out = _left_out(session, row, chosen, devices)
    last = tail(spec_of(row))  # until the plan says which: the rollback's wave is gone
    _supersede_taken(session, row, chosen, now, wave=func.coalesce(ActionRow.wave, last))
    values: dict[str, Any] = {"generation": row.generation, "attempt": _another_attempt(), "goes_back": False}
    values |= {"since": now, "target": row.manifest, "facts": None}
    values["wave"] = case((ActionRow.wave > last, last), else_=ActionRow.wave)
    again = update(ActionRow).where(chosen).values(**_FRESH, **values).execution_options(synchronize_session=False)
    planned = session.execute(again).rowcount  # type: ignore[attr-defined]
    session.execute(delete(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind == Kind.ROLLBACK.value))
    _begin_waves_again(session, row, now)
    return Retried(int(planned or 0), left_out)


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
