"""What a device carries out, as it crosses the wire: deployments with their policy, phases and progress, and jobs.

Identity of a deployment: (device, model, manifest, rollout, attempt). Only `committed` is success.

A job is one-time work, over the same channel as deployments: the device's desired state. It has an id that is never
used again. A device does a job once, reports its status until the job is gone from the desired document, and cancels a
job that is gone before it was done. Files come and go by digest over HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field

from registry.contracts.catalogue.batching import BatchingMode, ReadMode
from registry.contracts.catalogue.manifest import Format, Parity
from registry.contracts.enums import StrEnum, newer
from registry.contracts.wire import MAX_INTEGER, Digest, Name, VersionName, Wire

MAX_ATTEMPT = (1 << 31) - 1
"""What a database's integer holds."""
MAX_JOBS = 16
"""Of one device at a time."""


class JobKind(StrEnum):
    """What is to be done."""

    CONVERT = "convert"
    """Make a variant in another format from one of the version's, and offer it to the registry."""
    EVALUATE = "evaluate"
    """Run a validation set through the variant that this device uses, and report the metric."""


_Unknown = Annotated[str, Field(max_length=64)]
"""What a newer registry may ask for: that job fails with `job_not_known`, the rest of the document is followed."""


class Job(Wire):
    """What is to be done, whole: a device needs nothing else to do it."""

    kind: Annotated[JobKind | _Unknown, Field(union_mode="left_to_right")]
    """What to do."""
    model: Name
    """The model that it is about."""
    version: VersionName
    """The version that it is about."""
    manifest: Digest
    """The version's manifest."""
    source: Name | None = None
    """Convert: the variant to start from. Evaluate: the one to run; None: the one that fits best."""
    to: Annotated[Format | _Unknown | None, Field(union_mode="left_to_right")] = None
    """Convert: the format to make."""
    options: Annotated[dict[str, str], Field(max_length=32)] = Field(default_factory=dict)
    """Convert: the tool's options by their own names."""
    dataset: Digest | None = None
    """Evaluate: the blob of the validation set."""
    dataset_bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Evaluate: its size."""
    dataset_name: Name | None = None
    """Evaluate: its name, for the registry that keeps the score; a device needs none."""
    metric: Annotated[str, Field(max_length=64)] = ""
    """Evaluate: `accuracy`, ..."""
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 3600.0
    """Seconds that it may run; then it is stopped with `job_timeout`."""


class JobState(StrEnum):
    """Where a job is. `succeeded`, `failed` and `cancelled` are never left."""

    WAITING = "waiting"
    """Not begun."""
    RUNNING = "running"
    """The device works on it."""
    SUCCEEDED = "succeeded"
    """Done; `result` has what came out."""
    FAILED = "failed"
    """Given up; `code` says why."""
    CANCELLED = "cancelled"
    """Stopped because it was no longer wanted."""


OVER = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
"""States that are never left."""


class JobStatus(Wire):
    """What a device says of one job."""

    state: JobState
    """Where it is."""
    code: Annotated[str, Field(max_length=64)] = ""
    """Why it failed: `JobCode`, or `DeploymentCode` where a model was loaded for it. Empty: it did not."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """For a person."""
    done: Annotated[float, Field(ge=0, le=1)] | None = None
    """Progress, where it is known."""
    result: Annotated[dict[str, Any], Field(max_length=64)] = Field(default_factory=dict)
    """Convert: `variant`, the Variant that was made. Evaluate: `metric`, `value`, `items`, `variant`, `backend`,
    `seconds`."""


_Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]


class Phase(StrEnum):
    """Where a deployment is. `FINAL` ones are never left."""

    OFFERED = "offered"
    """The device has seen it."""
    DEFERRED = "deferred"
    """Waits for this host: a lease of a local program, a metered network, a maintenance window."""
    DOWNLOADING = "downloading"
    """Its files are fetched."""
    VERIFIED = "verified"
    """Every byte is on this disk and has been hashed."""
    STAGED = "staged"
    """Verified, and held there until the policy lets it switch."""
    WARMING = "warming"
    """A worker loads the candidate and answers the golden vectors."""
    SHADOWING = "shadowing"
    """The candidate gets a share of the live requests; its answers are only compared."""
    SWITCHING = "switching"
    """The candidate takes over between two batches."""
    PROBATION = "probation"
    """It serves and is watched; the previous version stays on disk, ready."""
    COMMITTED = "committed"
    """It serves, and its probation is over."""
    ROLLING_BACK = "rolling_back"
    """The previous version is put back."""
    ROLLED_BACK = "rolled_back"
    """The previous version serves again."""
    ROLLBACK_FAILED = "rollback_failed"
    """Neither version serves: it needs manual repair."""
    FAILED = "failed"
    """Given up before it served; what served before still does."""
    SUPERSEDED = "superseded"
    """Another version was wanted before it was done."""
    CANCELLED = "cancelled"
    """It was no longer wanted before it was done."""


FINAL = frozenset(
    {
        Phase.COMMITTED,
        Phase.ROLLED_BACK,
        Phase.ROLLBACK_FAILED,
        Phase.FAILED,
        Phase.SUPERSEDED,
        Phase.CANCELLED,
    }
)


class Strategy(StrEnum):
    """How a device goes from one version to the next."""

    AUTO = "auto"
    """Beside where the memory allows it, else stop first."""
    BESIDE = "beside"
    """The candidate is loaded beside the active one; no request is lost."""
    STOP_FIRST = "stop_first"
    """The active one ends before the candidate is loaded: a gap, which is measured and reported."""


class ProbationLimits(Wire):
    """What ends a probation badly. Compared with the same device's previous version where there is one."""

    max_error_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Of the requests answered in probation; refusals for bad input and overload do not count."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Fewer say nothing about shares and latency."""
    max_latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = 3.0
    """p99 of a run in the backend against the previous version's; more than three runs must be slower. None: latency
    is not judged."""
    max_nan_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of answers with a NaN (each infinity likewise) in a floating-point output where the golden vectors have none, on
    top of the previous version's share. 0: not judged where there are neither golden vectors nor a previous version."""
    max_crashes: Annotated[int, Field(ge=0, le=100)] = 1
    """Deaths of the worker while in probation, as the agent saw them; one more rolls back. A cut of power is none."""


class ShadowPolicy(Wire):
    """A share of the live requests goes to the candidate too; what it answers is compared, never sent."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the active version's requests."""
    duration_s: _Seconds = 60.0
    """At most this long."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Compared before it may go on early; when the time is over with fewer, it goes on, and the figures say how few."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """The least share of answers that agree, as `ShadowFigures.agreement` says it; None: only measured. Another
    training's numbers are seldom within a tolerance: give a classifier its `classification`."""


class DeploymentPolicy(Wire):
    """How the device carries a deployment out. The host's own policy (windows, leases, metered) comes on top."""

    strategy: Annotated[Strategy, BeforeValidator(newer(Strategy, Strategy.AUTO))] = Strategy.AUTO
    """A strategy that the agent does not know is `auto`."""
    probation_s: _Seconds = 60.0
    """0: it is committed as soon as it serves."""
    probation: ProbationLimits = ProbationLimits()
    """What ends the probation badly."""
    shadow: ShadowPolicy | None = None
    """None: the candidate is not tried on live requests."""
    hold: bool = False
    """The rollout is paused: go no further than `staged`. What serves by then stays in `probation`, watched: it may
    fail and go back, and is not committed while this holds. What is committed stays so."""
    urgent: bool = False
    """Maintenance windows, leases and metered networks do not hold it up: a rollback, a fix."""
    batching: ReadMode = BatchingMode.AUTO
    """`off`: the device runs one request at a time, whatever the manifest permits."""


class ShadowFigures(Wire):
    """What comparing the candidate's answers with the active one's showed."""

    compared: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Requests that both answered, and whose answers were compared."""
    skipped: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """In the share, but the candidate was busy: the live path never waits for it."""
    errors: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """The candidate failed where the active one answered."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of compared answers that agree: those within the tolerance of the version's golden vectors (or the usual
    one). Where the manifest has a `classification`, the top class in its output decides instead: the same for the
    tolerance's `top1_agreement` of the request's items."""
    max_abs: float | None = None
    """Largest difference of any element."""
    mean_abs: float | None = None
    """Mean over the compared answers of each one's largest difference."""
    latency_ratio: float | None = None
    """Median run of the candidate over that of the active one, of requests that ran alone."""


class DeploymentProgress(Wire):
    """One deployment on one device, as the device tells it."""

    version: VersionName
    """The candidate."""
    manifest: Digest
    """The candidate's manifest."""
    rollout: str | None = None
    """Id of the rollout that wants it. None: a deployment by hand."""
    attempt: Annotated[int, Field(ge=0, le=MAX_ATTEMPT)] = 0
    """As in DesiredModel."""
    phase: Phase
    """Where it is."""
    since: AwareDatetime
    """When this phase began."""
    code: Annotated[str, Field(max_length=64)] = ""
    """Why it failed, rolled back or waits: `registry.contracts.codes.DeploymentCode`."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """For a person."""
    failed_in: Phase | None = None
    """The phase in which it failed."""
    retriable: bool = False
    """Another attempt could succeed without anything being changed."""
    until: AwareDatetime | None = None
    """When waiting ends by itself: a lease, a window, a probation."""
    tries: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Of the device's own, within this attempt."""
    bytes_done: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Of the download so far."""
    bytes_total: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Of the download. 0: not known yet."""
    serves: VersionName | None = None
    """What answers requests meanwhile, or afterwards."""
    gap_s: Annotated[float, Field(ge=0)] | None = None
    """How long nothing answered during the switch; None: not switched, 0.0: beside."""
    parity: Parity | None = None
    """Of the candidate, measured here."""
    variant: Name | None = None
    """The candidate's; None: none was chosen yet."""
    shadow: ShadowFigures | None = None
    """None: there was no shadow."""
