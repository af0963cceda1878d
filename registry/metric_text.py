"""Figures of the tables (`registry.contracts.counters`) as families that prometheus_client writes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from registry.contracts.counters import DURATION_BOUNDS_S, PREFIX, Metric

DurationSample = tuple[Iterable[int], float]
"""Durations by bucket of `DURATION_BOUNDS_S` (each up to its bound and over the one before; zeros at the end may be
left out), and their sum in seconds."""
_LE = (*(f"{bound:g}" for bound in DURATION_BOUNDS_S), "+Inf")


def family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    """A counter or a gauge with its values now, by the values of its labels."""
    made = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[metric.kind]
    found: CounterMetricFamily | GaugeMetricFamily = made(PREFIX + metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        found.add_metric(labels, value)
    return found


def duration_family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], DurationSample]]) -> Family:
    """A histogram of durations."""
    found = HistogramMetricFamily(PREFIX + metric.name, metric.meaning, labels=metric.labels)
    for labels, (counts, sum_s) in samples:
        each = [*counts][: len(_LE)]
        each += [0] * (len(_LE) - len(each))
        found.add_metric(labels, list(zip(_LE, map(float, accumulate(each)), strict=True)), sum_s)
    return found
