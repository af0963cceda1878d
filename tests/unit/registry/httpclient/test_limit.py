"""Every exchange over HTTP has an end: a short one a deadline, a long one while it makes progress."""

from __future__ import annotations

import httpcore
import pytest

from registry.httpclient.transport import PIECE, Limit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_gets_what_is_left_and_no_more_than_its_own_timeout() -> None:
    clock = Clock()
    limit = Limit(30.0, clock)
    assert limit.left(20.0, httpcore.ReadTimeout) == 20.0
    clock.now = 25.0
    assert limit.left(20.0, httpcore.ReadTimeout) == 5.0
    assert limit.left(None, httpcore.ReadTimeout) == 5.0


def test_a_byte_now_and_then_does_not_put_the_end_off() -> None:
    clock = Clock()
    limit = Limit(30.0, clock)
    for _ in range(30):
        limit.left(20.0, httpcore.ReadTimeout)
        limit.carried(1)
        clock.now += 1.0
    with pytest.raises(httpcore.ReadTimeout):
        limit.left(20.0, httpcore.ReadTimeout)


def test_progress_puts_the_end_off_for_as_long_as_it_is_made() -> None:
    clock = Clock()
    limit = Limit(60.0, clock)
    for _ in range(100):
        clock.now += 59.0
        limit.left(20.0, httpcore.ReadTimeout)
        limit.carried(PIECE)
    clock.now += 60.0
    with pytest.raises(httpcore.WriteTimeout, match="60 s"):
        limit.left(20.0, httpcore.WriteTimeout)
