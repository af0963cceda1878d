"""What people read about numbers of things."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from agent.conversion.base import Ran, failure
from registry.contracts.rollout.spec import Gate, WaveSpec
from registry.contracts.rollout.states import ActionState, WaveState
from registry.contracts.texts import how_many, without_call_stack
from registry.core.rollouts.gates import Cohorts, WaveFacts, judge
from registry.core.rollouts.waves import label

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(("number", "text"), [(0, "0 devices"), (1, "1 device"), (2, "2 devices")])
def test_one_of_something_is_no_plural(number: int, text: str) -> None:
    assert how_many(number, "device") == text
    assert label(WaveSpec(count=number or 1)) == ("1 device" if number < 2 else text)


def test_a_gate_says_that_one_device_failed() -> None:
    wave = WaveFacts(0, state=WaveState.RELEASING, counts={ActionState.FAILED: 1, ActionState.OFFERED: 5})
    assert judge(wave, Gate(max_failed_abs=0), Cohorts(), NOW).text == "1 device failed; max_failed_abs is 0"


RULE = "-" * 52


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (f"No memory. {RULE} - C++ Call Stack: (For framework developers) {RULE} a.cc:1", "No memory."),
        (f"No memory.\n\n{RULE}\n- The Traceback of Net Construct Code:\n{RULE}\nline 1", "No memory."),
        (f"{RULE} - Memory: {RULE} is gone {RULE} - C++ Call Stack: {RULE} a.cc:1", "- Memory: is gone"),
        (f"cut off {RULE}", "cut off"),
        ("3 - 2 is 1 -- not 2", "3 - 2 is 1 -- not 2"),
    ],
)
def test_what_mindspore_says_is_read_without_its_call_stack(said: str, read: str) -> None:
    assert without_call_stack(said) == read
    ran = Ran(1, f"CONVERSION RuntimeError: {' '.join(said.split())}")
    assert failure(ran) == f"RuntimeError: {read}"
