"""The registry's HTTP API: what is kept of the devices' health, counts and results."""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime, Field

from registry.contracts.names import Name, VersionName
from registry.contracts.wire import Wire


class HealthHour(Wire):
    """What stays of an hour of a device's health when the single reports are gone."""

    hour: AwareDatetime
    """When it began, UTC."""
    samples: int
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
    requests: int
    """Answered, with a result or an error."""
    errors: dict[str, int] = Field(default_factory=dict)
    """By code."""
    first_at: AwareDatetime
    """When the first of them was reported."""
    last_at: AwareDatetime
    """When the last of them was reported."""


class ResultView(Wire):
    """One recorded result."""

    id: int
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
    size: int = 0
    """Bytes of the result as it was sent."""
    header_length: int | None = None
    """Bytes of a binary result's JSON header (after `OIPB` and the length, where it starts with them)."""
    note: str = ""
    """Why `body` is None. Empty: it is whole."""
    rollout: str | None = None
    """Id of the rollout that put the version there, also after it ended; None: none did."""
