"""What a MindIR file says of itself, read with MindSpore's own protobuf classes, before MindSpore loads it.

Source: mindspore/core/proto/mind_ir.proto (ModelProto, GraphProto, NodeProto, PrimitiveProto). Refused are operators
that load a library or run Python, values that name Python objects, and parameter files outside the artifact.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from agent.backends.base import BackendError, TensorInfo

MAX_OUTPUTS = 64
MAX_MESSAGES = 5_000_000
MAX_DEPTH = 40
"""Messages within messages: a tensor in an attribute of a node is four deep."""
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


def inspect(path: str) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """What goes into a model and comes out, in the order of its calls.

    Raises BackendError(load_failed) for what is no MindIR, and for what may run code.
    """
    model = _parse(path)
    calls = {_REFERENCE + function.name for function in model.functions}  # by names that the user gave
    for message in _messages(model):
        names = _operators(message)
        if message.DESCRIPTOR.name != "NodeProto" or names[0] not in calls:
            _check_operators(names)
        _check_place(message)
        if message.DESCRIPTOR.name == "AttributeProto" and message.type in CODE_VALUES:
            kind = CODE_VALUES[message.type]
            raise BackendError(
                "load_failed", f"{message.name!r} names a Python object ({kind}): export the model again"
            )
    inputs = tuple(_info(value.name, value.tensor) for value in model.graph.input)
    outputs = tuple(info for value in model.graph.output for info in _outputs(value))
    return _short(inputs), _short(outputs)


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
        raise BackendError(
            "load_failed",
            "the file is no MindIR that can be run: it has no graph with outputs (encrypted, or something else?)",
        )
    return model


def _messages(model: Any) -> Iterator[Any]:
    """Every message inside the model, wherever it stands; tensors without their data, which may be large."""
    count = 0
    pending = [(model, 0)]
    while pending:
        message, depth = pending.pop()
        count += 1
        if count > MAX_MESSAGES or depth > MAX_DEPTH:
            bounds = f"{MAX_MESSAGES} parts or {MAX_DEPTH} levels"
            raise BackendError("load_failed", f"the model has more than {bounds}: it is too large to be checked")
        yield message
        if message.DESCRIPTOR.name == "TensorProto":
            continue
        for field, value in message.ListFields():
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                inner = [value] if hasattr(value, "DESCRIPTOR") else value
                pending += [(part, depth + 1) for part in inner]


def _operators(message: Any) -> tuple[str, ...]:
    """The operators that a message names."""
    if message.DESCRIPTOR.name == "NodeProto":
        return (message.op_type,)
    if message.DESCRIPTOR.name == "PrimitiveProto":
        return tuple(filter(None, (message.name, message.op_type, message.instance_name)))
    return ()


def _check_operators(names: Sequence[str]) -> None:
    for name in names:
        if any(part in name.lower() for part in CODE_OPERATORS):
            raise BackendError(
                "load_failed",
                f"the operator {name!r} can load and run code: export the model with built-in operators only",
            )


def _check_place(message: Any) -> None:
    """Large parameters lie in files beside the MindIR, never elsewhere."""
    place = ""
    if message.DESCRIPTOR.name == "TensorProto" and message.HasField("external_data"):
        place = message.external_data.location
    elif message.DESCRIPTOR.name == "GraphProto":
        place = message.bprop_filepath
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
