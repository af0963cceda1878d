"""Devices of a rollout, counted for people: by what they are, and by what they were when they were told to go back.

A device that goes back is in the rollback's wave, and its state speaks of the way back. What it was before stands in
its `left_...` columns, so that what the rollout went back for can be read for as long as the rollout is there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.orm import Session

from registry.contracts.rollout.states import ActionState
from registry.contracts.rollout.views import TroubleView
from registry.core.rollouts.actions import FAILURE
from registry.db.rollout_rows import ActionRow

TROUBLE = FAILURE | {ActionState.TIMED_OUT}
MAX_TROUBLES = 20
_TROUBLE = tuple(state.value for state in TROUBLE)
_Counts = dict[int, dict[ActionState, int]]


@dataclass
class RolloutTally:
    """Counted from the actions. Devices without a wave stand under -1."""

    counts: _Counts = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """Wave to state to devices."""
    left: _Counts = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """Wave to what they were when they were told to go back, of devices that are in another wave now."""
    total: dict[ActionState, int] = field(default_factory=lambda: defaultdict(int))
    back: dict[ActionState, int] = field(default_factory=lambda: defaultdict(int))
    """Of `total`, those that were told to go back."""
    troubled: int = 0


def is_troubled() -> ColumnElement[bool]:
    """Of an action: the device failed or fell silent, now or when it was told to go back."""
    return or_(ActionRow.state.in_(_TROUBLE), ActionRow.left_state.in_(_TROUBLE))


def code_of() -> ColumnElement[str]:
    """Of an action: why it was in trouble when it was told to go back, else its code now."""
    return case((ActionRow.left_state.in_(_TROUBLE), ActionRow.left_code), else_=ActionRow.code)


def tally_of(session: Session, rollout_id: int) -> RolloutTally:
    """One query, whose groups are few."""
    columns = (ActionRow.wave, ActionRow.state, ActionRow.goes_back, ActionRow.left_wave, ActionRow.left_state)
    query = select(*columns, func.count()).where(ActionRow.rollout_id == rollout_id).group_by(*columns)
    tally = RolloutTally()
    for wave, said, goes_back, left_wave, left, number in session.execute(query):
        state = ActionState(said)
        tally.counts[-1 if wave is None else wave][state] += number
        tally.total[state] += number
        if goes_back:
            tally.back[state] += number
        if left is not None and left_wave is not None and left_wave != wave:
            tally.left[left_wave][ActionState(left)] += number
        if said in _TROUBLE or left in _TROUBLE:
            tally.troubled += number
    return tally


def troubles(session: Session, rollout_id: int) -> tuple[TroubleView, ...]:
    """The commonest, each with the first of its devices. What a device was counts before what the way back made it."""
    was = ActionRow.left_state.in_(_TROUBLE)
    state = case((was, ActionRow.left_state), else_=ActionRow.state).label("state")
    code = code_of().label("code")
    message = case((was, ActionRow.left_message), else_=ActionRow.message)
    mine = (ActionRow.rollout_id == rollout_id, is_troubled())
    each = select(ActionRow.device, state, code).where(*mine).subquery()
    number = func.count()
    query = select(each.c.state, each.c.code, number, func.min(each.c.device)).group_by(each.c.state, each.c.code)
    found = session.execute(query.order_by(number.desc(), each.c.state, each.c.code).limit(MAX_TROUBLES)).all()
    firsts = [first for *_, first in found]
    named = select(ActionRow.device, message).where(*mine, ActionRow.device.in_(firsts))
    said = {device: text for device, text in session.execute(named)}  # noqa: C416 - rows are no pairs
    return tuple(
        TroubleView(
            state=ActionState(what), code=why, devices=count, first=first, message=str(said.get(first) or "")[:2048]
        )
        for what, why, count, first in found
    )
