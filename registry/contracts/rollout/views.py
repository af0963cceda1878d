"""What the registry says of rollouts and plans, the bodies of the commands, and what happens as a stream of events.

Commands are POSTed with an `Idempotency-Key` header: the same key with the same body gets the first answer again.
Events come as server-sent events with a cursor, and to webhooks, signed and at least once.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.rollout.spec import MAX_LISTED_DEVICES, RolloutSpec
from registry.contracts.rollout.states import ActionState, Command, RolloutState, WaveState
from registry.contracts.wire import MAX_INTEGER, Digest, Integer, Name, VersionName, Wire

IDEMPOTENCY_KEY = "idempotency-key"
"""Header of a command: 1 to 128 printable characters, chosen by the client."""
MAX_NAMED = 100
"""Devices named in one line of a plan; the count says how many there are."""

Note = Annotated[str, Field(max_length=2048)]


class RolloutReason(Wire):
    """One machine-readable reason, and one sentence for a person."""

    code: ReasonCode
    """A code of docs/codes.md."""
    text: Annotated[str, Field(max_length=2048)] = ""
    """For a person."""


class PlanClass(Wire):
    """Devices with the same facts: they all get the same variant."""

    facts: Digest
    """Digest of their facts."""
    count: Integer
    """So many devices."""
    variant: Name
    """What they get."""
    variant_digest: Digest
    """Canonical digest of that variant."""
    bytes: Integer
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
    """For a person: what each variant needs."""
    count: Integer
    """So many devices."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_NAMED)] = ()
    """The first of them, by name."""


class PlanCollision(Wire):
    """Another rollout of the same model that is not over and has some of these devices; the newer one wins them."""

    rollout: str
    """Its id."""
    name: Name | None = None
    """Its name. None: it has none."""
    version: VersionName
    """What it brings."""
    state: RolloutState
    """Where it is."""
    count: Integer
    """So many devices are in both."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_NAMED)] = ()
    """The first of them, by name."""


class PlanWave(Wire):
    """One wave of the plan."""

    index: Integer
    """From 0."""
    label: str
    """As it was asked for: `1%`, `50 devices`, `ring=canary`, `tail`."""
    devices: Integer
    """So many are in it."""
    bytes: Integer
    """That they will download together, at most."""
    seconds: float
    """Expected: released at the rate, then probation and soak."""


class PlanView(Wire):
    """What would happen. The digest covers every device, its variant and its wave, and what the spec says."""

    digest: Digest
    """Names the plan; an approval binds to it."""
    model: Name
    """The model."""
    version: VersionName
    """What they get; an alias is resolved."""
    manifest: Digest
    """Of that version."""
    devices: Integer
    """That will get it."""
    classes: tuple[PlanClass, ...] = ()
    """The largest first, at most 1000."""
    nothing: tuple[PlanGap, ...] = ()
    """Devices that get nothing."""
    already_current: Integer = 0
    """Devices that serve it already."""
    collisions: tuple[PlanCollision, ...] = ()
    """Rollouts of the same model that have some of these devices."""
    total_bytes: Integer = 0
    """That the devices will download together, at most."""
    expected_s: float = 0
    """Seconds that it takes if nothing fails."""
    waves: tuple[PlanWave, ...] = ()
    """In their order."""
    ties: tuple[str, ...] = ()
    """Where two variants fit equally well and only their names decided."""
    offline: Integer = 0
    """Of `devices`, when it was planned."""
    retries: tuple[str, ...] = ()
    """What is tried again by itself, a sentence for each rule."""


class GateVerdict(Wire):
    """What the gate says of a wave now, with the figures behind it."""

    outcome: str
    """passed, failed, inconclusive or waiting."""
    reason: RolloutReason
    """Why."""
    until: AwareDatetime | None = None
    """When it is judged again at the latest. None: it is decided, or waits for no time."""
    figures: dict[str, float] = Field(default_factory=dict)
    """By rule: failed_pct, unknown_pct, committed_pct, coverage_pct, and one for each health rule with data."""
    notes: tuple[str, ...] = ()
    """Rules that were not judged, and why; dry runs."""


class WentBack(Wire):
    """What a rollout went back for, the last time that it did. It stays until the rollout is deleted."""

    at: AwareDatetime
    """When it began to go back."""
    by: str = ""
    """Whose command it was. Empty: its gate's."""
    code: str
    """A `ReasonCode`: what the gate found, or `by_command`."""
    text: Annotated[str, Field(max_length=4400)] = ""
    """For a person, with the note of whoever commanded it."""


class TroubleView(Wire):
    """Devices of a rollout that failed or fell silent in the same way: now, or when they were told to go back."""

    code: str
    """A code of docs/codes.md. Empty: they said none, as devices that fell silent."""
    state: ActionState
    """What they are, or were."""
    devices: Integer
    """So many."""
    first: Name
    """The first of them by name."""
    message: Note = ""
    """What that one said."""


class ActionLeft(Wire):
    """What a device was when it was told to go back."""

    wave: Integer | None = None
    """Index of the wave that it was in."""
    state: ActionState
    """What it was."""
    code: str = ""
    """A code of docs/codes.md. Empty: nothing had failed on it."""
    message: Note = ""
    """For a person."""


class WaveView(Wire):
    """One wave, counted from the actions."""

    index: Integer
    """From 0."""
    kind: str
    """wave, tail or rollback."""
    label: str
    """As in PlanWave."""
    state: WaveState
    """Where it is."""
    devices: Integer
    """So many are in it."""
    counts: dict[ActionState, Integer] = Field(default_factory=dict)
    """Devices by state. In a wave of the kind rollback `committed` says: back on its last good version."""
    left: dict[ActionState, Integer] = Field(default_factory=dict)
    """Devices of it that were told to go back and are in the rollback's wave now, by what they were when told."""
    started_at: AwareDatetime | None = None
    """When it began. None: not yet."""
    soak_since: AwareDatetime | None = None
    """When enough had committed. None: not yet."""
    verdict: GateVerdict | None = None
    """What its gate said last. None: it was not judged yet."""
    accepted_by: str = ""
    """Who let it go on although its gate had stopped it."""


class RolloutView(Wire):
    """A rollout. `revision` is the ETag; a command says which one it saw."""

    id: str
    """Unique, chosen by the registry."""
    spec: RolloutSpec
    """What was asked for."""
    version: VersionName
    """What the devices get; an alias is resolved."""
    manifest: Digest
    """Of that version."""
    state: RolloutState
    """Where it is."""
    revision: Integer
    """Raised by each transition."""
    generation: Integer = 1
    """Raised by retry and rollback."""
    reason: RolloutReason
    """Why it is in this state."""
    since: AwareDatetime
    """When it entered the state."""
    legal: tuple[Command, ...] = ()
    """What may be asked of it now."""
    counts: dict[ActionState, Integer] = Field(default_factory=dict)
    """Devices by state."""
    back: dict[ActionState, Integer] = Field(default_factory=dict)
    """Of `counts`, devices that were told to go back: `committed` here says that they are back."""
    troubled: Integer = 0
    """Devices that failed or fell silent: now, or when they were told to go back."""
    trouble: tuple[TroubleView, ...] = ()
    """The commonest of these, at most 20; only in the answer of one rollout, not in lists."""
    went_back: WentBack | None = None
    """What it went back for. None: it never did."""
    waves: tuple[WaveView, ...] = ()
    """In their order, with the tail and the way back."""
    plan: Digest | None = None
    """Digest of the plan that it follows. None: none was made."""
    approved_by: str = ""
    """Name of the token that approved it. Empty: nobody had to, or has."""
    created_at: AwareDatetime
    """UTC."""
    created_by: str = ""
    """Name of the token that made it."""
    started_at: AwareDatetime | None = None
    """When it began to run. None: not yet."""
    ended_at: AwareDatetime | None = None
    """When it entered a final state. None: it is not over."""
    valid_until: AwareDatetime | None = None
    """It expires then. None: it was not submitted."""
    eta: AwareDatetime | None = None
    """When it would end if nothing fails; None when it waits for a person or is over."""


class ActionStep(Wire):
    """One step of one device."""

    at: AwareDatetime
    """When it entered the state."""
    state: ActionState
    """The state."""
    code: str = ""
    """A code of docs/codes.md. Empty: nothing failed."""
    message: Note = ""
    """For a person."""


class ActionView(Wire):
    """One device in a rollout, and why it is where it is."""

    device: Name
    """Its name."""
    wave: Integer | None = None
    """Index of its wave. None: it is in none."""
    state: ActionState
    """Where it is."""
    phase: Phase | None = None
    """The last that the device told."""
    failed_in: Phase | None = None
    """The phase in which it failed. None: it did not."""
    code: str = ""
    """A code of docs/codes.md. Empty: nothing failed."""
    message: Note = ""
    """For a person."""
    since: AwareDatetime
    """When it entered the state."""
    due: AwareDatetime | None = None
    """When it is counted as unknown."""
    why: str = ""
    """One sentence: why it waits, who or what unblocks it, since when."""
    variant: Name | None = None
    """What it gets. None: nothing fits."""
    generation: Integer = 1
    """Of the rollout, in which it was offered this."""
    attempt: Integer = 0
    """As in DesiredModel."""
    tries: Integer = 0
    """Attempts in this generation that the spec's retries asked for."""
    retry_at: AwareDatetime | None = None
    """It is tried again then."""
    previous: VersionName | None = None
    """What it returns to."""
    goes_back: bool = False
    """It was told to go back: its state speaks of the way back, and `committed` says that it is back."""
    left: ActionLeft | None = None
    """What it was when it was told so."""
    history: tuple[ActionStep, ...] = ()
    """The newest, oldest first."""
    forgotten: Integer = 0
    """Steps before those, which are kept no more."""


class CommandBody(Wire):
    """POST body of a command. `approve` and `deny` have their own: Approval."""

    command: Command
    """What is asked."""
    revision: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """The one that was seen; another one now is 412 and changes nothing."""
    force: bool = False
    """With `resume`: the current wave passes, whatever its gate says."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """With `retry`: only these; none named: all that failed."""
    note: Note = ""
    """For people; it stays in the history."""


class Approval(Wire):
    """POST body: it binds to the plan that was read; another plan now is 412."""

    plan: Digest
    """Digest of the plan that was read."""
    revision: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """The one that was seen; another one now is 412."""
    approve: bool = True
    """False: deny it."""
    note: Note = ""
    """For people; it stays in the history."""


class HistoryEntry(Wire):
    """One transition of a rollout."""

    at: AwareDatetime
    """When."""
    revision: Integer
    """After it."""
    generation: Integer = 1
    """After it."""
    before: RolloutState | None = None
    """None: it was made."""
    after: RolloutState
    """The state that it entered."""
    cause: str
    """The command, or the internal event."""
    by: str = ""
    """Whose token; empty: the registry itself."""
    reason: RolloutReason
    """Why."""
    note: Note = ""
    """What the person said."""


class RolloutEvent(Wire):
    """One line of the event stream, and the body of a webhook. At least once: a repeat has the same cursor."""

    cursor: Integer
    """Rises; `Last-Event-ID` or `?cursor=` goes on after it."""
    at: AwareDatetime
    """When it happened, UTC."""
    kind: str
    """rollout (a transition), wave, device."""
    rollout: str
    """Id of the rollout."""
    state: RolloutState
    """Of the rollout, after it."""
    revision: Integer
    """Of the rollout, after it."""
    reason: RolloutReason
    """Why the rollout is in its state."""
    wave: Integer | None = None
    """Index of the wave. None: it is not about one."""
    wave_state: WaveState | None = None
    """Of that wave, after it."""
    device: Name | None = None
    """Its name. None: it is not about one."""
    device_state: ActionState | None = None
    """Of that device, after it."""
    code: str = ""
    """Of the device; a code of docs/codes.md. Empty: nothing failed."""


class WebhookCreate(Wire):
    """Where events are POSTed. The answer has the secret that signs them, once."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://")]
    """The address; http or https."""
    kinds: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    """None named: rollout and wave."""


class WebhookView(Wire):
    """A webhook and how delivery goes."""

    name: Name
    """Unique."""
    url: str
    """Where events are POSTed."""
    kinds: tuple[str, ...] = ()
    """Which events; empty: rollout and wave."""
    cursor: Integer = 0
    """The last event that was taken."""
    failures: Integer = 0
    """In a row."""
    last_error: str = ""
    """Of the last delivery that failed. Empty: none did since the last success."""
    next_try: AwareDatetime | None = None
    """When it is delivered again. None: nothing waits for a retry."""
    lost: Integer = 0
    """Events that the registry forgot before they could be delivered."""
    disabled_at: AwareDatetime | None = None
    """Given up after too many failures in a row; a PUT switches it on again."""


class WebhookCreated(Wire):
    """The secret is shown only here."""

    webhook: WebhookView
    """What was made."""
    secret: str
    """Key of the header `modelfleet-signature` (docs/rollouts.md)."""
