"""The documents on the control topics: presence, desired, reported, events, health. Times are UTC."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from registry.contracts.catalogue.manifest import Parity
from registry.contracts.device.deployments import (
    MAX_ATTEMPT,
    MAX_JOBS,
    DeploymentPolicy,
    DeploymentProgress,
    Job,
    JobStatus,
)
from registry.contracts.enums import StrEnum, newer
from registry.contracts.fit.platforms import Platform
from registry.contracts.wire import MAX_INTEGER, Digest, Integer, Name, VersionName, Wire

MAX_CONTROL_BYTES = 256 << 10
"""Longer control messages are refused before they are parsed."""

Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
MAX_GENERATION = 1 << 53
"""The registry takes no report of a later one: a device that believed such a document would not be heard again."""


class Presence(Wire):
    """Is the agent connected? Retained; the will says `online: false` with the same session id."""

    device: Name
    """The device's name."""
    online: bool
    """True: a session of the agent is connected."""
    session_id: Annotated[str, Field(max_length=64)]
    """New at each start of the agent. A death with another session id than the last birth's is ignored."""
    agent_version: str = ""
    """Version of the agent's package. Empty: it did not say."""
    at: AwareDatetime | None = None
    """When it came up; absent in a will, which is written before it is true."""


class Profile(StrEnum):
    """How a backend uses the host's cores."""

    THROUGHPUT = "throughput"
    """One thread per run, one caller per core."""
    LATENCY = "latency"
    """All cores for one run."""


class DesiredModel(Wire):
    """What one model's slot on one device should serve."""

    version: VersionName
    """The version to serve."""
    manifest: Digest
    """The manifest's bytes are at `/v1/manifests/{digest}`."""
    variant: Name | None = None
    """The registry's choice for the facts it knew. None: the agent chooses by the same function."""
    rollout: str | None = None
    """Id of the rollout that wants it. None: a deployment by hand."""
    profile: Annotated[Profile, BeforeValidator(newer(Profile, Profile.THROUGHPUT))] = Profile.THROUGHPUT
    """How the backend uses the cores. A profile that the agent does not know is `throughput`."""
    record_results: bool = False
    """The agent also publishes each result on its results topic, for the registry to keep."""
    attempt: Annotated[int, Field(ge=0, le=MAX_ATTEMPT)] = 0
    """Raised by a person's retry: a version that this device has put into quarantine is tried again."""
    policy: DeploymentPolicy = DeploymentPolicy()
    """How the device goes from what serves to this."""


class DocumentSignature(Wire):
    """One signature of a desired document."""

    keyid: Annotated[str, Field(max_length=64)]
    """Of the key, as the director's root names it."""
    sig: Annotated[str, Field(max_length=8192)]
    """Hexadecimal; of the canonical JSON (sorted keys, no spaces, UTF-8) of the document without `signatures`."""


class Desired(Wire):
    """The whole desired state of a device. Level-triggered: the newest generation wins, nothing is replayed."""

    schema_version: Literal[1] = 1
    """Of this document."""
    device: Name
    """For whom it is."""
    generation: Annotated[int, Field(ge=0, le=MAX_GENERATION)]
    """Only rises within an epoch. A document with a lower one than was seen is ignored."""
    epoch: Annotated[str, Field(max_length=64)] = ""
    """Random, of the life of the registry's database: another one says that it was put back from a backup, and that the
    generations seen so far mean nothing. A device believes an epoch that it does not know only where the registry
    itself said it, over HTTP. Empty: of an older registry."""
    issued_at: AwareDatetime
    """When the registry made this generation, UTC."""
    expires_at: AwareDatetime | None = None
    """After it nothing new is installed; what serves goes on serving."""
    models: Annotated[dict[Name, DesiredModel], Field(max_length=256)] = Field(default_factory=dict)
    """What each slot should serve, by model. A model that is not here is unloaded."""
    jobs: Annotated[dict[Name, Job], Field(max_length=MAX_JOBS)] = Field(default_factory=dict)
    """One-time work, by id. It is done once; a job that is gone from the document is cancelled."""
    epoch_began: AwareDatetime | None = None
    """When the registry's epoch began, UTC. A device that checks signatures orders documents by it, then by
    `generation`: an earlier epoch is never believed again. None: the document is not signed."""
    expires: AwareDatetime | None = None
    """Until when the signature holds, UTC; the registry signs the same generation again in time. A device that checks
    signatures installs nothing new after it; what serves goes on. None: the document is not signed."""
    signatures: Annotated[tuple[DocumentSignature, ...], Field(max_length=8)] = ()
    """By keys of the director. Empty: the document is not signed."""


class ServingState(StrEnum):
    """What a model's slot is doing, as a report may say it."""

    PENDING = "pending"
    """Assigned, not yet serving anything."""
    SERVING = "serving"
    """The desired version serves."""
    CHANGING = "changing"
    """A version serves; the desired one is on its way."""
    RECOVERING = "recovering"
    """The worker died and is being started again."""
    FAILED = "failed"
    """The desired version cannot serve here; `version` is what serves instead, if anything."""


class Fault(Wire):
    """What went wrong, with a stable code from `registry.contracts.codes`."""

    code: str
    """A code of docs/codes.md. Empty: only a message."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """What happened, why, and what to do, for a person."""
    attempts: Count = 0
    """So many tries failed so far."""


class ReportedModel(Wire):
    """What really serves in one slot."""

    state: ServingState
    """What the slot is doing."""
    version: VersionName | None = None
    """The version whose worker answers requests now; None when nothing does."""
    manifest: Digest | None = None
    """The manifest of `version`."""
    variant: Name | None = None
    """Name of the variant that serves."""
    variant_digest: Digest | None = None
    """Canonical digest of that variant."""
    backend: str | None = None
    """Backend and provider that run it, e.g. `onnxruntime/CPUExecutionProvider`."""
    execution: Literal["process", "inline"] | None = None
    """Where the model runs: in a process of its own, or in the agent's."""
    max_batch: Integer | None = None
    """The per-model limit found by measuring at warm-up."""
    batching: Annotated[str, Field(max_length=600)] = ""
    """Whether requests are joined into one run, and why or why not. Empty: this agent does not say."""
    since: AwareDatetime | None = None
    """When `version` began to serve, UTC."""
    rollout: Annotated[str, Field(max_length=64)] | None = None
    """Id of the rollout that put `version` here, also after it ended; None: none did."""
    desired_version: VersionName | None = None
    """The version of the desired state that the agent follows. None: none is wanted."""
    fault: Fault | None = None
    """Why the desired version does not serve. None: nothing is wrong."""
    parity: Parity | None = None
    """Of what serves, measured on this host against the version's golden vectors at warm-up."""
    deployment: DeploymentProgress | None = None
    """The deployment under way, or how the last one ended."""


class TrustState(StrEnum):
    """How a device stands to signed metadata."""

    UNSIGNED = "unsigned"
    """It checks no signatures: `[trust] root` is not set there."""
    SIGNED = "signed"
    """It takes only what is signed, and what it has is fresh."""
    STALE = "stale"
    """It takes only what is signed, and what it has is not known to be fresh: nothing new is installed."""


class DeviceTrust(Wire):
    """What a device says of the signatures that it checks."""

    state: Annotated[TrustState, BeforeValidator(newer(TrustState, TrustState.STALE))]
    """In one word. A state that the reader does not know is `stale`."""
    stale_since: AwareDatetime | None = None
    """When the first of what has to be fresh expired, UTC. None: nothing has, or the device never had any."""
    why: Annotated[str, Field(max_length=600)] = ""
    """Why the state is `stale`, and what the last attempt to mend it met. Empty: there is nothing to say."""
    expires: AwareDatetime | None = None
    """When the first of what has to be fresh expires, unless it is signed again, UTC. None: nothing is there."""
    image_root: Count = 0
    """Version of the root of the image repository that it trusts. 0: none."""
    director_root: Count = 0
    """Of the director's root."""
    refused: Annotated[dict[Annotated[str, Field(max_length=32)], Count], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """Desired documents that it refused since its session began, by cause: `unsigned`, `signature`, `form`, `device`,
    `rollback`, `conflict`. Programs pass over causes that they do not know."""


class Reported(Wire):
    """What the agent says is so. Retained."""

    schema_version: Literal[1] = 1
    """Of this document."""
    device: Name
    """Who reports."""
    session_id: str
    """Of the agent's start, as in Presence."""
    generation: Count
    """The desired generation that this answers; 0 when none was ever seen."""
    epoch: Annotated[str, Field(max_length=64)] = ""
    """Of that generation."""
    epoch_began: AwareDatetime | None = None
    """Of the latest signed document that it accepted. A registry that was put back from a backup begins a later epoch.
    None: it checks no signatures, or has accepted none."""
    at: AwareDatetime
    """When it was written, by the device's clock."""
    facts_digest: Digest
    """Digest of the host's facts: hosts with the same digest are one class."""
    facts: Platform | None = None
    """Sent with every report until the registry has them, and again when it asks (`Notice.facts_wanted`); a reader
    compares the digest."""
    models: dict[Name, ReportedModel] = Field(default_factory=dict)
    """What serves, by model."""
    jobs: Annotated[dict[Name, JobStatus], Field(max_length=MAX_JOBS)] = Field(default_factory=dict)
    """How far each job of the desired state is, by id."""
    heard_every_s: Annotated[float, Field(ge=0, le=7 * 86400)] | None = None
    """The agent gives a sign of life at least so often, in seconds. None: it does not say."""
    fault: Fault | None = None
    """What keeps the whole agent from following its desired state now: a full disk, a broken journal."""
    trust: DeviceTrust | None = None
    """What it says of signatures. None: an agent that knows of none; it checks none."""


class Notice(Wire):
    """The registry asks a device for something over MQTT; not retained, and never an order: what should be so stands in
    the desired state."""

    device: Name
    """For whom it is."""
    facts_wanted: bool = False
    """The registry does not have the facts whose digest the device reports."""
    poll: bool = False
    """The broker cannot carry this device's desired state: ask for it over HTTP."""


class Event(Wire):
    """One step of a deployment, or another thing worth telling. Kept in the agent's outbox until taken."""

    event_id: Annotated[str, Field(max_length=64)]
    """Unique; a repeat is the same event again."""
    seq: Count
    """Rises per device across restarts."""
    at: AwareDatetime
    """When it happened, by the device's clock."""
    kind: Annotated[str, Field(max_length=64)]
    """`deployment`, `worker`, `job`, `outbox`, `agent`."""
    model: Name | None = None
    """The model that it is about. None: the agent as a whole."""
    version: VersionName | None = None
    """The version that was wanted then."""
    generation: Count = 0
    """The desired generation that was followed then. 0: none."""
    rollout: str | None = None
    """Id of the rollout that wanted it. None: none did."""
    phase: Annotated[str, Field(max_length=64)] = ""
    """The deployment's phase, or what part of the agent it concerns."""
    code: Annotated[str, Field(max_length=64)] = ""
    """A code of docs/codes.md. Empty: nothing failed."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """For a person."""


class Quantiles(Wire):
    """Microseconds over the report's window, from a histogram with at most 5 % error."""

    p50: float = 0
    """Median."""
    p90: float = 0
    """90th percentile."""
    p99: float = 0
    """99th percentile."""
    max: float = 0
    """The largest."""


class DurationTotals(Wire):
    """How long things took since the session began, in few buckets."""

    counts: Annotated[tuple[Count, ...], Field(max_length=64)] = ()
    """So many took up to the first of `DURATION_BOUNDS_S` (0.0002, 0.0005, 0.001, 0.002, 0.005, and so on to 10
    seconds), up to the second and over the first, and so on; at last those over the last bound. Zeros at the end are
    left out. A reader passes over what is longer than it knows bounds for."""
    sum_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """All of them together, seconds."""


class ModelHealth(Wire):
    """One model on one device. Counters are totals since the session began; quantiles cover the window."""

    version: VersionName | None = None
    """The version that serves now. None: nothing does."""
    rollout: Annotated[str, Field(max_length=64)] | None = None
    """Id of the rollout that put it there, also after it ended; None: none did."""
    requests: Count = 0
    """Answered, with a result or an error."""
    errors: dict[str, Count] = Field(default_factory=dict)
    """By code."""
    expired: Count = 0
    """Dropped unrun because their deadline had passed."""
    duplicates: Count = 0
    """Requests whose id was seen before: they were answered again and not run again."""
    latency_us: Quantiles = Quantiles()
    """From the request's last byte to the reply handed to the socket."""
    run_us: Quantiles = Quantiles()
    """Of one batch in the backend."""
    queue_depth: Count = 0
    """Requests that wait or run now."""
    queue_limit: Count = 0
    """The most requests of one item that may wait or run (of any form, when the model has no fixed size); further ones
    are answered `overloaded`. 0: nothing serves."""
    batch_sizes: dict[str, Count] = Field(default_factory=dict)
    """Batch size to how many batches."""
    worker_restarts: Count = 0
    """Starts of the worker after it died."""
    batching: Annotated[str, Field(max_length=600)] = ""
    """Whether requests are joined into one run, and why or why not. Empty: this agent does not say."""
    target: Annotated[str, Field(max_length=32)] = ""
    """Of the variant that serves: `cpu`, `gpu` and so on. Empty: nothing serves, or this agent does not say."""
    latency: DurationTotals = DurationTotals()
    """As `latency_us`."""
    queue_wait: DurationTotals = DurationTotals()
    """From the request's last byte to the run that takes it."""
    run: DurationTotals = DurationTotals()
    """As `run_us`."""
    decode: DurationTotals = DurationTotals()
    """Of pictures and long JSON in the decoders."""
    not_finite: Count | None = None
    """Results with a NaN or an infinity in a floating-point output that neither its golden vectors hold nor the version
    before answered. Looked for only while a version has still to prove itself (its probation), and while its successor
    is on its way, so it says nothing of other requests. None: this agent does not look."""


class Health(Wire):
    """Periodic measures of one agent."""

    schema_version: Literal[1] = 1
    """Of this document."""
    device: Name
    """Who reports."""
    session_id: str
    """Of the agent's start, as in Presence."""
    seq: Count
    """Rises within a session; the registry drops what it has seen."""
    at: AwareDatetime
    """When it was measured, by the device's clock."""
    window_s: float
    """Seconds since the report before."""
    uptime_s: float
    """Seconds since the agent started."""
    cpu_fraction: float | None = None
    """Of all cores this agent may use, agent and workers together, over the window."""
    rss_bytes: Integer | None = None
    """Agent and workers; pages they share are counted once where the kernel tells (PSS)."""
    memory_free_bytes: Integer | None = None
    """What the agent could still use, by the kernel and its cgroup."""
    disk_free_bytes: Integer | None = None
    """Free on the disk with the agent's data."""
    load_1m: float | None = None
    """The host's load average over one minute."""
    temperatures_c: dict[str, float] = Field(default_factory=dict)
    """Sensor name to degrees Celsius, where the host tells."""
    outbox_queued: Count = 0
    """Messages that wait on the disk for the broker."""
    outbox_dropped: Count = 0
    """Messages that the full outbox dropped, or the disk lost."""
    replies_dropped: Count = 0
    """QoS 0 replies that were lost with the connection."""
    replies_refused: Count = 0
    """QoS 1 messages that the broker refused or does not take, or that would have ended its connections for hours."""
    subscriptions_refused: Count = 0
    """Topic filters that the broker refused: what comes on them does not reach the device."""
    results_unwritten: Count = 0
    """Results that the disk does not take now; they wait in memory, and their requests are not acknowledged."""
    mqtt_reconnects: Count = 0
    """Connections to the broker after the first."""
    damaged: Annotated[dict[str, Count], Field(max_length=16)] = Field(default_factory=dict)
    """What was found damaged on this host's disk since the agent started, by kind: `cache`, `engines` (both are brought
    back), `journal`, `outbox` (what could be read was kept), `probe`, `trust` (signed metadata)."""
    broker_fault: Annotated[str, Field(max_length=600)] = ""
    """Why the device is not connected to the broker, after the address that it tries. Empty: it is, or does not say."""
    certificates: Annotated[dict[Annotated[str, Field(max_length=32)], AwareDatetime], Field(max_length=8)] = Field(
        default_factory=dict
    )
    """When the certificates end that this agent uses, by use: `broker_authority`, `broker_client`,
    `registry_authority`; of a file with several the first that ends. Programs pass over uses that they do not know."""
    data_path: str = ""
    """`fast`, or `public` when this paho lacks the member that the fast path needs."""
    data_path_reason: Annotated[str, Field(max_length=600)] = ""
    """Why it is not `fast`; empty: it is."""
    counts: Annotated[dict[Annotated[str, Field(max_length=128)], Count], Field(max_length=512)] = Field(
        default_factory=dict
    )
    """Figures of docs/metrics.md for which there is no field here, by `name` or `name:label`; those that are 0 are left
    out. Totals are since the session began. Programs pass over names that they do not know."""
    models: dict[Name, ModelHealth] = Field(default_factory=dict)
    """By model."""
