"""An answer that carries on with a file is taken only where it begins at the byte that was asked for."""

from __future__ import annotations

import pytest

from registry.httpclient.ranges import RangeError, body_start

SIZE = 1000


def rest(start: int, size: int = SIZE) -> dict[str, str]:
    return {"content-range": f"bytes {start}-{size - 1}/{size}"}


@pytest.mark.parametrize(
    ("status", "headers", "asked", "begins"),
    [
        (200, {}, 0, 0),
        (200, {"content-length": "1000"}, 0, 0),
        (200, {"content-length": "1000"}, 400, 0),  # the whole, whatever was asked for
        (200, {"content-encoding": "gzip", "content-length": "70"}, 0, 0),  # decoded, it may be the file
        (206, rest(400), 400, 400),
        (206, {**rest(400), "content-length": "600"}, 400, 400),
        (206, rest(0), 0, 0),
    ],
)
def test_the_whole_and_the_rest_that_was_asked_for_are_taken(
    status: int, headers: dict[str, str], asked: int, begins: int
) -> None:
    assert body_start(status, headers, asked, SIZE) == begins


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (206, {}, "another range"),
        (206, rest(399), "another range"),
        (206, rest(400, 1001), "another range"),
        (206, {"content-range": "bytes 400-500/1000"}, "another range"),
        (206, {**rest(400), "content-length": "601"}, "601 bytes are to come, not the 600"),
        (200, {"content-length": "999"}, "999 bytes are to come, not the 1000"),
        (204, {}, "status 204"),
    ],
)
def test_another_range_or_another_size_is_refused(status: int, headers: dict[str, str], says: str) -> None:
    with pytest.raises(RangeError, match=says) as refused:
        body_start(status, headers, 400, SIZE)
    assert not refused.value.recoded


def test_a_part_that_was_recoded_on_the_way_is_told_apart() -> None:
    with pytest.raises(RangeError, match="recodes") as refused:
        body_start(206, {**rest(400), "content-encoding": "gzip"}, 400, SIZE)
    assert refused.value.recoded
