"""A log line says when, with the zone, and which device, request, rollout and trace it belongs to; as text and JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from datetime import datetime

from registry.log_format import IDS, MAX_ID, JsonFormatter, TextFormatter, ids, ids_of, is_journal


def record(text: str, *args: object, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("agent.test", level, __file__, 1, text, args, None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_is_one_object_with_zone_level_logger_message_and_ids() -> None:
    with ids(rollout="r-7", request=None):
        line = JsonFormatter({"device": "edge-1"}).format(record("model %s\nfailed", "lenet", model="lenet"))
    assert "\n" not in line
    told = json.loads(line)
    assert datetime.fromisoformat(told.pop("time")).utcoffset() is not None
    assert told == {
        "level": "warning",
        "logger": "agent.test",
        "message": "model lenet\nfailed",
        "device": "edge-1",
        "model": "lenet",
        "rollout": "r-7",
    }


def test_a_traceback_is_a_member_of_the_json_line() -> None:
    made = record("it failed")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    told = json.loads(JsonFormatter({}).format(made))
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("ValueError: why")


def test_a_line_for_people_ends_with_its_ids_but_not_with_the_process_own() -> None:
    with ids(device="edge-1", trace="ab" * 16):
        line = TextFormatter({"device": "edge-1"}).format(record("done"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d WARNING agent\.test: done \[trace=(ab){16}\]", line
    )
    assert TextFormatter({}).format(record("done")).endswith("agent.test: done")


def test_what_came_from_outside_begins_no_line_for_people_and_steers_no_terminal() -> None:
    made = record("admin yanked lenet 1.0.0: %s", "a\nERROR forged\x1b[31m\r\u202ered")
    try:
        raise ValueError("why\x1b[2J")
    except ValueError:
        made.exc_info = sys.exc_info()
    line, *traceback = TextFormatter({}).format(made).splitlines()
    assert line.endswith(r"lenet 1.0.0: a\nERROR forged\x1b[31m\r\u202ered")
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == r"ValueError: why\x1b[2J"


def test_ids_end_with_their_block_are_bounded_and_the_line_itself_wins() -> None:
    with ids(rollout="outer", device="d"):
        with ids(rollout="x" * 1000):
            assert ids_of(record("a"))["rollout"] == "x" * MAX_ID
        assert ids_of(record("a", rollout="own")) == {"device": "d", "rollout": "own"}
    assert ids_of(record("a")) == {}
    assert set(ids_of(record("a", **dict.fromkeys(IDS, "1"), other="2"))) == set(IDS)


def test_only_the_journal_that_systemd_names_is_taken_for_one() -> None:
    with open(os.devnull, "w", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:1"})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})
