"""What is stale, when the registry is asked again, and how much is told of documents that are refused."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from agent.core.trust import (
    REFRESH_S,
    SOONEST_S,
    TELL_AGAIN_S,
    Refusals,
    TrustStanding,
    freshness,
    refresh_pause_s,
)

NOW = datetime(2027, 1, 1, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
FRESH = TrustStanding(floor=NOW - DAY, expires=NOW + DAY, image_root=1, director_root=1)


def test_what_has_not_expired_stops_nothing() -> None:
    found = freshness(NOW, FRESH, NOW + 2 * DAY)
    assert (found.why_stale, found.stops, found.since, found.expires) == ("", "", None, NOW + DAY)


@pytest.mark.parametrize(
    ("metadata", "document", "since", "what"),
    [
        (NOW - DAY, NOW + DAY, NOW - DAY, "signed metadata"),
        (NOW + DAY, NOW - DAY, NOW - DAY, "signed desired state"),
        (NOW - DAY, NOW - 2 * DAY, NOW - 2 * DAY, "signed desired state"),
        (NOW, NOW + DAY, NOW, "signed metadata"),
    ],
)
def test_stale_since_is_when_the_first_of_it_expired(
    metadata: datetime, document: datetime, since: datetime, what: str
) -> None:
    found = freshness(NOW, TrustStanding(floor=NOW - DAY, expires=metadata), document)
    assert found.since == since
    assert what in found.stops


def test_a_device_that_was_told_nothing_yet_is_stale_by_its_metadata_alone() -> None:
    assert freshness(NOW, FRESH, None).stops == ""
    assert freshness(NOW + 2 * DAY, FRESH, None).since == NOW + DAY


def test_a_clock_before_the_last_signed_time_is_not_believed() -> None:
    found = freshness(NOW - 2 * DAY, FRESH, None)
    assert "set the clock" in found.stops
    assert found.since is None  # nobody knows


def test_without_metadata_it_is_stale_and_the_first_install_asks_for_them() -> None:
    found = freshness(NOW, TrustStanding(floor=NOW - DAY), None)
    assert found.why_stale
    assert not found.stops


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_metadata_are_asked_for_long_before_they_expire(chance: float) -> None:
    assert SOONEST_S <= refresh_pause_s(NOW, FRESH, 0, chance) <= REFRESH_S
    late = TrustStanding(floor=NOW - DAY, expires=NOW + timedelta(hours=1))
    assert SOONEST_S * 0.75 <= refresh_pause_s(NOW, late, 0, chance) <= 1800


def test_metadata_that_have_expired_are_not_asked_for_without_a_pause() -> None:
    gone = TrustStanding(floor=NOW - DAY, expires=NOW - DAY)
    assert refresh_pause_s(NOW, gone, 0, 0.0) >= SOONEST_S * 0.75
    assert refresh_pause_s(NOW, gone, 9, 1.0) > refresh_pause_s(NOW, gone, 1, 1.0)


def test_a_flood_of_refusals_is_counted_whole_and_told_a_few_times() -> None:
    refusals = Refusals()
    told = [refusals.add("signature", number / 100) for number in range(100_000)]
    assert refusals.counts == {"signature": 100_000}
    assert sum(1 for count in told if count) == 1 + int(100_000 / 100 // TELL_AGAIN_S)
    assert refusals.add("rollback", 1000.0) == 1


def test_each_telling_says_how_many_came_since_the_last() -> None:
    refusals = Refusals()
    assert [refusals.add("signature", at) for at in (0.0, 1.0, 2.0, TELL_AGAIN_S)] == [1, 0, 0, 3]
