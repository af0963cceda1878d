"""Changes that wait for a second person, where the registry's setting `rollouts.two_person` asks for one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.enums import StrEnum
from registry.contracts.wire import Name, Wire


class ChangeKind(StrEnum):
    """What somebody wants to do that changes what devices run, or who speaks for one."""

    DEPLOY = "deploy"
    """Set what one device should serve."""
    UNDEPLOY = "undeploy"
    """Take a model from one device."""
    CREDENTIAL = "credential"
    """Give a registered device a new credential."""
    REMOVE = "remove"
    """Forget a device."""
    UNYANK = "unyank"
    """Let a yanked version be deployed again."""


class ChangeState(StrEnum):
    """Where a change is."""

    WAITING = "waiting"
    """For another person."""
    APPROVED = "approved"
    """Whoever asked may do it, once, exactly as it was asked for."""
    DENIED = "denied"
    """Another person does not want it; it may be asked for again."""
    DONE = "done"
    """It was approved, and has happened."""


class ChangeView(Wire):
    """One change: what was asked for, by whom, and who decided."""

    id: Name
    """For the decision."""
    kind: ChangeKind
    """What is to be done."""
    subject: str
    """To what: a device, a device and a model, a model and a version."""
    details: str = ""
    """The rest of what was asked for, as JSON."""
    asked_by: str
    """Name of the token."""
    asked_person: str = ""
    """The person behind it. Empty: none is known."""
    asked_at: AwareDatetime
    """UTC."""
    expires_at: AwareDatetime
    """It waits, and may be done, until then."""
    state: ChangeState
    """Where it is."""
    decided_by: str = ""
    """The person who approved or denied it. Empty: nobody yet."""
    decided_at: AwareDatetime | None = None
    """None: not yet."""
    note: str = ""
    """Why it was decided so."""


class ChangeDecision(Wire):
    """Approve a change, or deny it."""

    approve: bool
    """False: deny it."""
    note: Annotated[str, Field(max_length=500)] = ""
    """Why."""
