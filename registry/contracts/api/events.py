"""The registry's HTTP API: what happened in the fleet, in one list: what devices told, and who did what."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.enums import StrEnum
from registry.contracts.wire import Name, VersionName, Wire


class EventSource(StrEnum):
    """Where an event is from."""

    DEVICE = "device"
    """A device told it: a step of a deployment, a worker that died, dropped results."""
    ROLLOUT = "rollout"
    """A rollout changed its state: by a person's command, or by itself."""
    ALIAS = "alias"
    """An alias was moved or removed."""
    DEPLOYMENT = "deployment"
    """What one slot of a device should serve was set. Only the newest of each slot is known, and only in the events of
    one device."""

    PERSON = "person"
    """A person did something else: yanked a version, registered or removed a device, changed labels, renewed a
    credential. Of labels that change on at most 20 devices each device has an event; of more there is one for all."""


class Severity(StrEnum):
    """How much an event matters."""

    INFO = "info"
    """It belongs to what goes as it should, or waits for a window, a lease or a person."""
    WARNING = "warning"
    """Something did not go as it should, and goes on; or a person withdrew something."""
    ERROR = "error"
    """Something failed, or went back."""


class FleetEvent(Wire):
    """One thing that happened."""

    id: str
    """Names it: `device:edge-1:3f…`, `rollout:r-…:4`, `alias:lenet:stable:2`, `deployment:edge-1:lenet`,
    `person:17`."""
    at: AwareDatetime
    """When the registry took or did it."""
    told_at: AwareDatetime | None = None
    """When it happened, by the device's clock. None: no device told it."""
    source: EventSource
    """Where it is from."""
    kind: str = ""
    """Of a device: `deployment`, `worker`, `job`, `outbox`, `agent`. Of a rollout: the command, or what made it change.
    Of an alias: `moved`, `removed`. Of a deployment: `set`. Of a person: `yanked`, `yank_undone`, `device_registered`,
    `device_removed`, `labels_changed`, `credential_renewed`."""
    severity: Severity = Severity.INFO
    """How much it matters."""
    device: Name | None = None
    """That it is about. None: no single one."""
    model: Name | None = None
    """That it is about. None: the agent as a whole."""
    version: VersionName | None = None
    """Of that model."""
    rollout: str | None = None
    """Id of the rollout that it belongs to. None: of none."""
    phase: str = ""
    """Of a device: the deployment's phase, or the part of the agent."""
    code: str = ""
    """A code of docs/codes.md. Empty: nothing failed."""
    message: str = ""
    """For a person."""
    by: str = ""
    """Whose token did it; empty: a device, or the registry itself."""
    before: str = ""
    """Of a rollout its state, of an alias its version, of a yank the reason that stood, before; empty: there was
    none, or it is not known."""
    after: str = ""
    """The same, afterwards."""
    note: str = ""
    """What the person said about it."""


class EventQuery(Wire):
    """Which events a list has, as its query; everything given must hold."""

    id: Annotated[str, Field(max_length=400)] = ""
    """Only this one."""
    source: EventSource | None = None
    """From where."""
    device: Name | None = None
    """About this device."""
    kind: Annotated[str, Field(max_length=64)] = ""
    """Of this kind."""
    code: Annotated[str, Field(max_length=64)] = ""
    """With this code; `any`: with any, that is, only what failed."""
    severity: Severity | None = None
    """So severe or more: `warning` has errors, too."""
    by: Annotated[str, Field(max_length=80)] = ""
    """Done by this person or program: the name of a token."""
    model: Name | None = None
    """About this model."""
    rollout: Annotated[str, Field(max_length=64)] = ""
    """Of this rollout: its id or its name."""
    since: AwareDatetime | None = None
    """Not before this time,"""
    until: AwareDatetime | None = None
    """and before this one."""
