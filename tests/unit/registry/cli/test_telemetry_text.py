"""What figures of health say of themselves: of which time they are, and a dash where nothing was measured."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from registry.cli.fleet.telemetry import _meaning, _ms
from registry.cli.output import time_text


def test_a_quantile_of_nothing_is_a_dash_and_a_short_one_is_no_zero() -> None:
    assert [_ms(value) for value in (0, 3.0, 12.0, 1234.0)] == ["-", "3 us", "0.01 ms", "1.23 ms"]


def test_a_time_names_its_zone() -> None:
    assert re.fullmatch(r"2026-01-0\d \d\d:\d\d:\d\d \S+", time_text(datetime(2026, 1, 2, 12, tzinfo=timezone.utc)))
    assert time_text(None) == "-"


def test_the_line_below_a_table_says_of_which_time_its_figures_are() -> None:
    text = _meaning("the start of each agent", "the 60 s before")
    assert "REQUESTS, ERRORS: totals since the start of each agent." in text
    assert "CPU, p50, p99: of the 60 s before the report." in text
