"""The registry's HTTP API: bodies and answers. Errors are problem+json (RFC 9457).

Bodies are JSON but for blobs and uploads. Lists answer a `Page`. Who may do what: see `Scope`.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, Field

from registry.contracts.digest import Digest
from registry.contracts.enums import StrEnum
from registry.contracts.golden import Parity
from registry.contracts.jobs import Job, JobKind, JobStatus
from registry.contracts.manifest import FileRef, Format, Target, Variant
from registry.contracts.messages import Event, Health, Presence, Profile, Reported
from registry.contracts.names import Name, VersionName
from registry.contracts.platforms import Platform
from registry.contracts.wire import Wire

UPLOAD_OFFSET = "upload-offset"
"""Header of upload requests and answers: the byte at which the next one starts. The server states, the client obeys."""
MAX_PAGE = 500


class Scope(StrEnum):
    """What a token may do. `admin` may do everything; a `device` token acts only for its own device."""

    READ = "read"
    PUBLISH = "publish"
    """Upload blobs, publish versions, move aliases, change model settings, delete."""
    DEPLOY = "deploy"
    """Register devices and set what they should serve."""
    ADMIN = "admin"
    """Also manage tokens."""
    DEVICE = "device"


class Problem(Wire):
    """RFC 9457 with a stable code."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    code: str
    """Stable: not_found, conflict, precondition_failed, invalid, unauthorized, forbidden, too_large, digest_mismatch,
    offset_mismatch, insufficient_storage, in_use, busy, timeout, method_not_allowed, range_not_satisfiable,
    internal."""
    errors: tuple[str, ...] = ()
    """The single faults of an invalid body, or the differences of a conflict."""


Item = TypeVar("Item")


class Page(Wire, Generic[Item]):
    """Part of a list; `next` goes into `?cursor=` for the rest, None at the end. `?limit=` is at most MAX_PAGE."""

    items: tuple[Item, ...]
    next: str | None = None


class VariantView(Wire):
    """One variant in a listing."""

    name: Name
    format: Format
    target: Target
    size: int
    digest: Digest


class VersionView(Wire):
    """A published version. The whole manifest is at `manifest_path(digest)`."""

    model: Name
    version: VersionName
    manifest: Digest
    created_at: AwareDatetime
    created_by: str = ""
    """The name of the token that published it."""
    size: int
    variants: tuple[VariantView, ...] = ()
    aliases: tuple[Name, ...] = ()
    revision: int = 0
    """How often variants were added since it was published."""


class ModelView(Wire):
    """A model, its settings and its newest version."""

    name: Name
    created_at: AwareDatetime
    versions: int
    latest: VersionView | None = None
    aliases: dict[Name, VersionName] = Field(default_factory=dict)
    record_results: bool = False
    result_retention_hours: int = 24


class ModelSettings(Wire):
    """PATCH body; an absent field stays as it is."""

    record_results: bool | None = None
    result_retention_hours: Annotated[int, Field(ge=1, le=24 * 365)] | None = None


class PublishAnswer(Wire):
    """201 when it is new, 200 when the same content was there already."""

    version: VersionView
    created: bool
    warnings: tuple[str, ...] = ()
    """What may surprise: a tie between variants, a variant that fits no device that the registry knows."""


class UploadRequest(Wire):
    """Begin an upload: the client says which blob it will send."""

    digest: Digest
    size: Annotated[int, Field(ge=0, le=1 << 50)]


class UploadView(Wire):
    """An upload session. `complete` means the blob is there: nothing (more) has to be sent."""

    id: str
    digest: Digest
    size: int
    offset: int
    complete: bool = False
    expires_at: AwareDatetime | None = None


class AliasView(Wire):
    """A movable name for a version. `revision` is the ETag to move it with If-Match."""

    model: Name
    alias: Name
    version: VersionName | None
    """None: removed; the history stays."""
    revision: int
    moved_at: AwareDatetime
    moved_by: str = ""


class AliasMove(Wire):
    """PUT body, with `If-Match: "<revision>"` or `If-None-Match: *`."""

    version: VersionName


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
    presence: Presence | None = None
    reported: Reported | None = None
    facts: Platform | None = None
    facts_at: AwareDatetime | None = None
    health: Health | None = None
    """The newest."""
    generation: int = 0
    desired: dict[Name, VersionName] = Field(default_factory=dict)


class Deployment(Wire):
    """PUT body: what one slot of a device should serve. `version` may be an alias, resolved once, now."""

    version: VersionName
    variant: Name | None = None
    """Pin a variant; None: the best that fits."""
    profile: Profile = Profile.THROUGHPUT
    force: bool = False
    """Assign although no variant fits the facts that the registry knows."""
    retry: bool = False
    """Another attempt: also of a version that the device has put into quarantine."""


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


class DeviceReports(Wire):
    """POST body of a device: what it would have sent over MQTT. Taken whole, idempotent."""

    reported: Reported | None = None
    health: Annotated[tuple[Health, ...], Field(max_length=100)] = ()
    events: Annotated[tuple[Event, ...], Field(max_length=1000)] = ()


class JobRequest(Wire):
    """POST body: one-time work for a device."""

    device: Name
    kind: JobKind
    model: Name
    version: VersionName
    """May be an alias, resolved once, now."""
    source: Name | None = None
    """Convert: the variant to start from; None: the device chooses the one that leads to `to`."""
    to: Format | None = None
    options: Annotated[dict[str, str], Field(max_length=32)] = Field(default_factory=dict)
    dataset: Digest | None = None
    dataset_bytes: Annotated[int, Field(ge=0)] = 0
    """Evaluate: the size of the validation set's blob."""
    metric: Annotated[str, Field(max_length=64)] = ""
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 3600.0


class JobView(Wire):
    """A job and how far it is."""

    id: Name
    device: Name
    job: Job
    status: JobStatus
    created_at: AwareDatetime
    created_by: str = ""
    updated_at: AwareDatetime
    expires_at: AwareDatetime
    """A job that is not over by then has failed."""


class VariantOffer(Wire):
    """PUT body: a variant to add to a published version, made from one of its variants: `build.parent` says which."""

    variant: Variant


class VariantAnswer(Wire):
    """What became of an offer. While `missing` is not empty: upload these, then offer the same again."""

    missing: tuple[FileRef, ...] = ()
    manifest: Digest | None = None
    """The manifest that has the variant; None while files are missing."""


class ParityView(Wire):
    """How one variant of a version answered the golden vectors, somewhere."""

    variant: Name | None
    """None: a device whose deployment failed did not say which it was."""
    device: Name | None = None
    """None: on the publisher's machine."""
    backend: str
    parity: Parity
    at: AwareDatetime
    """When it was published, or reported by the device."""


class HealthHour(Wire):
    """What stays of an hour of a device's health when the single reports are gone."""

    hour: AwareDatetime
    """When it began, UTC."""
    samples: int
    """Reports in it."""
    cpu_fraction_mean: float | None = None
    peaks: dict[str, float] = Field(default_factory=dict)
    """The highest cpu_fraction, rss_bytes, load_1m, temperature_c (of any sensor)."""
    troughs: dict[str, float] = Field(default_factory=dict)
    """The lowest memory_free_bytes, disk_free_bytes."""
    models: dict[Name, dict[str, float]] = Field(default_factory=dict)
    """By model: requests and errors (sums), p99_us and queue_depth (the highest)."""


class CountView(Wire):
    """Requests by device and version, from the devices' own totals."""

    device: Name
    model: Name
    version: VersionName
    requests: int
    errors: dict[str, int] = Field(default_factory=dict)
    first_at: AwareDatetime
    last_at: AwareDatetime


class ResultView(Wire):
    """One recorded result."""

    id: int
    device: Name
    model: Name
    version: VersionName | None
    at: AwareDatetime
    request_id: str = ""
    code: str = ""
    """The error code; empty for a result."""
    content_type: str
    body: Any
    """The JSON result, or base64 text of a binary one; None when it was too long to keep."""
    size: int = 0
    """Bytes of the result as it was sent."""
    header_length: int | None = None
    """Bytes of a binary result's JSON header (after `OIPB` and the length, where it starts with them)."""
    note: str = ""


class TokenCreate(Wire):
    """A new token; the name says who holds it."""

    name: Name
    scope: Literal[Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.ADMIN]


class TokenCreated(Wire):
    """The secret is shown only here; the registry keeps its hash."""

    name: Name
    scope: Scope
    token: str


class TokenView(Wire):
    """A token without its secret."""

    name: Name
    scope: Scope
    created_at: AwareDatetime
    last_used: AwareDatetime | None = None
