"""What is known of one model on this device, as the journal keeps it, and what its slot says of itself in a report.
Values; the reconciler makes new ones.

A slot has three places: active (what should answer), candidate (what is being installed), previous (the last committed
one that answered before, kept in the cache for going back).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from agent.core.backoff import is_retriable
from agent.core.lifecycle import PHASES, State
from agent.core.probation import Looked
from registry.contracts.catalogue.batching import BatchingMode, ReadMode
from registry.contracts.catalogue.detection import Detection
from registry.contracts.catalogue.manifest import Classification, Golden, ImageInput, Parity, Variant
from registry.contracts.device.deployments import DeploymentProgress, Phase, ShadowFigures
from registry.contracts.device.messages import DesiredModel, Fault, Profile, ReportedModel, ServingState
from registry.contracts.wire import Digest, Name, VersionName, Wire

MAX_QUARANTINE = 32
"""Variants of one model that are remembered as bad; the oldest is forgotten."""


class Choice(Wire):
    """A resolved deployment: all that pulling, loading and binding need, so that a restart needs no network."""

    model: Name
    version: VersionName
    manifest: Digest
    variant: Variant
    variant_digest: Digest
    backend: Name
    """The agent's catalogue name of the backend that will run it."""
    profile: Profile
    rollout: str | None = None
    record_results: bool = False
    image: ImageInput | None = None
    classification: Classification | None = None
    detection: Detection | None = None
    golden: Golden | None = None
    parity: Parity | None = None
    """Measured at warm-up on this host; None before it, and where the version has no golden vectors."""
    batching: ReadMode = BatchingMode.AUTO
    """What the deployment asks of batching."""
    degraded: bool = False
    """An accelerator lies idle beside it."""

    def is_what(self, desired: DesiredModel) -> bool:
        """Would the same worker serve `desired`? A desired variant of None is content with any."""
        return (
            self.manifest == desired.manifest
            and desired.variant in (None, self.variant.name)
            and self.profile == desired.profile
            and self.batching == desired.policy.batching
        )

    def loads_as(self, other: Choice) -> bool:
        """Would the same worker do? Rollout and options are no part of a worker."""
        mine = (self.variant_digest, self.manifest, self.profile, self.batching)
        return mine == (other.variant_digest, other.manifest, other.profile, other.batching)

    def bound_to(self, desired: DesiredModel) -> Choice:
        """The same under the rollout and the options of `desired`."""
        return self.model_copy(update={"rollout": desired.rollout, "record_results": desired.record_results})


def identity(desired: DesiredModel) -> tuple[str | None, ...]:
    """What makes two desired states the same deployment; the rest of policy and options may change under way."""
    what = (desired.manifest, desired.variant, desired.rollout, str(desired.attempt), desired.profile)
    return (*what, desired.policy.batching)


class WorkerReport(Wire):
    """What a loaded worker turned out to be; for reports."""

    choice: Choice
    backend: str
    """Backend and provider, e.g. `onnxruntime/CPUExecutionProvider`."""
    execution: Literal["process", "inline"]
    max_batch: int
    since: AwareDatetime
    batching: str = ""
    """Whether requests are joined, and why."""


class Quarantined(Wire):
    """A variant that this device rolled back, or that answered its golden vectors wrongly."""

    variant_digest: Digest
    version: VersionName
    code: str
    message: Annotated[str, Field(max_length=2048)] = ""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Only a desired state with a higher one brings it again."""
    at: AwareDatetime


class Trial(Wire):
    """What a probation must remember across a restart of the agent."""

    deaths: Annotated[int, Field(ge=0)] = 0
    """Of the worker, as a living agent saw them."""
    ends: Annotated[int, Field(ge=0)] = 0
    """Of the agent while this host went on running: the version may be why, and much else may."""
    stopped: bool = False
    """The agent ended in order: the start after it counts as nothing."""
    before_us: float | None = None
    """p99 of the previous version's runs, in microseconds; None: too few, or none was there."""
    before: Looked | None = None
    """What the previous version's answers held; None: they were not looked at, or none was there."""
    held: bool = False
    """Its policy says `hold`, or said so when another version was wanted: it may fail, and it does not pass."""


class SlotRecord(Wire):
    """One slot in the journal. `desired` None: the model is to go."""

    model: Name
    state: State = State.IDLE
    since: AwareDatetime | None = None
    """When this state began."""
    offered_at: AwareDatetime | None = None
    """When the deployment under way was first seen."""
    desired: DesiredModel | None = None
    generation: Annotated[int, Field(ge=0)] = 0
    """The desired generation that `desired` came with."""
    attempts: Annotated[int, Field(ge=0)] = 0
    """Tries of the deployment under way, or of the rollback."""
    fault: Fault | None = None
    """Why the deployment waits, was given up or was rolled back; of a committed one, what its probation said."""
    failed_in: Phase | None = None
    until: AwareDatetime | None = None
    """When the waiting ends by itself."""
    gap_s: float | None = None
    """Seconds in which nothing answered at the last switch; None: not switched."""
    shadow: ShadowFigures | None = None
    """What the shadow of this deployment's candidate found, once it is over; not begun again when that was good."""
    trial: Trial | None = None
    """Of the active version, until it is proven."""
    boot: str = ""
    """Which boot of this host wrote it, as the kernel names it: after a cut of power it is another."""
    active: Choice | None = None
    proven: bool = False
    """The active one was committed."""
    looked: Looked | None = None
    """What the active one's answers held in its probation."""
    candidate: Choice | None = None
    previous: Choice | None = None
    quarantine: Annotated[tuple[Quarantined, ...], Field(max_length=MAX_QUARANTINE)] = ()

    def places(self) -> list[Choice]:
        """Active, candidate and previous, those that are there. Previous is the last committed one, or active is."""
        return [choice for choice in (self.active, self.candidate, self.previous) if choice is not None]

    def last_committed(self) -> Choice | None:
        """What to go back to when the next version fails."""
        return self.active if self.proven else self.previous

    def on_trial(self) -> bool:
        """Has what should answer still to prove itself? Also while the next version is on its way, or has failed."""
        return self.active is not None and not self.proven and self.trial is not None

    def barred(self, choice: Choice, attempt: int) -> Quarantined | None:
        """The reason why `choice` must not be tried in that attempt; None: it may be."""
        return next(
            (bad for bad in self.quarantine if bad.variant_digest == choice.variant_digest and attempt <= bad.attempt),
            None,
        )

    def with_bad(self, bad: Quarantined) -> tuple[Quarantined, ...]:
        """The quarantine with one more; a newer entry of the same variant takes the place of the older."""
        others = [entry for entry in self.quarantine if entry.variant_digest != bad.variant_digest]
        return (*others, bad)[-MAX_QUARANTINE:]


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
