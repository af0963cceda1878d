"""What the data path counts, and the frozen snapshot that reports and metrics are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core.health import NO_DURATIONS, DurationBuckets, DurationCounter, Histogram, HistogramView
from registry.contracts.counters import Figures, total


class ModelStats:
    """Running totals of one model's slot; they outlive its workers."""

    __slots__ = (
        *("batches", "decode", "duplicates", "errors", "expired", "latency"),
        *("not_finite", "queue_wait", "requests", "run", "version"),
    )

    def __init__(self) -> None:
        self.requests = 0
        """Answered, with a result or an error."""
        self.errors: Counter[str] = Counter()
        self.expired = 0
        self.duplicates = 0
        self.not_finite = 0
        """Results with a NaN or an infinity, of versions that were being watched."""
        self.latency = Histogram()
        """Microseconds from the request's last byte to the reply handed to the socket."""
        self.run = Histogram()
        """Microseconds of one batch, from its turn in the worker to its answer."""
        self.queue_wait = DurationCounter()
        """From the request's last byte to the run that takes it."""
        self.decode = DurationCounter()
        """Of one picture or long JSON in the decode pool."""
        self.batches: Counter[int] = Counter()
        """Batch size to how many."""
        self.version: str | None = None
        """The version that was given to the slot last."""

    def snapshot(self, **now: Any) -> ModelSnapshot:
        """Frozen. `now`: what else a ModelSnapshot says of the moment."""
        return ModelSnapshot(
            requests=self.requests,
            errors=dict(self.errors),
            expired=self.expired,
            duplicates=self.duplicates,
            not_finite=self.not_finite,
            latency=self.latency.view(),
            run=self.run.view(),
            queue_wait=self.queue_wait.view(),
            decode=self.decode.view(),
            batches=dict(self.batches),
            **{"version": self.version, **now},
        )


@dataclass(frozen=True)
class ModelSnapshot:
    """One model. The counters and gauges are those of `MODEL_METRICS`."""

    version: str | None
    """None: nothing serves."""
    requests: int
    errors: Mapping[str, int]
    expired: int
    duplicates: int
    not_finite: int
    latency: HistogramView
    run: HistogramView
    batches: Mapping[int, int]
    queue_wait: DurationBuckets = NO_DURATIONS
    decode: DurationBuckets = NO_DURATIONS
    target: str = ""
    """Of the variant that serves; empty: nothing does."""
    queue_depth: int = 0
    queue_limit: int = 0
    batching: str = ""
    """Whether requests are joined into one run, and why; empty while nothing serves."""
    rollout: str | None = None
    """That put the version there."""


@dataclass(frozen=True)
class DataPlaneStats:
    """The data path at one moment."""

    connected: bool
    data_path: str
    """`fast` or `public`."""
    data_path_reason: str = ""
    """Why it is not `fast`; empty when it is."""
    broker_fault: str = ""
    """Why it is not connected, after the broker's address; empty: it is, or no try has ended yet."""
    figures: Figures = field(default_factory=dict)
    """Those of `AGENT_METRICS` that the data path has."""
    models: Mapping[str, ModelSnapshot] = field(default_factory=dict)
    withdrawn: Mapping[str, ModelSnapshot] = field(default_factory=dict)
    """Models that are not assigned any more, with the totals and the version they ended with."""

    def total(self, name: str) -> int:
        """A figure, over all its labels; 0 when there is none."""
        return total(self.figures.get(name, {}))
