"""What a slot says of itself: which version answers, and how far its deployment is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.backoff import is_retriable
from agent.core.lifecycle import PHASES, State
from agent.core.slots import SlotRecord, WorkerReport
from registry.contracts.device.deployments import DeploymentProgress, Phase, ShadowFigures
from registry.contracts.device.messages import Fault, ReportedModel, ServingState

_ENDED_BADLY = frozenset({State.FAILED, State.ROLLED_BACK, State.ROLLBACK_FAILED})
_SERVES = frozenset({State.COMMITTED, State.PROBATION})
_INSTALLING = frozenset({State.OFFERED, State.DEFERRED, State.DOWNLOADING})


@dataclass(frozen=True)
class Live:
    """What the journal does not know."""

    serving: WorkerReport | None = None
    """The worker that answers; None while there is none."""
    crash: Fault | None = None
    """Why the active worker is not there, while it is being started again or was given up."""
    given_up: bool = False
    """It died too often and is not started again."""
    bytes_done: int = 0
    """Of the candidate, on this disk."""
    shadow: ShadowFigures | None = None
    """Of a shadow under way."""
    cleared: bool = False
    """The active one was ended on purpose: there is no room for two."""


def report(slot: SlotRecord, live: Live) -> ReportedModel:
    """The slot's part of a report. What it calls the version is what answers, never what should."""
    serving = live.serving
    choice = serving.choice if serving else None
    return ReportedModel(
        state=_state(slot, live),
        version=choice.version if choice else None,
        manifest=choice.manifest if choice else None,
        variant=choice.variant.name if choice else None,
        variant_digest=choice.variant_digest if choice else None,
        backend=serving.backend if serving else None,
        execution=serving.execution if serving else None,
        max_batch=serving.max_batch if serving else None,
        batching=serving.batching if serving else "",
        since=serving.since if serving else None,
        rollout=choice.rollout if choice else None,
        desired_version=slot.desired.version if slot.desired else None,
        fault=live.crash or (slot.fault if slot.fault and slot.fault.code else None),
        parity=choice.parity if choice else None,
        deployment=progress(slot, live),
    )


def phase_of(slot: SlotRecord) -> Phase | None:
    """The phase on the wire: of a waiting deployment the one whose step is tried again."""
    return slot.failed_in if slot.state is State.WAITING else PHASES[slot.state]


def progress(slot: SlotRecord, live: Live) -> DeploymentProgress | None:
    """The deployment under way, or how the last one ended; None when there is none."""
    phase, desired = phase_of(slot), slot.desired
    if phase is None or desired is None or slot.since is None:
        return None
    fault = slot.fault or Fault(code="")
    ended_badly = slot.state in _ENDED_BADLY
    aimed_at = slot.candidate or slot.active if slot.state in _SERVES else slot.candidate
    total = aimed_at.variant.size if aimed_at else 0
    return DeploymentProgress(
        version=desired.version,
        manifest=desired.manifest,
        rollout=desired.rollout,
        attempt=desired.attempt,
        phase=phase,
        since=slot.since,
        code=fault.code[:64],
        message=fault.message,
        failed_in=slot.failed_in if ended_badly else None,
        retriable=ended_badly and is_retriable(fault.code),
        until=slot.until,
        tries=slot.attempts,
        bytes_done=min(live.bytes_done, total) if slot.state in _INSTALLING else total,
        bytes_total=total,
        serves=live.serving.choice.version if live.serving else None,
        gap_s=slot.gap_s,
        parity=aimed_at.parity if aimed_at else None,
        variant=aimed_at.variant.name if aimed_at else None,
        shadow=live.shadow or slot.shadow,
    )


def _state(slot: SlotRecord, live: Live) -> ServingState:
    if slot.state in _ENDED_BADLY or live.given_up:
        return ServingState.FAILED
    if live.serving is None:
        return ServingState.PENDING if slot.active is None or live.cleared else ServingState.RECOVERING
    return ServingState.SERVING if slot.state in _SERVES else ServingState.CHANGING
