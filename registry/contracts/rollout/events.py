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
    kind: str
    """rollout (a transition), wave, device."""
    rollout: str
    state: RolloutState
    revision: int
    reason: RolloutReason
    wave: int | None = None
    wave_state: WaveState | None = None
    device: Name | None = None
    device_state: ActionState | None = None
    code: str = ""


class WebhookCreate(Wire):
    """Where events are POSTed. The answer has the secret that signs them, once."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://")]
    kinds: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    """None named: rollout and wave."""


class WebhookView(Wire):
    """A webhook and how delivery goes."""

    name: Name
    url: str
    kinds: tuple[str, ...] = ()
    cursor: int = 0
    """The last event that was taken."""
    failures: int = 0
    """In a row."""
    last_error: str = ""
    next_try: AwareDatetime | None = None
    lost: int = 0
    """Events that the registry forgot before they could be delivered."""
    disabled_at: AwareDatetime | None = None
    """Given up after too many failures in a row; a PUT switches it on again."""


class WebhookCreated(Wire):
    """The secret is shown only here."""

    webhook: WebhookView
    secret: str
