"""One node as the rules see it, and the table of rules: the allow-list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from registry.inspection.independence.values import Value, refuse

NEWEST_OPSET = 28
"""Of ai.onnx. What a newer one means was not read when the rules were written."""
NEWEST_ML_OPSET = 5
ML = "ai.onnx.ml"


@dataclass
class Node:
    """An operator with what goes in."""

    op: str
    opset: int
    inputs: Sequence[Value | None]
    """None: left out."""
    attributes: dict[str, Any]
    outputs: int
    """How many outputs have a name, counted up to the last that has one."""
    used: Sequence[bool]
    """Which of them."""
    graph: Callable[[Any, Sequence[Value]], list[Value]] = field(repr=False, default=lambda *_: [])
    """Follows a subgraph: (graph, what its inputs are) to what its outputs are."""

    def input(self, index: int) -> Value | None:
        """None: left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Value:
        """Raises NotIndependentError: left out."""
        value = self.input(index)
        if value is None:
            raise refuse(f"its input {index} is missing")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """As Python values; texts are str, tensors and graphs their messages."""
        return self.attributes.get(name, default)

    def rest_constant(self, *items: int) -> None:
        """Only these inputs may hold items. Raises NotIndependentError."""
        for index, value in enumerate(self.inputs):
            if index not in items and value is not None and value.is_item:
                raise refuse(f"its input {index} depends on the items")

    def numbers(self, index: int) -> list[int] | None:
        """The known integers of an input; None: it is left out. Raises NotIndependentError: not known."""
        value = self.input(index)
        if value is None:
            return None
        if value.is_item or value.numbers is None:
            raise refuse(f"its input {index} is not known when the model is published")
        return value.numbers

    def floats(self, index: int) -> list[float] | None:
        """The known floats of an input; None: they are not known."""
        value = self.input(index)
        return None if value is None or value.floats is None else list(value.floats)

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        """The attribute, from 0. Raises NotIndependentError: out of range."""
        return place(int(self.attribute(name, default)), rank)


def place(axis: int, rank: int) -> int:
    """An axis from 0. Raises NotIndependentError: out of range."""
    if not -rank <= axis < rank:
        raise refuse(f"axis {axis} of {rank} dimensions")
    return axis % rank


Rule = Callable[[Node], "list[Value]"]


class OperatorRule(NamedTuple):
    """One operator of the allow-list."""

    rule: Rule
    first: int
    """The oldest opset whose meaning the rule knows."""
    last: int
    """The newest version of the operator that was read."""
    note: str
    """When it is accepted, for the documentation."""
    shapes: bool
    """The rule knows what to do with the batch size as a number."""


RULES: dict[tuple[str, str], OperatorRule] = {}


def rule(*ops: str, first: int = 1, note: str, domain: str = "", shapes: bool = False) -> Callable[[Rule], Rule]:
    """Puts a rule into the table. `ops`: words NAME:LAST, where LAST is the newest version that was read."""

    def put(function: Rule) -> Rule:
        for text in " ".join(ops).split():
            name, _, newest = text.partition(":")
            RULES[domain, name] = OperatorRule(function, first, int(newest), note, shapes)
        return function

    return put


def along(value: Value, axis: int, what: str) -> None:
    """Raises NotIndependentError when the items lie along `axis` (from 0)."""
    if value.axis == axis:
        raise refuse(f"{what} along the axis of the items")
