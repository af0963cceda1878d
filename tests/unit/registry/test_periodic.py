"""Periods of the scheduler: by the monotonic clock, whatever is told of the wall clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from registry.periodic import SteadyPeriod

NOON = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)


class Steady:
    """A monotonic clock that goes on when told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_the_plan_follows_a_clock_that_is_set_back_or_ahead() -> None:
    steady = Steady()
    period = SteadyPeriod(60, 10, steady)
    steady.at += 4
    for now in (NOON, NOON - timedelta(hours=1), NOON + timedelta(days=7300)):
        assert period.planned(now) == now + timedelta(seconds=6)


def test_after_a_run_the_next_one_is_a_period_away_however_much_was_missed() -> None:
    steady = Steady()
    period = SteadyPeriod(1, 1, steady)
    steady.at += 86400
    now = NOON + timedelta(days=7300)
    assert period.get_next_fire_time(NOON, now) == now + timedelta(seconds=1)


def test_a_run_that_is_overdue_is_planned_at_once_and_never_in_the_past() -> None:
    steady = Steady()
    period = SteadyPeriod(60, 1, steady)
    steady.at += 5
    assert NOON < period.get_next_fire_time(None, NOON) < NOON + timedelta(seconds=0.001)
