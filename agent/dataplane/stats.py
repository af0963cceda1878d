"""What the data path counts, and the frozen snapshot that reports and metrics are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.health import Histogram, HistogramView


class ModelStats:
    """Running totals of one model's slot; they outlive its workers."""

    __slots__ = ("batches", "duplicates", "errors", "expired", "latency", "not_finite", "requests", "run", "version")

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
        self.batches: Counter[int] = Counter()
        """Batch size to how many."""
        self.version: str | None = None
        """The version that was given to the slot last."""


@dataclass(frozen=True)
class ModelSnapshot:
    """One model. Counters are totals since the agent started."""

    model: str
    version: str | None
    """None: nothing serves."""
    requests: int
    errors: Mapping[str, int]
    expired: int
    duplicates: int
    not_finite: int
    """Results with a NaN or an infinity; counted while a version has still to prove itself."""
    latency: HistogramView
    run: HistogramView
    batches: Mapping[int, int]
    queue_depth: int
    queue_limit: int
    batching: str = ""
    """Whether requests are joined into one run, and why; empty while nothing serves."""
    rollout: str | None = None
    """That put the version there."""


@dataclass(frozen=True)
class DataPlaneStats:
    """The data path at one moment. Counters are totals since the agent started."""

    connected: bool
    data_path: str
    """`fast` or `public`."""
    data_path_reason: str
    """Why it is not `fast`; empty when it is."""
    connections: int
    """Sessions that were opened; one less is the number of reconnects."""
    disconnects: Mapping[str, int]
    """Reason to how often."""
    replies_dropped: int
    """QoS 0 replies that were lost with the connection."""
    replies_refused: int
    """QoS 1 messages that the broker refused."""
    outbox_rows: int
    outbox_bytes: int
    outbox_dropped: int
    """Persisted: over all sessions of this device."""
    unacknowledged: int
    """QoS 1 messages that the broker has not acknowledged, or that wait for its Receive Maximum."""
    other_errors: Mapping[str, int] = field(default_factory=dict)
    """Errors of requests to models that are not assigned, by code; `retained_request` and `oversized` too."""
    models: Mapping[str, ModelSnapshot] = field(default_factory=dict)
    withdrawn: Mapping[str, ModelSnapshot] = field(default_factory=dict)
    """Models that are not assigned any more, with the totals and the version they ended with."""
    results_unwritten: int = 0
    """Results that the disk does not take now: in memory, their requests unacknowledged."""
    subscriptions_refused: int = 0
    """Topic filters that the broker refused, or says that it does not take."""
