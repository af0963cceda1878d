"""A rollback: a new generation whose target is each device's own last good version, and a retry: a new generation
for devices that did not get there. Both only prepare rows; the offers follow at their own rate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.contracts.rollout_states import ActionState, WaveState
from registry.core.rollouts import actions
from registry.core.rollouts.gates import Kind
from registry.db.rollout_rows import ActionRow, RolloutRow, WaveRow
from registry.services.rollouts.store import Changes, previous_of, spec_of
from registry.services.rollouts.targets import restore

_S = ActionState
BATCH = 5000


def begin_rollback(session: Session, row: RolloutRow, now: datetime) -> None:
    """All that may have the new version are planned to go back; the rest is withdrawn. `row.generation` is the new one.

    In one transaction: a rollback that was begun for half of the fleet would leave the other half no way back.
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
    after = 0
    while rows := _batch(session, row, after):
        after = rows[-1].id
        _turn(session, row, rows, number, now)


def _batch(session: Session, row: RolloutRow, after: int) -> Sequence[ActionRow]:
    query = select(ActionRow).where(ActionRow.rollout_id == row.id, ActionRow.id > after)
    return session.scalars(query.order_by(ActionRow.id).limit(BATCH)).all()


def _turn(session: Session, row: RolloutRow, rows: Sequence[ActionRow], number: int, now: datetime) -> None:
    changes = Changes(session, row, spec_of(row), now)
    changes.set((r for r in rows if ActionState(r.state) is _S.PLANNED and not r.goes_back), _S.CANCELLED)
    told = [r for r in rows if r.offered_at is not None and r.device_id is not None]
    quiet = [r for r in told if ActionState(r.state) in (_S.FAILED, _S.ROLLED_BACK, _S.REJECTED) and not r.goes_back]
    changes.flush()
    restore(session, row, quiet, now)
    for each in told:
        state = ActionState(each.state)
        if not actions.goes_back(state, returning=each.goes_back):
            continue
        previous = previous_of(each)
        each.state, each.since, each.due, each.wave = _S.PLANNED.value, now, None, number
        each.generation, each.goes_back = row.generation, True
        each.target = previous.manifest if previous is not None else None
        each.phase = each.failed_in = each.told_at = each.until = each.committed_at = None
        each.code, each.message, each.late, each.spoke, each.held = "", "", False, False, False
    session.flush()


def plan_again(session: Session, row: RolloutRow, devices: Sequence[str], now: datetime) -> int:
    """Devices that did not get there are to be planned for another attempt, and the waves begin anew; how many.

    Args:
        devices: Only these; none named: all that can be retried.
    """
    states = [state.value for state in actions.RETRIABLE]
    chosen = [ActionRow.rollout_id == row.id, ActionRow.device_id.is_not(None)]
    back = ActionRow.goes_back.is_(True) & ActionRow.state.in_([s.value for s in actions.SUCCESS])
    chosen.append(ActionRow.state.in_(states) | back)
    if devices:
        chosen.append(ActionRow.device.in_(devices))
    values = {
        "state": _S.PLANNED.value, "since": now, "due": None, "generation": row.generation,
        "attempt": ActionRow.attempt + 1, "goes_back": False, "target": row.manifest, "phase": None,
        "failed_in": None, "told_at": None, "until": None, "late": False, "spoke": False, "held": False,
        "code": "", "message": "", "committed_at": None, "facts": None,
    }  # fmt: skip
    planned = session.execute(update(ActionRow).where(*chosen).values(**values)).rowcount  # type: ignore[attr-defined]
    waves = update(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind != Kind.ROLLBACK.value)
    fresh: dict[str, object] = dict.fromkeys(("started_at", "soak_since", "passed_at", "verdict"))
    session.execute(waves.values(state=WaveState.PENDING.value, accepted={}, accepted_by="", **fresh))
    session.execute(delete(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind == Kind.ROLLBACK.value))
    return int(planned or 0)
