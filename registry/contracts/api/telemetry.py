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
    rollout: str | None = None
    """Id of the rollout that put the version there, also after it ended; None: none did."""
