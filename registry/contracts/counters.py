"""What a program counts and measures: one table says the name, unit and meaning of each figure, and what is not in it
cannot be counted. Health reports, the text for Prometheus and docs/metrics.md are made from the tables.

What was lost has a name that ends in `_dropped`, what somebody did not take one that ends in `_refused`. Pure.

Those of an agent are here. Totals are since the agent started, unless the meaning says otherwise. In a health report a
figure has its own field where `Health` or `ModelHealth` has one of its name; the others stand in `Health.counts`, as
`name` or `name:label`. Prometheus gets all of them, with `modelfleet_` before the name.

A histogram `x_seconds` is `x_seconds_bucket` with the label `le`, `x_seconds_sum` and `x_seconds_count`. Durations of
requests and runs have the bounds 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200 and 500 ms, 1, 2, 5 and 10 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

PREFIX = "modelfleet_"
"""Of every name in the text for Prometheus."""
MAX_LABELS = 64
"""Values of labels that one figure is counted by; what comes then is counted under OTHER."""
OTHER = "other"
MAX_LABEL = 64
"""Characters of a label's value."""
DURATION_BOUNDS_S = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the buckets of every histogram of requests and runs, in seconds; one more has what is longer."""
LabelledValues = Mapping[tuple[str, ...], float]
"""By the values of the labels."""
Figures = Mapping[str, LabelledValues]
"""By name."""


class Metric(NamedTuple):
    """One figure."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    """A counter only rises while the program runs; a gauge is what is true now; a histogram counts by size."""
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


def table(*metrics: Metric) -> Mapping[str, Metric]:
    """The figures by name."""
    return {metric.name: metric for metric in metrics}


class Counters:
    """Totals since the program started. Each name and label belongs to one thread; any thread may look."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._totals: dict[str, dict[tuple[str, ...], int]] = {
            name: {} if metric.labels else {(): 0} for name, metric in metrics.items() if metric.kind == "counter"
        }

    def add(self, name: str, count: int = 1, label: str | None = None) -> bool:
        """Counts. True: it is the first of its name and label, which is worth a line in the log.

        Raises:
            KeyError: the table has no such counter.
        """
        totals = self._totals[name]
        key = () if label is None else (label[:MAX_LABEL],)
        if key not in totals and len(totals) >= MAX_LABELS:
            key = (OTHER,)
        before = totals.get(key, 0)
        totals[key] = before + count
        return count > 0 and before == 0

    def total(self, name: str, label: str | None = None) -> int:
        """Over all labels, or of one."""
        totals = self._totals[name]
        return sum(totals.values()) if label is None else totals.get((label[:MAX_LABEL],), 0)

    def figures(self) -> dict[str, dict[tuple[str, ...], float]]:
        """All of them now."""
        return {name: dict(totals) for name, totals in self._totals.items()}


def lost(name: str) -> bool:
    """Does the figure, `name` or `name:label`, count what was dropped or refused?"""
    return name.partition(":")[0].endswith(("_dropped", "_refused"))


def total(samples: LabelledValues) -> int:
    """Over all labels."""
    return int(sum(samples.values()))


def flat(figures: Figures, names: Iterable[str]) -> dict[str, int]:
    """`name`, or `name:label`, to the count, of those that are not 0."""
    return {
        ":".join((name, *labels)): int(value)
        for name in names
        for labels, value in figures.get(name, {}).items()
        if value
    }


_MODEL = ("model", "version")
"""`version` is the one that serves now. The totals are of the model's slot: they go on when the version changes, and
the registry's `fleet_` figures say what each version answered."""

AGENT_METRICS = table(
    Metric("agent_info", "gauge", "1", "The version of the agent's package.", ("version",)),
    Metric(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "Unix time",
        "When a certificate ends: the first that ends in `mqtt.ca_file` (`broker_authority`), `mqtt.cert_file` "
        "(`broker_client`) and `registry.ca_file` (`registry_authority`).",
        ("certificate",),
    ),
    Metric("mqtt_connected", "gauge", "1 or 0", "1 while the broker is there."),
    Metric(
        "mqtt_connections", "counter", "sessions", "Sessions that the broker opened; all but the first reconnected."
    ),
    Metric("mqtt_disconnects", "counter", "tries", "Connections that ended or were not made.", ("reason",)),
    Metric(
        "data_path_info",
        "gauge",
        "1",
        "How messages are read and written: `fast`, or `public` (only paho's public interface) and why.",
        ("path", "reason"),
    ),
    Metric(
        "subscriptions_refused",
        "counter",
        "filters",
        "Topic filters that the broker refused or does not take: what comes on them does not reach the device.",
    ),
    Metric(
        "publications_refused",
        "counter",
        "messages",
        "QoS 1 messages that the broker refused, by the reason code of its PUBACK. They are lost.",
        ("reason",),
    ),
    Metric(
        "replies_refused",
        "counter",
        "messages",
        "QoS 1 messages that the broker refused or does not take, or that would have ended its connections for hours.",
    ),
    Metric(
        "replies_dropped",
        "counter",
        "messages",
        "QoS 0 replies that had no connection, or are longer than the broker takes.",
    ),
    Metric(
        "documents_dropped", "counter", "messages", "Control documents that are not retained and had no connection."
    ),
    Metric("control_messages_dropped", "counter", "messages", "Control messages longer than 256 KiB."),
    Metric(
        "oversized_dropped", "counter", "messages", "Messages longer than this agent takes, on topics without requests."
    ),
    Metric("malformed_dropped", "counter", "messages", "Messages of QoS 2, or whose texts are not UTF-8."),
    Metric("retained_dropped", "counter", "messages", "Retained messages on request topics: they are no requests."),
    Metric(
        "unassigned_refused",
        "counter",
        "requests",
        "Requests to models that are not assigned, by error code.",
        ("code",),
    ),
    Metric(
        "metadata_answered",
        "counter",
        "requests",
        "Metadata requests that were answered: `server` or `model`.",
        ("kind",),
    ),
    Metric("metadata_refused", "counter", "requests", "Metadata requests answered with an error, by code.", ("code",)),
    Metric(
        "metadata_dropped",
        "counter",
        "requests",
        "Metadata requests that got no answer: they name no response topic, or one that may not be published to, are "
        "retained, had a fault or too many beside them in a pool, or their connection ended.",
        ("reason",),
    ),
    Metric("unacknowledged", "gauge", "messages", "QoS 1 messages that the broker has not acknowledged yet."),
    Metric("outbox_queued", "gauge", "messages", "Messages that wait on disk."),
    Metric("outbox_bytes", "gauge", "bytes", "Size of the messages that wait on disk."),
    Metric(
        "outbox_dropped",
        "counter",
        "messages",
        "Messages that a full outbox dropped, over all sessions of this device; and results that no disk took.",
    ),
    Metric("results_unwritten", "gauge", "messages", "Results that the disk does not take now, unacknowledged."),
    Metric("repeats_joined", "counter", "requests", "Repeats of a request that ran: they waited for its reply."),
    Metric("repeats_answered", "counter", "requests", "Repeats of an answered request: the reply was sent again."),
    Metric("repeats_refused", "counter", "requests", "Repeats that were refused: too many waited for one reply."),
    Metric(
        "kept_replies_dropped", "counter", "replies", "Kept replies that were given up for room: a repeat runs again."
    ),
    Metric("untracked_requests", "counter", "requests", "Requests without memory of them: too many ran at once."),
    Metric("notices_dropped", "counter", "notices", "Notices that the control thread was too far behind to take."),
    Metric("damaged", "counter", "things", "What was found damaged on this host's disk, by kind.", ("kind",)),
)
"""Of the agent as a whole."""

MODEL_METRICS = table(
    Metric("requests", "counter", "requests", "Requests answered, with a result or an error.", _MODEL),
    Metric("errors", "counter", "requests", "Requests answered with an error, by code.", (*_MODEL, "code")),
    Metric("expired", "counter", "requests", "Requests that were not run because their deadline had passed.", _MODEL),
    Metric("duplicates", "counter", "requests", "Replies to repeats of a request.", _MODEL),
    Metric(
        "not_finite",
        "counter",
        "results",
        "Results with a NaN or an infinity that was not to be expected; counted while a version proves itself.",
        _MODEL,
    ),
    Metric("batches", "counter", "runs", "Runs, by how many requests they took together.", (*_MODEL, "size")),
    Metric("worker_restarts", "counter", "starts", "Starts of the model's worker after it died.", _MODEL),
    Metric("queue_depth", "gauge", "requests", "Requests that are not answered yet.", _MODEL),
    Metric(
        "queue_limit",
        "gauge",
        "requests",
        "Requests of one item, or of free size, that the model can hold.",
        _MODEL,
    ),
    Metric("latency_seconds", "histogram", "seconds", "From a request's last byte to its reply.", _MODEL),
    Metric(
        "queue_wait_seconds",
        "histogram",
        "seconds",
        "From a request's last byte to the run that takes it, decoding included. Of requests that ran.",
        _MODEL,
    ),
    Metric("run_seconds", "histogram", "seconds", "Of one run in the backend, of one request or more.", _MODEL),
    Metric(
        "decode_seconds",
        "histogram",
        "seconds",
        "Of decoding a picture, or JSON of 128 KiB or more. Other requests are decoded as they come, and not timed.",
        _MODEL,
    ),
)
"""Of each model."""
