"""What the registry says of rollouts and plans, and the bodies of the commands.

Commands are POSTed with an `Idempotency-Key` header: the same key with the same body gets the first answer again.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.digest import Digest
from registry.contracts.names import Name, VersionName
from registry.contracts.rollout.spec import MAX_LISTED_DEVICES, RolloutSpec
from registry.contracts.rollout.states import ActionState, Command, RolloutState, WaveState
from registry.contracts.wire import Wire

IDEMPOTENCY_KEY = "idempotency-key"
"""Header of a command: 1 to 128 printable characters, chosen by the client."""
MAX_NAMED = 100
"""Devices named in one line of a plan; the count says how many there are."""

Note = Annotated[str, Field(max_length=2048)]


class RolloutReason(Wire):
    """One machine-readable reason, and one sentence for a person."""

    code: ReasonCode
    text: Annotated[str, Field(max_length=2048)] = ""


class PlanClass(Wire):
    """Devices with the same facts: they all get the same variant."""

    facts: Digest
    count: int
    variant: Name
    variant_digest: Digest
    bytes: int
    """Of the variant, per device."""
    degraded: bool = False
    """An accelerator lies idle."""
    platform: str = ""
    """In words: os, architecture, chip, memory, runtime."""


class PlanGap(Wire):
    """Devices that will get nothing, and why."""

    code: str
    """A `ResolutionCode`, or `facts_unknown` (the device never reported), `no_fitting_variant`, `quarantined` (it took
    the version back before), `not_registered`."""
    why: Annotated[str, Field(max_length=4096)]
    count: int
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_NAMED)] = ()


class PlanCollision(Wire):
    """Another rollout of the same model that is not over and has some of these devices; the newer one wins them."""

    rollout: str
    name: Name | None = None
    version: VersionName
    state: RolloutState
    count: int
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_NAMED)] = ()


class PlanWave(Wire):
    """One wave of the plan."""

    index: int
    label: str
    """As it was asked for: `1%`, `50 devices`, `ring=canary`, `tail`."""
    devices: int
    bytes: int
    seconds: float
    """Expected: released at the rate, then probation and soak."""


class PlanView(Wire):
    """What would happen. The digest covers every device, its variant and its wave, and what the spec says."""

    digest: Digest
    model: Name
    version: VersionName
    manifest: Digest
    devices: int
    """That will get it."""
    classes: tuple[PlanClass, ...] = ()
    """The largest first, at most 1000."""
    nothing: tuple[PlanGap, ...] = ()
    already_current: int = 0
    collisions: tuple[PlanCollision, ...] = ()
    total_bytes: int = 0
    expected_s: float = 0
    waves: tuple[PlanWave, ...] = ()
    ties: tuple[str, ...] = ()
    """Where two variants fit equally well and only their names decided."""
    offline: int = 0
    """Of `devices`, when it was planned."""
    retries: tuple[str, ...] = ()
    """What is tried again by itself, a sentence for each rule."""


class GateVerdict(Wire):
    """What the gate says of a wave now, with the figures behind it."""

    outcome: str
    """passed, failed, inconclusive or waiting."""
    reason: RolloutReason
    until: AwareDatetime | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    """By rule: failed_pct, unknown_pct, committed_pct, coverage_pct, and one for each health rule with data."""
    notes: tuple[str, ...] = ()
    """Rules that were not judged, and why; dry runs."""


class WaveView(Wire):
    """One wave, counted from the actions."""

    index: int
    kind: str
    """wave, tail or rollback."""
    label: str
    state: WaveState
    devices: int
    counts: dict[ActionState, int] = Field(default_factory=dict)
    started_at: AwareDatetime | None = None
    soak_since: AwareDatetime | None = None
    verdict: GateVerdict | None = None
    accepted_by: str = ""
    """Who let it go on although its gate had stopped it."""


class RolloutView(Wire):
    """A rollout. `revision` is the ETag; a command says which one it saw."""

    id: str
    spec: RolloutSpec
    version: VersionName
    manifest: Digest
    state: RolloutState
    revision: int
    generation: int = 1
    """Raised by retry and rollback."""
    reason: RolloutReason
    since: AwareDatetime
    """When it entered the state."""
    legal: tuple[Command, ...] = ()
    counts: dict[ActionState, int] = Field(default_factory=dict)
    waves: tuple[WaveView, ...] = ()
    plan: Digest | None = None
    approved_by: str = ""
    created_at: AwareDatetime
    created_by: str = ""
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    eta: AwareDatetime | None = None
    """When it would end if nothing fails; None when it waits for a person or is over."""


class ActionStep(Wire):
    """One step of one device."""

    at: AwareDatetime
    state: ActionState
    code: str = ""
    message: Note = ""


class ActionView(Wire):
    """One device in a rollout, and why it is where it is."""

    device: Name
    wave: int | None = None
    state: ActionState
    phase: Phase | None = None
    """The last that the device told."""
    failed_in: Phase | None = None
    code: str = ""
    message: Note = ""
    since: AwareDatetime
    due: AwareDatetime | None = None
    """When it is counted as unknown."""
    why: str = ""
    """One sentence: why it waits, who or what unblocks it, since when."""
    variant: Name | None = None
    generation: int = 1
    attempt: int = 0
    tries: int = 0
    """Attempts in this generation that the spec's retries asked for."""
    retry_at: AwareDatetime | None = None
    """It is tried again then."""
    previous: VersionName | None = None
    """What it returns to."""
    history: tuple[ActionStep, ...] = ()
    """The newest, oldest first."""
    forgotten: int = 0
    """Steps before those, which are kept no more."""


class CommandBody(Wire):
    """POST body of a command. `approve` and `deny` have their own: Approval."""

    command: Command
    revision: Annotated[int, Field(ge=0)]
    """The one that was seen; another one now is 412 and changes nothing."""
    force: bool = False
    """With `resume`: the current wave passes, whatever its gate says."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """With `retry`: only these; none named: all that failed."""
    note: Note = ""


class Approval(Wire):
    """POST body: it binds to the plan that was read; another plan now is 412."""

    plan: Digest
    revision: Annotated[int, Field(ge=0)]
    approve: bool = True
    note: Note = ""


class HistoryEntry(Wire):
    """One transition of a rollout."""

    at: AwareDatetime
    revision: int
    generation: int = 1
    before: RolloutState | None = None
    after: RolloutState
    cause: str
    """The command, or the internal event."""
    by: str = ""
    """Whose token; empty: the registry itself."""
    reason: RolloutReason
    note: Note = ""
