"""Failures to sign in."""

from __future__ import annotations

from registry.core.attempts import CALLERS, MOST, WINDOW_S, Attempts


def test_a_caller_waits_after_so_many_failures_until_the_first_is_old() -> None:
    attempts = Attempts()
    for second in range(MOST):
        assert attempts.wait_s("a", second) == 0
        attempts.failed("a", second)
    assert attempts.wait_s("a", MOST) == WINDOW_S - MOST
    assert attempts.wait_s("b", MOST) == 0
    assert attempts.wait_s("a", WINDOW_S) == 0


def test_only_so_many_callers_are_remembered() -> None:
    attempts = Attempts()
    for _ in range(MOST):
        attempts.failed("first", 0)
    for number in range(CALLERS):
        attempts.failed(str(number), 1)
    assert attempts.wait_s("first", 1) == 0
