"""What happens in rollouts as a stream: server-sent events with a cursor, and webhooks, signed and at least once."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.names import Name
from registry.contracts.rollout.states import ActionState, RolloutState, WaveState
from registry.contracts.rollout.views import RolloutReason
from registry.contracts.wire import Wire


class RolloutEvent(Wire):
    """One line of the event stream, and the body of a webhook. At least once: a repeat has the same cursor."""

    cursor: int
    """Rises; `Last-Event-ID` or `?cursor=` goes on after it."""
    at: AwareDatetime
    """When it happened, UTC."""
    kind: str
    """rollout (a transition), wave, device."""
    rollout: str
    """Id of the rollout."""
    state: RolloutState
    """Of the rollout, after it."""
    revision: int
    """Of the rollout, after it."""
    reason: RolloutReason
    """Why the rollout is in its state."""
    wave: int | None = None
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
    cursor: int = 0
    """The last event that was taken."""
    failures: int = 0
    """In a row."""
    last_error: str = ""
    """Of the last delivery that failed. Empty: none did since the last success."""
    next_try: AwareDatetime | None = None
    """When it is delivered again. None: nothing waits for a retry."""
    lost: int = 0
    """Events that the registry forgot before they could be delivered."""
    disabled_at: AwareDatetime | None = None
    """Given up after too many failures in a row; a PUT switches it on again."""


class WebhookCreated(Wire):
    """The secret is shown only here."""

    webhook: WebhookView
    """What was made."""
    secret: str
    """Key of the header `modelfleet-signature` (docs/rollouts.md)."""
