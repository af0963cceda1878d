"""Devices of a rollout, counted for people: by what they are, and by what they were when they were told to go back.

A device that goes back is in the rollback's wave, and its state speaks of the way back. What it was before stands in
its `left_...` columns, so that what the rollout went back for can be read for as long as the rollout is there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, case, or_, select, text
from sqlalchemy.orm import Session

from registry.contracts.rollout.states import ActionState
from registry.contracts.rollout.views import TroubleView
from registry.db.rollout_rows import TROUBLE, TROUBLED, ActionRow
from registry.services.tallies import tallied

MAX_TROUBLES = 20
_TROUBLE = tuple(state.value for state in TROUBLE)
_Counts = dict[int, dict[ActionState, int]]


@dataclass
class RolloutTally:
    """Of the actions. Devices without a wave stand under -1."""

    counts: _Counts = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """Wave to state to devices."""
    left: _Counts = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """Wave to what they were when they were told to go back, of devices that are in another wave now."""
    total: dict[ActionState, int] = field(default_factory=lambda: defaultdict(int))
    back: dict[ActionState, int] = field(default_factory=lambda: defaultdict(int))
    """Of `total`, those that were told to go back."""
    spoke: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Wave to devices that reported anything."""
    trouble: dict[tuple[ActionState, str, bool], int] = field(default_factory=lambda: defaultdict(int))
    """Devices that failed or fell silent, by what they became and the code, now or (True) when they were told to go
    back."""

    @property
    def troubled(self) -> int:
        """Devices of `trouble`."""
        return sum(self.trouble.values())


def is_troubled() -> ColumnElement[bool]:
    """Of an action: the device failed or fell silent, now or when it was told to go back."""
    return or_(ActionRow.state.in_(_TROUBLE), ActionRow.left_state.in_(_TROUBLE))


def code_of() -> ColumnElement[str]:
    """Of an action: why it was in trouble when it was told to go back, else its code now."""
    return case((ActionRow.left_state.in_(_TROUBLE), ActionRow.left_code), else_=ActionRow.code)


def tally_of(session: Session, rollout_id: int) -> RolloutTally:
    """From the numbers that the database keeps: the work does not follow how many devices there are."""
    tally = RolloutTally()
    for key, number in tallied(session, "rollout", rollout_id).items():
        wave, said, goes_back, left_wave, left, code, left_code, spoke = key
        state = ActionState(said)
        index = -1 if wave is None else wave
        tally.counts[index][state] += number
        tally.total[state] += number
        if spoke:
            tally.spoke[index] += number
        if goes_back:
            tally.back[state] += number
        if left is not None and left_wave is not None and left_wave != wave:
            tally.left[left_wave][ActionState(left)] += number
        if left in _TROUBLE:
            tally.trouble[ActionState(left), left_code, True] += number
        elif said in _TROUBLE:
            tally.trouble[state, code, False] += number
    return tally


def troubles(session: Session, rollout_id: int, tally: RolloutTally) -> tuple[TroubleView, ...]:
    """The commonest, each with the first of its devices. What a device was counts before what the way back made it."""
    found: dict[tuple[ActionState, str], int] = defaultdict(int)
    for (state, code, _), number in tally.trouble.items():
        found[state, code] += number
    commonest = sorted(found.items(), key=lambda each: (-each[1], *each[0]))[:MAX_TROUBLES]
    return tuple(
        TroubleView(state=state, code=code, devices=number, first=first, message=message[:2048])
        for (state, code), number in commonest
        for first, message in [_first(session, rollout_id, state, code, tally)]
    )


def _first(session: Session, rollout_id: int, state: ActionState, code: str, tally: RolloutTally) -> tuple[str, str]:
    """The first device by name and its message; by an index, for each of the two ways to be in that trouble."""
    found: list[tuple[str, str]] = []
    if tally.trouble.get((state, code, True)):
        was = (ActionRow.left_state == state.value, ActionRow.left_code == code)
        query = select(ActionRow.device, ActionRow.left_message).where(ActionRow.rollout_id == rollout_id, *was)
        found += [(device, said) for device, said in session.execute(query.order_by(ActionRow.device).limit(1))]
    if tally.trouble.get((state, code, False)):
        now = (text(f"rollout_actions.{TROUBLED}"), ActionRow.state == state.value, ActionRow.code == code)
        was_none = or_(ActionRow.left_state.is_(None), ActionRow.left_state.not_in(_TROUBLE))
        query = select(ActionRow.device, ActionRow.message).where(ActionRow.rollout_id == rollout_id, *now, was_none)
        found += [(device, said) for device, said in session.execute(query.order_by(ActionRow.device).limit(1))]
    return min(found, default=("", ""))
