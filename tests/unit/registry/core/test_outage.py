"""What is said of something that fails for a while: little, and enough."""

from __future__ import annotations

from registry.core.outage import REPEAT_S, Outage


def test_it_is_said_once_when_it_begins_and_once_when_it_ends() -> None:
    outage = Outage("the disk")
    assert outage.worked(0.0) is None
    assert outage.failed("full", "no room", 1.0) == "the disk: no room; trying again"
    assert [outage.failed("full", f"no room for {n}", 1.0 + n) for n in range(5)] == [None] * 5
    assert outage.worked(11.0) == "the disk: works again after 10.0 s and 6 failures"
    assert outage.worked(12.0) is None


def test_another_kind_of_failure_and_a_long_one_are_said_again() -> None:
    outage = Outage("the disk")
    outage.failed("full", "no room", 0.0)
    assert outage.failed("error", "it fails", 5.0) == "the disk: it fails; 2 failures in 5 s"
    assert outage.failed("error", "it fails", 6.0) is None
    assert outage.failed("error", "it fails", 6.0 + REPEAT_S) is not None
