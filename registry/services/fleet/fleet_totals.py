"""What all devices answered since this process started, by model, version and target, from their health reports.

Each total only rises, whatever devices, agents and connections do: what a report adds to its session is added here,
after the commit that stored it. A restart of the registry begins at 0, as Prometheus expects of a counter.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from registry.contracts.catalogue.manifest import Target
from registry.contracts.codes import InferenceCode
from registry.contracts.counters import DURATION_BOUNDS_S, OTHER
from registry.core.durations import Durations
from registry.core.retention import Increase

MAX_SERIES = 1000
"""Models, versions and targets that are counted apart; what comes then is counted under OTHER."""
UNKNOWN = "unknown"
"""The target of an agent that does not say it."""
ServedBy = tuple[str, str, str]
"""Model, version, target."""
_TARGETS = frozenset(target.value for target in Target)
_CODES = frozenset(code.value for code in InferenceCode)


@dataclass
class DurationSum:
    """As `registry.metric_text.DurationSample`."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, more: Durations) -> None:
        """Takes an increase in."""
        for bucket, count in enumerate(more.counts):
            self.counts[bucket] += count
        self.sum_s += more.sum_s

    def sample(self) -> tuple[list[int], float]:
        """A copy."""
        return list(self.counts), self.sum_s


@dataclass
class Answered:
    """One series."""

    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: DurationSum = field(default_factory=DurationSum)
    run: DurationSum = field(default_factory=DurationSum)


@dataclass
class VersionTotals:
    """One version on all targets."""

    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_S) + 1))

    def since(self, before: VersionTotals | None) -> VersionTotals | None:
        """What is new after `before`; None: nothing."""
        if before is None:
            return self.copy()
        errors = Counter({code: count - before.errors[code] for code, count in self.errors.items()})
        latency = [now - then for now, then in zip(self.latency, before.latency, strict=True)]
        new = VersionTotals(self.requests - before.requests, +errors, latency)
        return new if new.requests or new.errors or any(latency) else None

    def add(self, more: VersionTotals) -> None:
        """Takes more of the same version in."""
        self.requests += more.requests
        self.errors.update(more.errors)
        for bucket, count in enumerate(more.latency):
            self.latency[bucket] += count

    def copy(self) -> VersionTotals:
        """Another one, for oneself."""
        return VersionTotals(self.requests, Counter(self.errors), list(self.latency))


class FleetTotals:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[ServedBy, Answered] = {}

    def add(self, increases: Iterable[Increase]) -> None:
        """What reports added, after it was committed."""
        with self._lock:
            for increase in increases:
                answered = self._of(increase)
                answered.requests += increase.requests
                for code, count in increase.errors.items():
                    answered.errors[code if code in _CODES else OTHER] += count
                answered.latency.add(increase.latency)
                answered.run.add(increase.run)

    def _of(self, increase: Increase) -> Answered:
        target = increase.target or UNKNOWN
        key = (increase.model, increase.version, target if target in _TARGETS else UNKNOWN)
        if key not in self._series and len(self._series) >= MAX_SERIES:
            key = (OTHER, OTHER, OTHER)
        return self._series.setdefault(key, Answered())

    def by_version(self) -> dict[tuple[str, str], VersionTotals]:
        """A copy of the totals by model and version."""
        found: dict[tuple[str, str], VersionTotals] = {}
        with self._lock:
            for (model, version, _), answered in self._series.items():
                totals = VersionTotals(answered.requests, answered.errors, answered.latency.counts)
                found.setdefault((model, version), VersionTotals()).add(totals)
        return found

    def requests(self) -> dict[tuple[str, ...], float]:
        """Answered requests by model, version and target."""
        with self._lock:
            return {key: answered.requests for key, answered in self._series.items()}

    def errors(self) -> dict[tuple[str, ...], float]:
        """Answered with an error, by model, version, target and code."""
        with self._lock:
            return {
                (*key, code): count for key, answered in self._series.items() for code, count in answered.errors.items()
            }

    def latency(self) -> dict[tuple[str, ...], tuple[list[int], float]]:
        """Durations by model, version and target: buckets and sum."""
        with self._lock:
            return {key: answered.latency.sample() for key, answered in self._series.items()}

    def run(self) -> dict[tuple[str, ...], tuple[list[int], float]]:
        """As `latency`."""
        with self._lock:
            return {key: answered.run.sample() for key, answered in self._series.items()}
