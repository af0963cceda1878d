"""Durations are counted, and quantiles are right within 5 %."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.health import BUCKETS, GROWTH, DurationCounter, Histogram, HistogramView
from registry.contracts.counters import DURATION_BOUNDS_S

DURATIONS = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=200)


def counted(durations: list[float]) -> HistogramView:
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    return histogram.view()


@given(DURATIONS, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_at_most_5_percent_off(durations: list[float], fraction: float) -> None:
    rank = fraction * len(durations)
    exact = next(value for place, value in enumerate(sorted(durations), 1) if place >= rank)
    assert abs(counted(durations).quantile(fraction) - exact) <= 0.05 * exact


@given(DURATIONS, DURATIONS)
def test_a_window_is_the_difference_of_two_views(before: list[float], within: list[float]) -> None:
    histogram = Histogram()
    for duration in before:
        histogram.record(duration)
    earlier = histogram.view()
    for duration in within:
        histogram.record(duration)
    window = histogram.view().since(earlier)
    assert window.counts == counted(within).counts
    assert window.sum_us == pytest.approx(sum(within), abs=1e-6 * sum(before + within))


@given(DURATIONS)
def test_the_few_buckets_hold_the_same_durations_but_for_those_within_0_3_percent_of_a_bound(
    durations: list[float],
) -> None:
    few, direct = counted(durations).buckets(), DurationCounter()
    for duration in durations:
        direct.record(duration / 1e6)
    near = sum(abs(duration / 1e6 / bound - 1) <= 0.003 for duration in durations for bound in DURATION_BOUNDS_S)
    for mine, exact in zip(accumulate(few.counts), accumulate(direct.view().counts), strict=True):
        assert abs(mine - exact) <= near
    assert sum(few.counts) == len(durations)
    assert few.sum_s == pytest.approx(direct.view().sum_s)


def test_a_duration_as_long_as_a_bound_is_within_it() -> None:
    counter = DurationCounter()
    for seconds in (-1.0, 0.0, *DURATION_BOUNDS_S, 1e9):
        counter.record(seconds)
    assert counter.view().counts == (3, *[1] * (len(DURATION_BOUNDS_S) - 1), 1)


def test_nothing_counted_is_zero() -> None:
    assert HistogramView().quantiles((0.5, 0.99)) == (0.0, 0.0)
    assert HistogramView().quantile(1.0) == 0.0


def test_what_is_out_of_range_counts_at_the_ends() -> None:
    view = counted([0.0, -3.0, 1e300])
    assert (view.counts[0], view.counts[BUCKETS - 1], view.total) == (2, 1, 3)
    assert view.quantile(1.0) > 0.9 * GROWTH ** (BUCKETS - 1)
