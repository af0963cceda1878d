"""The registry's HTTP API: devices, what each of them should serve, and what it says when it cannot use MQTT."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field, field_validator

from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import Event, Health, Presence, Profile, Reported
from registry.contracts.fit.platforms import Platform
from registry.contracts.names import Name, VersionName
from registry.contracts.wire import Wire


class DeviceCreate(Wire):
    """Register a device, or change its labels. The answer of a new one has its credential, once."""

    labels: dict[str, str] = Field(default_factory=dict)


class DeviceCreated(Wire):
    """The credential is shown only here; the registry keeps its hash."""

    device: Name
    token: str


class DeviceView(Wire):
    """A device as the registry knows it."""

    name: Name
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: AwareDatetime
    last_seen: AwareDatetime | None = None
    """Its last sign of life, over MQTT or HTTP."""
    online: bool | None = None
    """It gave one, its session has not ended since, and its patience is not over. None: this registry does not say."""
    expires_at: AwareDatetime | None = None
    """It counts as offline then, unless it gives another sign of life."""
    rivals: tuple[str, ...] = ()
    """The sessions of two agents that run under this one name; empty where there is one agent, as it should be."""
    presence: Presence | None = None
    """What the broker said last of its session; it may be out of date: `online` decides."""
    reported: Reported | None = None
    facts: Platform | None = None
    facts_at: AwareDatetime | None = None
    health: Health | None = None
    """The newest."""
    generation: int = 0
    epoch: str = ""
    """Of the registry's database. A report answers `generation` only when it has this epoch, or none."""
    epoch_since: AwareDatetime | None = None
    epoch_reason: str = ""
    desired: dict[Name, VersionName] = Field(default_factory=dict)


class Deployment(Wire):
    """PUT body: what one slot of a device should serve. `version` may be an alias, resolved once, now."""

    version: VersionName
    variant: Name | None = None
    """Pin a variant; None: the best that fits."""
    profile: Profile = Profile.THROUGHPUT
    batching: BatchingMode = BatchingMode.AUTO
    """`off`: one request at a time, whatever the manifest permits."""
    force: bool = False
    """Assign although no variant fits the facts that the registry knows."""
    retry: bool = False
    """Another attempt: also of a version that the device has put into quarantine."""
    policy: DeploymentPolicy = DeploymentPolicy()
    """How the device carries it out. `hold` is a rollout's."""

    @field_validator("policy")
    @classmethod
    def _is_not_held(cls, policy: DeploymentPolicy) -> DeploymentPolicy:
        if policy.hold:
            raise ValueError("hold is a rollout's: pausing it sets it, resuming takes it away")
        return policy


class DeploymentView(Wire):
    """What a slot should serve, and who said so."""

    device: Name
    model: Name
    version: VersionName
    variant: Name | None
    """None: the facts are not known yet; the agent will choose."""
    generation: int
    set_at: AwareDatetime
    set_by: str = ""
    note: str = ""
    policy: DeploymentPolicy = DeploymentPolicy()


class ReportsTaken(Wire):
    """The answer to a device's reports."""

    facts_wanted: bool = False
    """The registry does not have the facts whose digest was reported: the device sends them."""


class DeviceReports(Wire):
    """POST body of a device: what it would have sent over MQTT. Taken whole, idempotent."""

    reported: Reported | None = None
    health: Annotated[tuple[Health, ...], Field(max_length=100)] = ()
    events: Annotated[tuple[Event, ...], Field(max_length=1000)] = ()
