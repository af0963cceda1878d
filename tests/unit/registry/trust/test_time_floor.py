"""A clock below what is known to be past is not believed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from tuf.api.metadata import Metadata

from registry.trust.time_floor import RELEASED, known_time, signed_at, time_floor
from tests.support.signed_metadata import NOW, MemoryImageRepository


def test_the_floor_is_the_latest_of_the_release_and_what_was_signed() -> None:
    assert time_floor() == time_floor(None, RELEASED - timedelta(days=1)) == RELEASED
    assert time_floor(NOW, NOW - timedelta(days=1), None) == NOW


def test_a_clock_below_the_floor_is_unknown() -> None:
    assert known_time(datetime(1970, 1, 1, tzinfo=timezone.utc), NOW) is None
    assert known_time(NOW, NOW) == NOW


def test_a_timestamp_says_when_it_was_signed() -> None:
    signed = Metadata.from_bytes(MemoryImageRepository().files().timestamp).signed
    assert signed_at(signed.unrecognized_fields) == NOW


@pytest.mark.parametrize("said", [None, 5, "", "yesterday", "2027-01-01T00:00:00"])
def test_a_time_that_is_none_is_passed_over(said: object) -> None:
    assert signed_at({"signed_at": said}) is None
