"""Periods of the scheduler: by the monotonic clock, whatever is told of the wall clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from registry.periodic import PeriodicScheduler, SteadyPeriod

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


def test_what_is_logged_of_a_run_that_was_skipped_names_the_job_and_its_period() -> None:
    scheduler = PeriodicScheduler(threads=1)
    scheduler.every(2.5, print, first_s=60, name="retention")
    scheduler.start(paused=True)
    try:
        assert str(scheduler.get_jobs()[0]).startswith("retention (trigger: every 2.5 s, next run at: ")
    finally:
        scheduler.shutdown()
