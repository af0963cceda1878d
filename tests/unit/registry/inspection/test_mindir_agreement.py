"""What the registry refuses in a MindIR and what agents refuse is the same list, in two rooms that cannot share one."""

from __future__ import annotations

from agent.backends import mindir as on_device
from registry.inspection import mindir as at_publish
from registry.inspection.mindir import MAX_DEPTH


def test_both_refuse_the_same_operators() -> None:
    assert {"custom", *at_publish.CODE_OPERATORS} == set(on_device.CODE_OPERATORS)


def test_both_refuse_the_same_values_and_know_the_same_datatypes() -> None:
    assert set(at_publish.CODE_VALUES) == set(on_device.CODE_VALUES)
    assert {code: str(name) for code, name in at_publish._DATATYPES.items()} == on_device.DATATYPES
    assert MAX_DEPTH == on_device.MAX_DEPTH
