"""Which operator an output of an ONNX model comes from: whether it ends in softmax or sigmoid itself."""

from __future__ import annotations

from typing import Any

_PASSING = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Transpose", "Dropout"})
"""Operators that leave the numbers of their first input as they are."""
_STEPS = 32


def last_operators(model: Any) -> dict[str, str]:
    """Output to the operator that makes its numbers; nothing for what is not made by a standard one of the graph."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    found: dict[str, str] = {}
    for output in model.graph.output:
        node = makers.get(output.name)
        for _ in range(_STEPS):
            if node is None or node.op_type not in _PASSING or not node.input:
                break
            node = makers.get(node.input[0])
        if node is not None and node.domain in ("", "ai.onnx"):
            found[output.name] = node.op_type
    return found
