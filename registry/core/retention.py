"""What is kept of the devices' reports: requests per version, what an hour of health leaves behind, and how long. Pure.

Requests per version come from the totals that a device reports: what is new since the last report of the same session.
A device counts from zero at each start, so a session's totals only rise and a repeated or lost report changes
nothing: the next one carries the sum. Rules:

- What is new goes to the version that the report names. A switch in the middle of a window is attributed whole
  to the newer version: the error is at most one window.
- Totals without a version wait: they are not taken as seen until a report names one.
- A total that fell is a slot that was recreated: all of it is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from registry.contracts.device.messages import Health, ModelHealth
from registry.core.durations import NOTHING, Durations, told

MAX_MODELS = 256
"""Models of one report that are counted; a device's desired state cannot hold more."""
MAX_CODES = 64
"""Error codes kept per model; further ones are summed under `OTHER`."""
OTHER = "other"


@dataclass(frozen=True)
class Totals:
    """What a session had counted for one model when it was last heard."""

    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    not_finite: int | None = None
    """Results with a NaN or an infinity; None: not told."""
    latency: Durations | None = None
    """Of requests; None: not told."""
    run: Durations | None = None
    """Of runs; None: not told."""

    def to_json(self) -> list[Any]:
        """For the database."""
        durations = [None if each is None else each.to_json() for each in (self.latency, self.run)]
        return [self.requests, dict(self.errors), self.not_finite, *durations]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Totals:
        """The inverse of `to_json`; an older one had no durations."""
        requests, errors, not_finite, latency, run = (*value, None, None)[:5]
        return cls(requests, errors, not_finite, Durations.from_json(latency), Durations.from_json(run))


@dataclass(frozen=True)
class Increase:
    """What came new for one version of one model."""

    model: str
    version: str
    requests: int
    errors: Mapping[str, int]
    not_finite: int | None = None
    """Results with a NaN or an infinity; None: not told."""
    target: str = ""
    """Of the variant that serves, as the device says it."""
    latency: Durations = NOTHING
    run: Durations = NOTHING


def advance(
    seen: Mapping[str, Totals], models: Mapping[str, ModelHealth]
) -> tuple[tuple[Increase, ...], dict[str, Totals]]:
    """What `models` adds to what a session was `seen` at.

    Returns:
        The increases that are not zero, and the session's new totals.
    """
    increases = []
    totals = dict(seen)
    for model in sorted(models)[:MAX_MODELS]:
        health = models[model]
        if health.version is None:
            continue
        now = Totals(
            *(health.requests, bounded_errors(health.errors), health.not_finite),
            *(told(health.latency), told(health.run)),
        )
        increase = _increase(model, health, seen.get(model, Totals()), now)
        if increase.requests or increase.errors:
            increases.append(increase)
        totals[model] = now
    return tuple(increases), totals


def add_errors(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The sum by code, bounded like every error table."""
    return bounded_errors(Counter(one) + Counter(other))


def bounded_errors(errors: Mapping[str, int]) -> dict[str, int]:
    """At most MAX_CODES codes of at most 64 characters, the most frequent kept, the rest summed under OTHER."""
    short: dict[str, int] = {}
    for code, count in errors.items():
        if count > 0:
            short[code[:64]] = short.get(code[:64], 0) + count
    if len(short) <= MAX_CODES:
        return short
    rest = short.pop(OTHER, 0)
    ranked = sorted(short.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[: MAX_CODES - 1])
    kept[OTHER] = rest + sum(count for _, count in ranked[MAX_CODES - 1 :])
    return kept


def _increase(model: str, health: ModelHealth, before: Totals, now: Totals) -> Increase:
    fell = now.requests < before.requests
    errors = {
        code: count if fell else count - before.errors.get(code, 0)
        for code, count in now.errors.items()
        if fell or count > before.errors.get(code, 0)
    }
    not_finite = now.not_finite
    if not_finite is not None and not fell:
        not_finite = max(0, not_finite - (before.not_finite or 0))
    return Increase(
        model,
        health.version or "",
        now.requests if fell else now.requests - before.requests,
        errors,
        not_finite,
        target=health.target,
        latency=_new_durations(before, before.latency, now.latency, fell=fell),
        run=_new_durations(before, before.run, now.run, fell=fell),
    )


def _new_durations(before: Totals, then: Durations | None, now: Durations | None, *, fell: bool) -> Durations:
    if now is None or (then is None and before.requests and not fell):
        return NOTHING
    return now if then is None or fell else now.since(then)


@dataclass(frozen=True)
class RetentionLimits:
    """How long the registry remembers. Hours and rows; every one at least 1."""

    health_hours: int = 48
    """Single health reports; afterwards one row per device and hour stays."""
    health_hourly_hours: int = 24 * 90
    event_hours: int = 24 * 30
    session_hours: int = 24 * 7
    """How long a session's totals are kept after its last report; a later report of it would count again."""
    max_results: int = 1_000_000
    """Recorded results of all models together, however young; their age is a setting of the model."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"retention {name}: {value} is less than 1")


def before(now: datetime, hours: int) -> datetime:
    """What is older than this is over `hours`."""
    return now - timedelta(hours=hours)


def hour_of(at: datetime) -> datetime:
    """The start of the UTC hour."""
    return at.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)


@dataclass
class HourOfHealth:
    """Sums, worst values and answered requests of one device's hour. Merging is associative and commutative,
    so that late reports and repeated sweeps give the same hour."""

    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Of values whose mean matters, with how many reports had one under `<name>.n`."""
    peaks: dict[str, float] = field(default_factory=dict)
    troughs: dict[str, float] = field(default_factory=dict)
    models: dict[str, dict[str, float]] = field(default_factory=dict)
    """Model to requests, errors (sums), p99_us, queue_depth (worst)."""

    def add(self, report: Health, increases: Iterable[Increase]) -> None:
        """Takes one report in; `increases` is what it added to the counts."""
        self.samples += 1
        self._sum("cpu_fraction", report.cpu_fraction)
        for peak in ("cpu_fraction", "rss_bytes", "load_1m"):
            self._peak(peak, getattr(report, peak))
        self._peak("temperature_c", max(report.temperatures_c.values(), default=None))
        self._trough("memory_free_bytes", report.memory_free_bytes)
        self._trough("disk_free_bytes", report.disk_free_bytes)
        for name in sorted(report.models)[:MAX_MODELS]:
            model = self._model(name)
            model["p99_us"] = max(model["p99_us"], report.models[name].latency_us.p99)
            model["queue_depth"] = max(model["queue_depth"], report.models[name].queue_depth)
        for increase in increases:
            model = self._model(increase.model)
            model["requests"] += increase.requests
            model["errors"] += sum(increase.errors.values())

    def merge(self, other: HourOfHealth) -> None:
        """Takes another part of the same hour in."""
        self.samples += other.samples
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, value in other.peaks.items():
            self._peak(name, value)
        for name, value in other.troughs.items():
            self._trough(name, value)
        for name, values in other.models.items():
            model = self._model(name)
            for key in ("requests", "errors"):
                model[key] += values[key]
            for key in ("p99_us", "queue_depth"):
                model[key] = max(model[key], values[key])

    def mean(self, name: str) -> float | None:
        """The mean over the reports that had the value; None when none had."""
        count = self.sums.get(name + ".n", 0.0)
        return self.sums[name] / count if count else None

    def to_json(self) -> dict[str, Any]:
        """For the database."""
        return vars(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HourOfHealth:
        """The inverse of `to_json`."""
        return cls(**value)

    def _model(self, name: str) -> dict[str, float]:
        return self.models.setdefault(name, {"requests": 0, "errors": 0, "p99_us": 0, "queue_depth": 0})

    def _sum(self, name: str, value: float | None) -> None:
        if value is not None:
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.sums[name + ".n"] = self.sums.get(name + ".n", 0.0) + 1

    def _peak(self, name: str, value: float | None) -> None:
        if value is not None:
            self.peaks[name] = max(self.peaks.get(name, value), value)

    def _trough(self, name: str, value: float | None) -> None:
        if value is not None:
            self.troughs[name] = min(self.troughs.get(name, value), value)
