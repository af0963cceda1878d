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
    dataset_name: Name | None = None
    """Evaluate: the name under which that blob is published, and its score kept; None: any that it has."""
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
