"""What a command does beside moving the rollout, in the same transaction. What takes long is the ticker's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.rollout.states import Command, WaveState
from registry.contracts.rollout.views import CommandBody
from registry.core.rollouts.gates import Kind, accepted_of
from registry.db.rollout_rows import RolloutRow, WaveRow
from registry.errors import ConflictError
from registry.services.rollouts.back import begin_rollback, plan_again
from registry.services.rollouts.snapshot import counts_of, lost_of
from registry.services.rollouts.store import set_wave, spec_of

MAX_TOLD = 5
"""Devices that a sentence names."""
_STOPPED = frozenset({WaveState.FAILED.value, WaveState.INCONCLUSIVE.value})


def _resume(session: Session, row: RolloutRow, body: CommandBody, by: str, now: datetime) -> None:
    """What failed or is lost so far is accepted: gates and `max_unavailable` count from here. With `force` the wave
    that runs passes."""
    counts, _ = counts_of(session, row.id)
    lost = lost_of(session, row, spec_of(row), now)
    query = select(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.kind != Kind.ROLLBACK.value)
    current = True
    for wave in session.scalars(query.order_by(WaveRow.number)).all():
        wave.accepted = asdict(accepted_of(counts.get(wave.number, {}), lost.get(wave.number, 0)))
        if wave.state == WaveState.PASSED.value:
            continue
        runs = current and wave.started_at is not None and wave.kind == Kind.WAVE.value
        current = False
        wave.started_at = now if wave.started_at is not None else None
        if wave.state in _STOPPED:
            wave.soak_since, wave.accepted_by = None, by
            set_wave(session, row, wave, WaveState.RELEASING, now)
        if body.force and runs:
            wave.passed_at, wave.accepted_by = now, by
            set_wave(session, row, wave, WaveState.PASSED, now)


def _rollback(session: Session, row: RolloutRow, _body: CommandBody, _by: str, now: datetime) -> None:
    begin_rollback(session, row, now)


EFFECTS: dict[Command, Callable[[Session, RolloutRow, CommandBody, str, datetime], None]] = {
    Command.RESUME: _resume,
    Command.ROLLBACK: _rollback,
}


def retry(session: Session, row: RolloutRow, devices: Sequence[str], now: datetime) -> str:
    """Plan devices again; who was left out and why, as the end of a sentence. Raises ConflictError when all were."""
    done = plan_again(session, row, devices, now)
    left = _named(done.left_out)
    if not done.planned:
        raise ConflictError(f"No device of rollout {row.public} can be tried again{left}.")
    return left


def _named(left_out: Mapping[str, str]) -> str:
    """The first of them, each with its reason."""
    if not left_out:
        return ""
    told = [f"{device} ({why})" for device, why in list(left_out.items())[:MAX_TOLD]]
    more = len(left_out) - len(told)
    return f"; left out: {', '.join(told)}{f' and {more} more' if more else ''}"
