"""One-time work that the registry asks a device for, over the same channel as deployments: its desired state.

A job has an id that is never used again. A device does a job once, reports its status until the job is gone from
the desired document, and cancels a job that is gone before it was done. Files come and go by digest over HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from registry.contracts.catalogue.manifest import Format
from registry.contracts.enums import StrEnum
from registry.contracts.wire import Digest, Name, VersionName, Wire

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
    dataset_bytes: Annotated[int, Field(ge=0)] = 0
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
