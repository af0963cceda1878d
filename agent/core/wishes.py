"""What a new desired state means for a slot: which event it is, or that it is only to be written down, and
what is written down with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.core.lifecycle import UNDER_WAY, Event, State
from agent.core.slots import SlotRecord, identity
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import DesiredModel

_FINISHES_FIRST = frozenset({State.RETIRING, State.ROLLING_BACK})
_ENDED = frozenset({State.FAILED, State.ROLLED_BACK, State.ROLLBACK_FAILED})
"""A wish that has come to its end badly is not begun again because another part of the document has changed."""


@dataclass(frozen=True)
class Take:
    """The event to move the slot with; None: nothing moves."""

    event: Event | None
    adopt: bool
    """The wish becomes the slot's own. Not when it overtakes another: that one is reported under its own name first."""


NOTHING = Take(None, adopt=False)


def take(record: SlotRecord, wish: DesiredModel | None) -> Take:
    """What `wish` (None: the model is not desired) means for the slot as it is. Ask again after each event."""
    state = record.state
    if state in _FINISHES_FIRST:
        return NOTHING
    if wish is None:
        return Take(Event.WITHDRAWN, adopt=state not in UNDER_WAY)
    same = record.desired is not None and identity(record.desired) == identity(wish)
    if state is not State.ROLLBACK_FAILED and record.active is not None and record.active.is_what(wish):
        return _it_serves(record, wish, same=same)
    if state in UNDER_WAY and state is not State.PROBATION:
        return Take(None, adopt=True) if same else Take(Event.ASSIGNED, adopt=False)
    if state is State.PROBATION:
        return Take(Event.ASSIGNED, adopt=False)
    if state in _ENDED and same:
        return Take(None, adopt=True)
    return Take(Event.ASSIGNED, adopt=True)


def _it_serves(record: SlotRecord, wish: DesiredModel, *, same: bool) -> Take:
    state = record.state
    if state in (State.COMMITTED, State.PROBATION):
        options = record.active is not None and record.active.record_results == wish.record_results
        if same and options:
            return Take(None, adopt=True)
        return Take(Event.SETTLED if state is State.COMMITTED else Event.PROVE, adopt=True)
    if state in UNDER_WAY:
        return Take(Event.CALLED_OFF, adopt=False)
    if state is State.FAILED and same:  # The first version, which failed its probation and has none to go back to.
        return Take(None, adopt=True)
    return Take(Event.SETTLED if record.proven else Event.PROVE, adopt=True)


def changes_of(
    taken: Take, record: SlotRecord, wish: DesiredModel | None, generation: int, now: datetime
) -> dict[str, Any]:
    """What changes in the slot's record together with the event of a wish.

    Args:
        generation: Of the document that the wish came with.
    """
    if not taken.adopt:
        return {"candidate": None, "fault": None}
    changes: dict[str, Any] = {"desired": wish, "generation": generation, "candidate": None}
    changes.update(fault=None, failed_in=None)
    if taken.event is Event.WITHDRAWN or wish is None:
        return changes
    changes.update(attempts=0, gap_s=None, shadow=None)
    if taken.event is Event.ASSIGNED:
        return {**changes, "offered_at": now}
    return {**changes, "active": record.active.bound_to(wish) if record.active is not None else None}


def lasts(state: State, policy: DeploymentPolicy) -> float | None:
    """Seconds after which `state` ends by itself; None: it does not."""
    if state is State.PROBATION:
        return policy.probation_s
    return policy.shadow.duration_s if state is State.SHADOWING and policy.shadow is not None else None
