"""The registry's HTTP API: one-time work for devices."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.manifest import Format
from registry.contracts.device.jobs import Job, JobKind, JobStatus
from registry.contracts.digest import Digest
from registry.contracts.names import Name, VersionName
from registry.contracts.wire import Wire


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
    dataset_bytes: Annotated[int, Field(ge=0)] = 0
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
