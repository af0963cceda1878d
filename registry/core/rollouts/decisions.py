"""What `decide` sees of a rollout, and what it can decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.core.rollouts.gates import GateDecision, WaveFacts
from registry.core.rollouts.health import Cohorts
from registry.core.rollouts.machine import RolloutTrigger
from registry.core.rollouts.rates import Bucket, Candidate


class Overdue(NamedTuple):
    """A device whose `due` is over."""

    device: str
    state: ActionState
    due: datetime


class Away(NamedTuple):
    """A device that is offline, planned or offered in a wave that has started."""

    device: str
    since: datetime
    """Last seen, or registered where it never was."""


class Failed(NamedTuple):
    """A device whose failure the spec's retries may name."""

    device: str
    code: str
    tries: int
    since: datetime


@dataclass(frozen=True)
class Snapshot:
    """A rollout as it is stored and counted. Lists may be cut to a batch; the rest comes next time."""

    spec: RolloutSpec
    state: RolloutState
    since: datetime
    """When it entered the state."""
    valid_until: datetime
    waves: tuple[WaveFacts, ...] = ()
    """In order: the spec's, then the tail. While rolling back: only the rollback's."""
    candidates: tuple[Candidate, ...] = ()
    """Planned, in waves that have started, by wave and turn; in the tail also excluded ones that are back."""
    overdue: tuple[Overdue, ...] = ()
    away: tuple[Away, ...] = ()
    lost: int = 0
    """Devices in LOST, and those in HOLDS_SLOT_WHILE_AWAY that are offline."""
    bucket: Bucket = field(default_factory=Bucket)
    generation: int = 1
    cohorts: Cohorts = field(default_factory=Cohorts)
    """For the wave that is judged."""
    failed: tuple[Failed, ...] = ()
    """Devices in waves that have started, whose code a rule of the spec names, with tries left."""
    refused: int = 0
    """Devices in no wave, since they have the version in quarantine: the rollout ends with them as exceptions."""


@dataclass(frozen=True)
class Shift:
    """Move the rollout by an internal event."""

    event: RolloutTrigger
    code: ReasonCode
    text: str
    wave: int | None = None
    """The wave whose gate said so; its state becomes failed or inconclusive."""
    verdict: GateDecision | None = None


@dataclass(frozen=True)
class StartWave:
    """pending -> releasing, from now."""

    wave: int


@dataclass(frozen=True)
class Soak:
    """releasing -> soaking from now; not again while it soaks."""

    wave: int


@dataclass(frozen=True)
class Unsoak:
    """soaking -> releasing: what it rested on is gone (a commit regressed)."""

    wave: int


@dataclass(frozen=True)
class PassWave:
    """The wave has passed."""

    wave: int
    verdict: GateDecision


@dataclass(frozen=True)
class Offer:
    """Put it into the desired state of these devices, and keep the bucket that is left."""

    devices: tuple[str, ...]
    bucket: Bucket


@dataclass(frozen=True)
class TimeOut:
    """These have been silent for too long."""

    devices: tuple[Overdue, ...]


@dataclass(frozen=True)
class Again:
    """Plan these for another attempt, to be offered at the time given."""

    devices: tuple[tuple[str, datetime], ...]


@dataclass(frozen=True)
class ExcludeOffline:
    """Into the tail wave with these; what they were offered is taken back."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class FailOffline:
    """These count as failed (`count_failed`); what they were offered is taken back."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class Withdraw:
    """Every device that has not switched returns to its last good version; no acknowledgement is waited for.

    Parked and BEFORE_SWITCH actions become cancelled; of those in REQUEST_ENDS only the desired state changes. While a
    rollback is aborted nothing is put back: what was planned is cancelled, what was told to return does.
    """


Decision = (
    Shift | StartWave | Soak | Unsoak | PassWave | Offer | TimeOut | Again | ExcludeOffline | FailOffline | Withdraw
)
