"""After the wall clock was set: times that rollouts under way measure durations from move along with it.

A soak, a timeout, a deadline is a duration of time that passed; its beginning is kept as a wall time, so that a
restart forgets nothing. When the clock is set while the registry runs, the beginnings are set by as much: nothing ends
sooner, and nothing lasts longer. Times that a person chose (`valid_until`, `start_at`), and that devices told, stay.
LIMIT: a step that comes while no registry runs is not seen; then a soak may end sooner or last longer by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from registry.core.rollouts import actions
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow, WaveRow
from registry.services.rollouts.store import ACTIVE, spec_of

_OF_ROLLOUT = ("since", "started_at", "filled_at")
_OF_WAVE = ("started_at", "soak_since")
_OF_ACTION = ("since", "due", "offered_at", "retry_at")


def shift(database: Database, by: timedelta) -> int:
    """Move the beginnings of every rollout that is under way, in one transaction; how many rollouts."""
    with database.write() as session:
        rows = session.scalars(select(RolloutRow).where(RolloutRow.state.in_(ACTIVE))).all()
        for row in rows:
            _move(row, _OF_ROLLOUT, by)
            if row.valid_until is not None and spec_of(row).valid_until is None:
                row.valid_until += by
            for wave in session.scalars(
                select(WaveRow).where(WaveRow.rollout_id == row.id, WaveRow.passed_at.is_(None))
            ):
                _move(wave, _OF_WAVE, by)
            _move_actions(session, row.id, by)
    return len(rows)


def _move(row: Any, names: Sequence[str], by: timedelta) -> None:
    for name in names:
        at = getattr(row, name)
        if at is not None:
            setattr(row, name, at + by)


def _move_actions(session: Session, rollout_id: int, by: timedelta) -> None:
    """Of devices that are not through yet, or are tried again; there may be a hundred thousand."""
    columns = [getattr(ActionRow, name) for name in _OF_ACTION]
    in_flight = ActionRow.state.in_([state.value for state in actions.IN_FLIGHT])
    goes_on = or_(in_flight, ActionRow.due.is_not(None), ActionRow.retry_at.is_not(None))
    query = select(ActionRow.id, *columns).where(ActionRow.rollout_id == rollout_id, goes_on)
    moved = [
        {"id": found[0], **{name: at and at + by for name, at in zip(_OF_ACTION, found[1:], strict=True)}}
        for found in session.execute(query)
    ]
    if moved:
        session.execute(update(ActionRow), moved)
