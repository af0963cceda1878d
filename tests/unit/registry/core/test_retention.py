"""An hour of health is the same whatever order its reports came in, and however it was put together."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from registry.contracts.device.messages import Health, ModelHealth, Quantiles
from registry.core.retention import HourOfHealth, Increase, RetentionLimits, before, hour_of

NOW = datetime(2030, 5, 1, 12, 34, 56, 789, tzinfo=timezone.utc)


def report(seq: int, **values: object) -> Health:
    return Health.model_validate(
        {"device": "d", "session_id": "s", "seq": seq, "at": NOW, "window_s": 60, "uptime_s": 60, **values}
    )


def hour(*reports: tuple[Health, list[Increase]]) -> HourOfHealth:
    made = HourOfHealth()
    for health, increases in reports:
        made.add(health, increases)
    return made


REPORTS = [
    (report(1, cpu_fraction=0.5, rss_bytes=100, disk_free_bytes=9, temperatures_c={"a": 40, "b": 60}), []),
    (report(2, cpu_fraction=0.25, rss_bytes=300, disk_free_bytes=5), [Increase("m", "1", 10, {"overloaded": 2})]),
    (
        report(3, models={"m": ModelHealth(latency_us=Quantiles(p99=900), queue_depth=3)}),
        [Increase("m", "1", 5, {}), Increase("m", "2", 1, {})],
    ),
]


def test_an_hour_keeps_means_extremes_and_sums() -> None:
    made = hour(*REPORTS)
    assert made.samples == 3
    assert made.mean("cpu_fraction") == pytest.approx(0.375)
    assert made.mean("load_1m") is None
    assert made.peaks == {"cpu_fraction": 0.5, "rss_bytes": 300, "temperature_c": 60}
    assert made.troughs == {"disk_free_bytes": 5}
    assert made.models == {"m": {"requests": 16, "errors": 2, "p99_us": 900, "queue_depth": 3}}


def test_parts_of_an_hour_merge_to_the_whole_in_any_order() -> None:
    whole = hour(*REPORTS)
    for split in range(4):
        first, rest = hour(*REPORTS[:split]), hour(*REPORTS[split:])
        first.merge(rest)
        assert first == whole
        rest = hour(*REPORTS[split:])
        rest.merge(hour(*REPORTS[:split]))
        assert rest == whole


def test_an_hour_survives_being_stored() -> None:
    made = hour(*REPORTS)
    assert HourOfHealth.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_an_hour_begins_at_the_full_utc_hour() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert hour_of(elsewhere) == datetime(2030, 5, 1, 12, tzinfo=timezone.utc)


def test_what_is_older_than_its_hours_is_before_the_limit() -> None:
    assert before(NOW, 48) == NOW - timedelta(days=2)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="health_hours"):
        RetentionLimits(health_hours=0)
