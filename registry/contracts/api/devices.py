"""The registry's HTTP API: devices, what each of them should serve, and what it says when it cannot use MQTT; one-time
work for devices; what is kept of their health, counts and results.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, Field, field_validator

from registry.contracts.api.agents import AgentConnection
from registry.contracts.api.fleet import ConnectionState, DeviceSort, SlotState, SlotView
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.catalogue.manifest import Format
from registry.contracts.device.deployments import DeploymentPolicy, Job, JobKind, JobStatus
from registry.contracts.device.messages import MAX_GENERATION, Event, Health, Presence, Profile, Reported
from registry.contracts.fit.platforms import Platform
from registry.contracts.rollout.spec import MAX_SELECTOR_CHARS
from registry.contracts.wire import MAX_INTEGER, Digest, Integer, Name, VersionName, Wire


class JobRequest(Wire):
    """POST body: one-time work for a device."""

    device: Name
    """Who does it."""
    kind: JobKind
    """What to do."""
    model: Name
    """The model."""
    version: VersionName
    """May be an alias, resolved once, now."""
    source: Name | None = None
    """Convert: the variant to start from; None: the device chooses the one that leads to `to`."""
    to: Format | None = None
    """Convert: the format to make."""
    options: Annotated[dict[str, str], Field(max_length=32)] = Field(default_factory=dict)
    """Convert: the tool's options by their own names."""
    dataset: Digest | None = None
    """Evaluate: the blob of the validation set."""
    dataset_bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Evaluate: the size of the validation set's blob."""
    dataset_name: Name | None = None
    """Evaluate: the name under which that blob is published, and its score kept; None: any that it has."""
    metric: Annotated[str, Field(max_length=64)] = ""
    """Evaluate: `accuracy`, ..."""
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 3600.0
    """Seconds that it may run on the device."""


class JobView(Wire):
    """A job and how far it is."""

    id: Name
    """Unique, chosen by the registry."""
    device: Name
    """Who does it."""
    job: Job
    """What to do."""
    status: JobStatus
    """How far it is."""
    created_at: AwareDatetime
    """UTC."""
    created_by: str = ""
    """Name of the token that asked for it."""
    updated_at: AwareDatetime
    """When the device last said something of it, or it was cancelled."""
    expires_at: AwareDatetime
    """A job that is not over by then has failed."""


class HealthHour(Wire):
    """What stays of an hour of a device's health when the single reports are gone."""

    hour: AwareDatetime
    """When it began, UTC."""
    samples: Integer
    """Reports in it."""
    cpu_fraction_mean: float | None = None
    """Mean of `Health.cpu_fraction`. None: no report had it."""
    peaks: dict[str, float] = Field(default_factory=dict)
    """The highest cpu_fraction, rss_bytes, load_1m, temperature_c (of any sensor)."""
    troughs: dict[str, float] = Field(default_factory=dict)
    """The lowest memory_free_bytes, disk_free_bytes."""
    models: dict[Name, dict[str, float]] = Field(default_factory=dict)
    """By model: requests and errors (sums), p99_us and queue_depth (the highest)."""


class CountView(Wire):
    """Requests by device and version, from the devices' own totals."""

    device: Name
    """Its name."""
    model: Name
    """The model."""
    version: VersionName
    """The version."""
    requests: Integer
    """Answered, with a result or an error."""
    errors: dict[str, Integer] = Field(default_factory=dict)
    """By code."""
    first_at: AwareDatetime
    """When the first of them was reported."""
    last_at: AwareDatetime
    """When the last of them was reported."""


class ResultView(Wire):
    """One recorded result."""

    id: Integer
    """Rises."""
    device: Name
    """Who answered."""
    model: Name
    """The model."""
    version: VersionName | None
    """What answered. None: the result does not say."""
    at: AwareDatetime
    """When the registry got it, UTC."""
    request_id: str = ""
    """The request's own id. Empty: it had none."""
    code: str = ""
    """The error code; empty for a result."""
    content_type: str
    """As the agent sent it."""
    body: Any
    """The JSON result, or base64 text of a binary one; None when it was too long to keep."""
    size: Integer = 0
    """Bytes of the result as it was sent."""
    header_length: Integer | None = None
    """Bytes of a binary result's JSON header (after `OIPB` and the length, where it starts with them)."""
    note: str = ""
    """Why `body` is None. Empty: it is whole."""
    rollout: str | None = None
    """Id of the rollout that put the version there, also after it ended; None: none did."""


class DeviceCreate(Wire):
    """Register a device, or change its labels. The answer of a new one has its credential, once."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Key to value; selectors look at them. They replace those of before."""


class DeviceCreated(Wire):
    """The credential is shown only here; the registry keeps its hash."""

    device: Name
    """Its name."""
    token: str
    """Its credential, for registry.token of the agent."""
    connection: AgentConnection | None = None
    """Where its agent finds the registry and the broker. None: this registry does not say."""


class DeviceView(Wire):
    """A device as the registry knows it."""

    name: Name
    """Its name."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Key to value."""
    created_at: AwareDatetime
    """When it was registered, UTC."""
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
    """Its newest report. None: it never reported."""
    facts: Platform | None = None
    """Of the host, as it told them last."""
    facts_at: AwareDatetime | None = None
    """When the registry got them."""
    health: Health | None = None
    """The newest."""
    generation: Integer = 0
    """Of its desired state. 0: nothing was ever wanted from it."""
    epoch: str = ""
    """Of the registry's database. A report answers `generation` only when it has this epoch, or none."""
    epoch_since: AwareDatetime | None = None
    """When this epoch began."""
    epoch_reason: str = ""
    """Why it began: the database was made, or put back from a backup."""
    desired: dict[Name, VersionName] = Field(default_factory=dict)
    """Model to the version that it should serve."""
    connection: ConnectionState | None = None
    """Whether it is there. None: this registry does not say."""
    state: SlotState | None = None
    """The worst of its slots, or `failing` where the whole agent has a fault. None: this registry does not say."""
    code: str = ""
    """Why it fails or went back; empty: it does neither."""
    hardware: str = ""
    """Architecture and best usable target: `aarch64/gpu`. Empty: its facts are not known yet."""
    changed_at: AwareDatetime | None = None
    """When its state or one of its slots changed last. None: this registry does not say."""
    slots: dict[Name, SlotView] = Field(default_factory=dict)
    """By model: what serves, what should, and how far that is."""


class DeviceQuery(Wire):
    """Which devices a list has, as its query; everything given must hold."""

    state: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)] = Field(default_factory=list)
    """A `ConnectionState` or a `SlotState`, may be repeated: in one of these connection states, and in one of these
    states of what they serve."""
    serves: Annotated[str, Field(max_length=129)] = ""
    """`MODEL` or `MODEL@VERSION`: it answers requests for that now."""
    failing: Annotated[str, Field(max_length=64)] = ""
    """The code with which it fails or went back; `any`: any code."""
    behind: bool | None = None
    """True: one of its models is not yet served, or not any more, in the version that it should be. False: none is."""
    selector: Annotated[str, Field(max_length=MAX_SELECTOR_CHARS)] = ""
    """A condition on labels, as a rollout's: `site=paris,ring!=canary`."""
    label: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=16)] = Field(default_factory=list)
    """`key=value`, may be repeated."""
    online: bool | None = None
    """True: it is `online`, `http_only` or `late` at this moment. False: it is not."""
    name: Annotated[str, Field(max_length=64)] = ""
    """A part of its name; with `*` at the end, the beginning of its name."""
    sort: DeviceSort = DeviceSort.NAME
    """The order."""
    brief: bool = False
    """True: `presence`, `reported`, `facts` and `health` are left out, which makes a page a tenth as long."""


class Deployment(Wire):
    """PUT body: what one slot of a device should serve. `version` may be an alias, resolved once, now."""

    version: VersionName
    """The version to serve."""
    variant: Name | None = None
    """Pin a variant; None: the best that fits."""
    profile: Profile = Profile.THROUGHPUT
    """How the backend uses the cores."""
    batching: BatchingMode = BatchingMode.AUTO
    """`off`: one request at a time, whatever the manifest permits."""
    force: bool = False
    """Assign although no variant fits the facts that the registry knows."""
    retry: bool = False
    """Another attempt: also of a version that the device has put into quarantine."""
    policy: DeploymentPolicy = DeploymentPolicy()
    """How the device carries it out. `hold` is a rollout's."""
    seen: Annotated[int, Field(ge=0, le=MAX_GENERATION)] | None = None
    """What the caller saw in the slot: its `DeploymentView.generation`; 0: nothing. Where another one stands by now,
    412. The same as If-Match, or as `If-None-Match: *`. None: whatever stands is replaced, and the answer says what
    did."""

    @field_validator("policy")
    @classmethod
    def _is_not_held(cls, policy: DeploymentPolicy) -> DeploymentPolicy:
        if policy.hold:
            raise ValueError("hold is a rollout's: pausing it sets it, resuming takes it away")
        return policy


class DeploymentBefore(Wire):
    """What stood in a slot."""

    version: VersionName
    """What it should serve then."""
    set_at: AwareDatetime
    """UTC."""
    set_by: str = ""
    """Name of the token, or of the rollout."""


class DeploymentView(Wire):
    """What a slot should serve, and who said so."""

    device: Name
    """Its name."""
    model: Name
    """Which slot."""
    version: VersionName
    """What it should serve."""
    variant: Name | None
    """None: the facts are not known yet; the agent will choose."""
    generation: Integer
    """Of the device's desired state that has it."""
    set_at: AwareDatetime
    """UTC."""
    set_by: str = ""
    """Name of the token, or of the rollout."""
    note: str = ""
    """For people: what may surprise."""
    policy: DeploymentPolicy = DeploymentPolicy()
    """How the device carries it out."""
    replaced: DeploymentBefore | None = None
    """In the answer to a PUT: what stood there before. None: nothing did."""


class ReportsTaken(Wire):
    """The answer to a device's reports."""

    facts_wanted: bool = False
    """The registry does not have the facts whose digest was reported: the device sends them."""


class DeviceReports(Wire):
    """POST body of a device: what it would have sent over MQTT. Taken whole, idempotent."""

    reported: Reported | None = None
    """What serves now. None: as before."""
    health: Annotated[tuple[Health, ...], Field(max_length=100)] = ()
    """Oldest first."""
    events: Annotated[tuple[Event, ...], Field(max_length=1000)] = ()
    """Oldest first."""
