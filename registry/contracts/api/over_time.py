"""The registry's HTTP API: the fleet's health over time."""

from __future__ import annotations

from pydantic import AwareDatetime, Field

from registry.contracts.api.fleet import ConnectionState
from registry.contracts.enums import StrEnum
from registry.contracts.wire import Integer, Name, VersionName, Wire


class HealthSpan(StrEnum):
    """How far back, up to now."""

    HOUR = "1h"
    """By the minute."""
    SIX_HOURS = "6h"
    """By five minutes."""
    DAY = "24h"
    """By a quarter of an hour."""
    WEEK = "7d"
    """By two hours."""
    MONTH = "30d"
    """By six hours."""
    QUARTER = "90d"
    """By the day, in UTC."""


MAX_SERIES = 8
"""Models or versions that a view shows apart; the others are summed."""
MAX_MARKS = 50
"""Rollouts that are looked at for marks, the newest."""


class AnswerFigures(Wire):
    """What was answered in the whole span."""

    requests: Integer = 0
    """Answered, with a result or an error."""
    errors: Integer = 0
    """Answered with an error."""
    codes: dict[str, Integer] = Field(default_factory=dict)
    """Errors by code, the most first."""
    measured: Integer = 0
    """Requests whose latency was told: older agents do not tell it."""
    p50_ms: float | None = None
    """Percentile of the latencies, read from a histogram of 16 buckets, linear within a bucket. 10,000 ms: that or
    more. None: no request was measured."""
    p95_ms: float | None = None
    """Likewise."""
    p99_ms: float | None = None
    """Likewise."""


class AnswerSeries(Wire):
    """What was answered, by step. None: nobody counted then, for example because the registry did not run."""

    name: str
    """The model, or where one is chosen the version; empty: all others together."""
    figures: AnswerFigures
    """Of the whole span."""
    requests: tuple[Integer | None, ...]
    """Answered, by the time at which the device's report reached the registry."""
    errors: tuple[Integer | None, ...]
    """Answered with an error."""
    p50_ms: tuple[float | None, ...]
    """As `AnswerFigures.p50_ms`."""
    p95_ms: tuple[float | None, ...]
    """Likewise."""
    p99_ms: tuple[float | None, ...]
    """Likewise."""


class RolloutMark(Wire):
    """Something that a rollout did within the span."""

    at: AwareDatetime
    """When."""
    rollout: Name
    """Its id."""
    model: Name
    """What it brings."""
    version: str
    """Likewise."""
    what: str
    """`started`, `went_back`, or the state in which it ended."""


class HealthSeries(Wire):
    """The fleet over time. Sums are written every 10 s: a registry that was killed has lost at most so much."""

    as_of: AwareDatetime
    """Now: the last step is not over yet."""
    span: HealthSpan
    """As asked for."""
    step_s: Integer
    """Seconds of one step."""
    model: Name | None = None
    """The model that was asked for."""
    starts: tuple[AwareDatetime, ...]
    """When each step began: as many as each series has values."""
    total: AnswerSeries
    """Of all models, or of all versions of the model."""
    by: tuple[AnswerSeries, ...] = ()
    """By model, or where one is chosen by version; those with the most requests, at most 8, then all others together.
    In the order in which they began to answer."""
    errors: dict[str, tuple[Integer | None, ...]] = Field(default_factory=dict)
    """Requests answered with an error, by code; the most first."""
    devices: dict[ConnectionState, tuple[float | None, ...]] = Field(default_factory=dict)
    """Devices of the whole fleet by connection, the mean of samples each five minutes."""
    rollouts: tuple[RolloutMark, ...] = ()
    """Oldest first, of the 50 newest rollouts."""


class VersionAdoption(Wire):
    """One version over time."""

    version: VersionName | None
    """None: all others together."""
    devices: tuple[Integer | None, ...]
    """That it served on when the hour was looked at last. None: nobody looked, the registry did not run."""


class Adoption(Wire):
    """On how many devices the versions of a model served, by the hour."""

    model: Name
    """The model."""
    starts: tuple[AwareDatetime, ...]
    """When each hour began; the last one is not over."""
    by: tuple[VersionAdoption, ...] = ()
    """Those with the most devices, at most 8, then all others together."""
