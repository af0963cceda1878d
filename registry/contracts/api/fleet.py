"""The registry's HTTP API: in which state each device is, and what the fleet is like as a whole.

How a state follows from what a device said and should serve: `registry/core/device_states.py`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.enums import StrEnum
from registry.contracts.rollout.states import RolloutState
from registry.contracts.wire import Integer, Name, VersionName, Wire


class ConnectionState(StrEnum):
    """Whether a device is there. Exactly one holds."""

    NEVER_SEEN = "never_seen"
    """It is registered, and never gave a sign of life."""
    ONLINE = "online"
    """It speaks as often as it should, and is connected to the broker."""
    HTTP_ONLY = "http_only"
    """It speaks as often as it should, but only over HTTP: it is not connected to the broker, so nobody can ask it for
    an inference."""
    LATE = "late"
    """Half of its patience is over without a sign of life; it still counts as online."""
    SILENT = "silent"
    """Its patience is over without a sign of life, and nobody said that its session ended: the host or its network is
    down, or its agent hangs."""
    OFFLINE = "offline"
    """Its session at the broker has ended, and it gave no sign of life since."""


class SlotState(StrEnum):
    """How far a device is with what it should serve: of one model, or the worst of all its models."""

    IDLE = "idle"
    """It should serve nothing, and serves nothing. Only of a whole device."""
    SERVING = "serving"
    """It serves what it should."""
    LEAVING = "leaving"
    """It still serves a model that it should no longer serve."""
    ASSIGNED = "assigned"
    """It has not said anything yet about the version that it should serve."""
    WAITING = "waiting"
    """The host's policy, or a paused rollout, holds the version back."""
    DOWNLOADING = "downloading"
    """It fetches and verifies the files."""
    TRYING = "trying"
    """The version warms up, runs in the shadow, or serves on probation."""
    RECOVERING = "recovering"
    """What it should serve was serving; the worker died and is being started again."""
    ROLLING_BACK = "rolling_back"
    """It puts its previous version back."""
    WENT_BACK = "went_back"
    """The version served, was judged bad, and the previous one serves again."""
    QUARANTINED = "quarantined"
    """The device refuses the version, which failed there before, until somebody asks for another attempt."""
    FAILING = "failing"
    """The version could not be made to serve. What served before still does."""
    DOWN = "down"
    """It should serve the model, failed to, and nothing serves instead."""


class DeviceSort(StrEnum):
    """The order of a list of devices; with `-` the other way round."""

    NAME = "name"
    """By name."""
    NAME_BACKWARDS = "-name"
    """From the last name to the first."""
    LAST_SEEN = "last_seen"
    """The longest silent first. Devices that are online are compared by a sign of life that may be older than their
    last one, by half of their patience at most; those that are late, silent or offline by their last one."""
    LAST_SEEN_BACKWARDS = "-last_seen"
    """Those that spoke last first."""
    CHANGED = "changed"
    """By the time at which what they serve, or how far they are with it, changed last; the longest unchanged first."""
    CHANGED_BACKWARDS = "-changed"
    """What changed last first."""


class SlotView(Wire):
    """One model on one device."""

    version: VersionName | None = None
    """What answers requests now. None: nothing does."""
    desired: VersionName | None = None
    """What should. None: the device should not serve the model."""
    state: SlotState
    """How far it is."""
    code: Annotated[str, Field(max_length=64)] = ""
    """Why it fails or went back: a code of docs/codes.md. Empty: it does neither."""
    changed_at: AwareDatetime
    """When one of these changed last, as the registry saw it."""


class VersionCount(Wire):
    """So many slots of the fleet."""

    model: Name
    """The model."""
    version: VersionName | None
    """What serves. None: nothing does."""
    desired: VersionName | None
    """What should serve. None: nothing should."""
    state: SlotState
    """How far they are."""
    hardware: str
    """Architecture and best usable target of the hosts: `aarch64/gpu`. Empty: not known yet."""
    devices: Integer
    """How many."""


MAX_VERSION_COUNTS = 2000
"""Rows of `FleetSummary.versions`."""


class FleetStorage(Wire):
    """What the registry keeps of models and validation sets."""

    blobs: Integer = 0
    """How many."""
    bytes: Integer = 0
    """Their sizes, each counted once."""
    damaged: Integer = 0
    """Blobs whose stored copy is known to be lost or wrong."""
    free_bytes: Integer | None = None
    """Room that is left where they are. None: the store does not say."""


class FleetSummary(Wire):
    """The whole fleet in figures. They were counted together, at one moment."""

    as_of: AwareDatetime
    """When they were counted: exact then. Changes since are not in them; a state that only time changes (`late`,
    `silent`) may be 20 s old besides."""
    devices: Integer
    """How many are registered."""
    connection: dict[ConnectionState, Integer] = Field(default_factory=dict)
    """Devices by connection state; those that no device is in are there with 0."""
    serving: dict[SlotState, Integer] = Field(default_factory=dict)
    """Devices by the worst state of what they serve, likewise."""
    behind: Integer = 0
    """Devices with a model of which something else serves than should."""
    failing: dict[str, Integer] = Field(default_factory=dict)
    """Devices by the code with which they fail or went back, the most first."""
    versions: tuple[VersionCount, ...] = ()
    """Slots by what serves and what should, the most first; at most MAX_VERSION_COUNTS."""
    versions_left_out: Integer = 0
    """Rows that are missing from `versions`."""
    rollouts: dict[RolloutState, Integer] = Field(default_factory=dict)
    """Rollouts by state; those that no rollout is in are missing."""
    storage: FleetStorage = FleetStorage()
    """What models take."""
    certificates: dict[str, AwareDatetime] = Field(default_factory=dict)
    """When a certificate ends, by whose it is: `broker`, as it shows it now; `broker_authority` and `broker_client` of
    the registry's settings; `devices_broker_authority`, `devices_broker_client`, `devices_registry_authority`: of the
    devices that reported in the last two hours, the one that ends first."""
