"""What a new desired state means for a slot: a step of the table, or only something to write down. Pure."""

from __future__ import annotations

from typing import Any

from agent.core.lifecycle import UNDER_WAY, DeploymentEvent, State
from agent.core.machine.decision import Decision, Situation, Upkeep, move
from agent.core.slots import SlotRecord, identity
from registry.contracts.device.messages import DesiredModel

_FINISHES_FIRST = frozenset({State.RETIRING, State.ROLLING_BACK})
_ENDED = frozenset({State.FAILED, State.ROLLED_BACK, State.ROLLBACK_FAILED})
"""What has come to its end badly is not begun again because another part of the document has changed."""
_OVERTAKES = frozenset({DeploymentEvent.ASSIGNED, DeploymentEvent.CALLED_OFF, DeploymentEvent.WITHDRAWN})


def desired_changed(
    record: SlotRecord, at: Situation, desired: DesiredModel | None, generation: int
) -> Decision | None:
    """Asked again after each decision that has commands: what is overtaken ends under its own name first.

    Args:
        desired: None: the model is not desired.
        generation: Of the document that it came with.
    """
    state = record.state
    if state in _FINISHES_FIRST:
        return None
    event = _event(record, desired)
    if event is None:  # Nothing moves; what is new in it (its policy) is looked at where it matters.
        if (record.desired, record.generation) == (desired, generation):
            return None
        return Decision(record.model_copy(update={"desired": desired, "generation": generation}))
    if state in UNDER_WAY and event in _OVERTAKES:
        return move(record, at, event, candidate=None, fault=None)
    changes: dict[str, Any] = {"desired": desired, "generation": generation, "candidate": None}
    changes.update(fault=None, failed_in=None)
    if desired is None:
        return move(record, at, event, **changes)
    changes.update(attempts=0, gap_s=None, shadow=None)
    if event is DeploymentEvent.ASSIGNED:
        changes["offered_at"] = at.now
    elif record.active is not None:
        changes["active"] = record.active.bound_to(desired)
    decision = move(record, at, event, **changes)
    return Decision(decision.record, (Upkeep.FORGIVE, *decision.commands))


def _event(record: SlotRecord, desired: DesiredModel | None) -> DeploymentEvent | None:
    if desired is None:
        return DeploymentEvent.WITHDRAWN
    state = record.state
    same = record.desired is not None and identity(record.desired) == identity(desired)
    if state is not State.ROLLBACK_FAILED and record.active is not None and record.active.is_what(desired):
        return _of_what_serves(record, desired, same=same)
    carried_out = state in _ENDED or (state in UNDER_WAY and state is not State.PROBATION)
    return None if same and carried_out else DeploymentEvent.ASSIGNED


def _of_what_serves(record: SlotRecord, desired: DesiredModel, *, same: bool) -> DeploymentEvent | None:
    state = record.state
    if state in (State.COMMITTED, State.PROBATION):
        if same and record.active is not None and record.active.record_results == desired.record_results:
            return None
        return DeploymentEvent.SETTLED if state is State.COMMITTED else DeploymentEvent.PROVE
    if state in UNDER_WAY:
        return DeploymentEvent.CALLED_OFF
    if state is State.FAILED and same:  # The first version, which failed its probation and has none to go back to.
        return None
    return DeploymentEvent.SETTLED if record.proven else DeploymentEvent.PROVE
