"""Small ONNX models from a few words: one operator with its operands, the items wherever they are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Operand = Any
"""`"N,3"`: an input of floats with the items along axis 0. `"3,N"`: the same, turned by a Transpose. `"int64 N,3"`: of
that type. An array: a constant. None: left out. COUNT: the number of items as a float."""
COUNT = object()
OPSET = 21


def one(
    op: str,
    *operands: Operand,
    opset: int = OPSET,
    domain: str = "",
    outputs: int = 1,
    use: int = 0,
    back: list[int] | None = None,
    rank: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """y = op(operands).

    Args:
        op: The operator, with its `attributes`.
        operands: What goes in, see `Operand`.
        opset: Of ai.onnx.
        domain: Of the operator.
        outputs: How many it has.
        use: Which of them is the model's output.
        back: The order of axes in which the result becomes the output.
        rank: Of the output, if that is not the first operand's.
    """
    graph = Graph(opset)
    names = [graph.operand(operand) for operand in operands]
    if any(each is COUNT for each in operands) and not graph.inputs:
        graph.operand("N,3")
    made = [f"o{at}" for at in range(outputs)]
    graph.node(op, names, made, domain=domain, **attributes)
    result = made[use]
    if back is not None:
        result = graph.node("Transpose", [result], perm=back)[0]
    return graph.model(result)


class Graph:
    """A model in the making."""

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._count = 0

    def name(self) -> str:
        """A new one."""
        self._count += 1
        return f"t{self._count}"

    def node(
        self, op: str, names: list[str], made: list[str] | None = None, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Adds one; the names of what it gives."""
        made = [self.name()] if made is None else made
        self.nodes.append(helper.make_node(op, names, made, domain=domain, **attributes))
        return made

    def __call__(self, op: str, *operands: Operand, **attributes: Any) -> str:
        """Adds one with operands, names among them as `@name`; the name of its first output."""
        names = [
            each[1:] if isinstance(each, str) and each.startswith("@") else self.operand(each) for each in operands
        ]
        return "@" + self.node(op, names, **attributes)[0]

    def operand(self, operand: Operand) -> str:
        """The name of it."""
        if operand is None:
            return ""
        if operand is COUNT:
            if not self.inputs:
                self.operand("N,3")
            sizes = self.node("Shape", [self.inputs[0].name])[0]
            first = self.node("Gather", [sizes, self.operand(np.array(0))])[0]
            return self.node("Cast", [first], to=TensorProto.FLOAT)[0]
        if isinstance(operand, np.ndarray):
            name = self.name()
            self.constants.append(numpy_helper.from_array(operand, name))
            return name
        *kind, text = operand.split(" ")
        dims = [part if part == "N" else int(part) if part.isdigit() else part for part in text.split(",")]
        at = dims.index("N")
        moved = [dims[at], *dims[:at], *dims[at + 1 :]]
        name = self.name()
        element = TensorProto.DataType.Value((kind[0] if kind else "float").upper())
        self.inputs.append(helper.make_tensor_value_info(name, element, moved))
        if at == 0:
            return name
        order = [*range(1, at + 1), 0, *range(at + 1, len(dims))]
        return self.node("Transpose", [name], perm=order)[0]

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The whole, whose outputs have no declared type: ONNX Runtime works them out."""
        results = [onnx.ValueInfoProto(name=name.removeprefix("@")) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, results, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
