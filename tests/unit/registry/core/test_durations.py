"""Durations of devices are summed once, whatever is repeated, restarted or told by an older or newer agent."""

from __future__ import annotations

from registry.contracts.counters import DURATION_BOUNDS_S
from registry.contracts.device.messages import DurationTotals, ModelHealth
from registry.core.durations import NOTHING, Durations, told
from registry.core.retention import Totals, advance


def health(requests: int, *counts: int, sum_s: float = 0.0, **more: object) -> ModelHealth:
    latency = DurationTotals(counts=counts, sum_s=sum_s)
    return ModelHealth.model_validate({"version": "1", "requests": requests, "latency": latency, **more})


def test_a_later_report_adds_what_is_new_also_in_buckets_that_were_not_there_before() -> None:
    (first,), totals = advance({}, {"m": health(3, 1, 2, sum_s=0.5, target="gpu")})
    (then,), _ = advance(totals, {"m": health(6, 1, 4, 0, 1, sum_s=0.75)})
    assert (first.latency, first.target, first.run) == (Durations((1, 2), 0.5), "gpu", NOTHING)
    assert then.latency == Durations((0, 2, 0, 1), 0.25)


def test_a_slot_that_was_recreated_counts_whole() -> None:
    _, totals = advance({}, {"m": health(30, 10, 20, sum_s=5)})
    (anew,), _ = advance(totals, {"m": health(2, 2, sum_s=0.1)})
    assert anew.latency == Durations((2,), 0.1)
    assert Durations((2, 1), 0.1).since(Durations((3, 0), 9.0)) == Durations((2, 1), 0.1)


def test_durations_that_begin_in_the_middle_of_a_session_count_from_there() -> None:
    _, totals = advance({}, {"m": ModelHealth(version="1", requests=100)})
    (begun,), totals = advance(totals, {"m": health(101, 100, 1, sum_s=1)})
    (then,), _ = advance(totals, {"m": health(102, 100, 2, sum_s=1.5)})
    assert (begun.latency, then.latency) == (NOTHING, Durations((0, 1), 0.5))


def test_buckets_by_other_bounds_are_passed_over() -> None:
    longest = len(DURATION_BOUNDS_S) + 1
    assert told(DurationTotals(counts=(1,) * longest)) is not None
    assert told(DurationTotals(counts=(1,) * (longest + 1))) is None
    assert told(DurationTotals()) is None


def test_what_a_session_had_is_read_back_from_the_database_also_as_older_releases_wrote_it() -> None:
    totals = Totals(7, {"overloaded": 2}, None, Durations((1, 0, 6), 2.5), None)
    assert Totals.from_json(totals.to_json()) == totals
    assert Totals.from_json([7, {"overloaded": 2}, 1]) == Totals(7, {"overloaded": 2}, 1)
