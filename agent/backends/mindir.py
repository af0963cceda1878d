"""What a MindIR file says of itself, read with MindSpore's own protobuf classes, before MindSpore loads it.

Source: mindspore/core/proto/mind_ir.proto (ModelProto, GraphProto, NodeProto, PrimitiveProto). Refused are operators
that load a library or run Python, values that name Python objects, and parameter files outside the artifact.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from agent.backends.base import BackendError, TensorInfo

MAX_OUTPUTS = 64
MAX_NODES = 1_000_000
MAX_DEPTH = 32
"""Graphs within attributes of graphs, attributes within attributes."""
DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    17: "FP64",
}
"""TensorProto.DataType in the words of the Open Inference Protocol. NumPy has no bfloat16; strings are not tensors."""
CODE_OPERATORS = ("custom", "pyexecute", "pyinterpret", "pyfunc", "resolve", "getattr")
"""An operator whose name has one of these in it (whatever the case) may run code that the file brings or names."""
CODE_VALUES = {32: "CLASS_TYPE", 33: "NAME_SPACE", 34: "SYMBOL"}
"""AttributeProto.AttributeType of values that name Python objects."""
_REFERENCE = "REF::"


class MindIr(NamedTuple):
    """The facts of one file."""

    producer: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: tuple[str, ...]
    """Sorted, each once."""


def inspect(path: str) -> MindIr:
    """Parses and checks. Raises BackendError(load_failed) for what is no MindIR, and for what may run code."""
    model = _parse(path)
    operators = set()
    for operator, values in _walk(model):
        operators.add(operator)
        lowered = operator.lower()
        if any(part in lowered for part in CODE_OPERATORS):
            message = f"the operator {operator!r} can load and run code: export the model with built-in operators only"
            raise BackendError("load_failed", message)
        if values:
            message = f"the operator {operator!r} names a Python object ({', '.join(sorted(values))}): export it anew"
            raise BackendError("load_failed", message)
    _check_external_files(model)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    inputs = tuple(_info(value.name, value.tensor) for value in model.graph.input)
    outputs = tuple(info for value in model.graph.output for info in _outputs(value))
    return MindIr(producer, _short(inputs), _short(outputs), tuple(sorted(operators)))


def _parse(path: str) -> Any:
    from mindspore.train import mind_ir_pb2  # noqa: PLC0415 - comes with MindSpore, which is heavy

    model = mind_ir_pb2.ModelProto()
    try:
        with open(path, "rb") as stream:
            model.ParseFromString(stream.read())
    except OSError as error:
        raise BackendError("load_failed", f"the model file cannot be read: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001 - protobuf's DecodeError has no fixed place among its versions
        raise BackendError("load_failed", f"the file is no MindIR, or it is cut short: {error}") from None
    if not model.HasField("graph") or not model.graph.output:
        message = "the file is no MindIR that can be run: it has no graph with outputs (encrypted, or something else?)"
        raise BackendError("load_failed", message)
    return model


def _walk(model: Any) -> Iterator[tuple[str, set[str]]]:
    """(operator, kinds of Python objects that it names) of every node and primitive, functions included."""
    count = 0
    for primitive in model.primitives:
        yield primitive.op_type or primitive.name, _objects(primitive.attribute)
        yield primitive.instance_name, set()
    graphs = [(graph, 0) for graph in (model.graph, *model.functions)]
    while graphs:
        graph, depth = graphs.pop()
        if depth > MAX_DEPTH:
            raise BackendError("load_failed", f"graphs within graphs, deeper than {MAX_DEPTH}")
        for node in graph.node:
            count += 1
            if count > MAX_NODES:
                raise BackendError("load_failed", f"the model has more than {MAX_NODES} operators")
            attributes = (*node.attribute, *node.node_attr, *node.primal_attr)
            yield node.op_type.removeprefix(_REFERENCE).split(":")[0], _objects(attributes)
            inner = (g for attribute in attributes for g in (attribute.g, *attribute.graphs) if g.node)
            graphs += [(g, depth + 1) for g in inner]


def _objects(attributes: Any) -> set[str]:
    """Which of CODE_VALUES these attributes hold, nested ones too."""
    found: set[str] = set()
    pending = [(attribute, 0) for attribute in attributes]
    while pending:
        attribute, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise BackendError("load_failed", f"values within values, deeper than {MAX_DEPTH}")
        if attribute.type in CODE_VALUES:
            found.add(CODE_VALUES[attribute.type])
        pending += [(value, depth + 1) for value in attribute.values]
    return found


def _check_external_files(model: Any) -> None:
    """Large parameters lie in files beside the MindIR, never elsewhere."""
    places = [
        parameter.external_data.location for graph in (model.graph, *model.functions) for parameter in graph.parameter
    ]
    places += [graph.bprop_filepath for graph in (model.graph, *model.functions)]
    for place in filter(None, places):
        if os.path.isabs(place) or ".." in place.replace("\\", "/").split("/"):
            raise BackendError("load_failed", f"the model wants the file {place!r}, which is outside the artifact")


def _outputs(value: Any) -> list[TensorInfo]:
    """A network that returns several tensors has one output, a tuple: each element is an output here."""
    if value.tensor:
        return [_info(value.name, value.tensor)]
    elements = value.attr_info.values
    if not 0 < len(elements) <= MAX_OUTPUTS:
        raise BackendError("load_failed", f"{value.name!r} is neither a tensor nor a tuple of up to {MAX_OUTPUTS}")
    return [_info(f"{value.name}_{index}", element.tensors) for index, element in enumerate(elements)]


def _info(name: str, tensors: Any) -> TensorInfo:
    if len(tensors) != 1:
        raise BackendError("load_failed", f"{name!r} is not one tensor: export the model with plain tensors")
    tensor = tensors[0]
    datatype = DATATYPES.get(tensor.data_type)
    if datatype is None:
        raise BackendError("load_failed", f"{name!r} has MindSpore's data type {tensor.data_type}: not supported")
    return TensorInfo(name, datatype, tuple(dim if dim >= 0 else -1 for dim in tensor.dims))


def _short(tensors: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """Without the scopes before the last colon, as long as the names stay different."""
    short = tuple(tensor._replace(name=tensor.name.rsplit(":", 1)[-1] or tensor.name) for tensor in tensors)
    return short if len({tensor.name for tensor in short}) == len(tensors) else tensors
