"""Steps of views over time, and percentiles of histograms."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from registry.contracts.api.over_time import HealthSpan
from registry.contracts.counters import DURATION_BOUNDS_S
from registry.core.over_time import FOLDS, SHOWN, grid, percentile_ms
from registry.db.over_time_rows import BUCKETS

NOW = datetime(2030, 5, 1, 10, 7, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize("span", HealthSpan)
def test_a_span_is_shown_in_whole_steps_that_end_with_the_one_of_now(span: HealthSpan) -> None:
    steps = grid(span, NOW)
    length, step_s = SHOWN[span]
    assert len(steps.starts) == length.total_seconds() / step_s <= 120
    assert steps.starts[-1] <= NOW.timestamp() < steps.end
    assert all(start % step_s == 0 for start in steps.starts)


@pytest.mark.parametrize("span", HealthSpan)
def test_no_span_is_shown_in_finer_steps_than_are_kept_so_long(span: HealthSpan) -> None:
    length, step_s = SHOWN[span]
    kept = max((coarser for _, coarser, age in FOLDS if length > age), default=60)
    assert step_s % kept == 0


def test_a_percentile_is_linear_within_its_bucket() -> None:
    assert percentile_ms([10], 0.5) == pytest.approx(0.1)
    assert percentile_ms([0, 0, 100, 100], 0.75) == pytest.approx(1.5)
    assert percentile_ms([99, 0, 0, 0, 0, 1], 1.0) == pytest.approx(10)


def test_longer_than_the_last_bound_counts_as_the_last_bound() -> None:
    assert percentile_ms([0] * 15 + [1], 0.5) == 10_000


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile_ms([0] * 16, 0.5) is None


def test_the_table_has_a_column_for_each_bucket() -> None:
    assert len(BUCKETS) == len(DURATION_BOUNDS_S) + 1 == 16
