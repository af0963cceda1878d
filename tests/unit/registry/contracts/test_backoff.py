"""Pauses between tries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.backoff import Backoff


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_is_never_over_the_cap_nor_under_half_of_the_first(attempt: int, chance: float) -> None:
    assert 0.5 <= Backoff(1.0, 300.0).delay(attempt, chance) <= 300.0


def test_pauses_grow_by_the_factor_until_the_cap() -> None:
    assert [Backoff(0.25, 10.0).delay(attempt) for attempt in range(1, 9)] == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert [Backoff(2.0, 100.0, factor=3.0).delay(attempt) for attempt in (1, 2, 5)] == [2, 6, 100]
    assert [Backoff(15.0, 15.0, factor=1.0).delay(attempt, 0.0) for attempt in (0, 1, 2)] == [7.5, 7.5, 7.5]


def test_another_longest_pause_may_be_shorter_or_longer() -> None:
    assert [Backoff(1.0, 60.0).delay(20, cap_s=cap) for cap in (None, 30.0, 3600.0)] == [60, 30, 3600]


def test_only_a_limit_ends_the_tries() -> None:
    limited = Backoff(1.0, 1.0, limit=3)
    assert [limited.exhausted(attempt) for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert not Backoff(1.0, 1.0).exhausted(1_000_000)
