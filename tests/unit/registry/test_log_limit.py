"""A flood of one message costs a bounded number of log lines, and how many were left out is written."""

from __future__ import annotations

import logging

from registry.log_limit import MOST, WINDOW_S, LogLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def line(text: str, *args: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("test", level, __file__, 1, text, args, None)


def test_a_flood_is_cut_and_other_messages_pass() -> None:
    limit = LogLimit(Clock())
    passed = [record.getMessage() for n in range(10 * MOST) if limit.filter(record := line("junk from %s", n))]
    assert passed[: MOST - 1] == [f"junk from {n}" for n in range(MOST - 1)]
    assert passed[-1] == f"junk from {MOST - 1} (more lines like this one are left out for up to {WINDOW_S:g} s)"
    assert len(passed) == MOST
    assert limit.filter(line("something else"))
    assert limit.filter(line("junk from %s", 1, level=logging.DEBUG))


def test_the_next_window_says_how_many_were_left_out() -> None:
    clock = Clock()
    limit = LogLimit(clock)
    for n in range(MOST + 7):
        limit.filter(line("junk %d %%", n))
    clock.now = WINDOW_S
    record = line("junk %d %%", 5)
    assert limit.filter(record)
    assert record.getMessage() == "junk 5 % (7 lines like this one were left out)"
    record = line("junk %d %%", 6)
    assert limit.filter(record)
    assert record.getMessage() == "junk 6 %"


def test_what_is_remembered_is_bounded() -> None:
    limit = LogLimit(Clock())
    for n in range(5000):
        assert limit.filter(line(f"text {n}"))
    assert len(limit._seen) <= 1000
