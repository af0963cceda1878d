"""The smallest ONNX file, by hand: workers have no package that writes ONNX. Field numbers: onnx.proto."""

from __future__ import annotations

from collections.abc import Sequence


def tiny_model(ir_version: int, opset: int) -> bytes:
    """y = -x for one float (ModelProto, GraphProto, NodeProto)."""
    one = _field(1, _number(1, 1))  # TensorShapeProto with one dimension of 1
    tensor = _field(1, _number(1, 1) + _field(2, one))  # TypeProto: a float tensor of that shape
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Neg")
    graph = _field(1, node) + _field(2, b"tiny")
    graph += _field(11, _field(1, b"x") + _field(2, tensor)) + _field(12, _field(1, b"y") + _field(2, tensor))
    return _number(1, ir_version) + _field(7, graph) + _field(8, _number(2, opset))


def text_model(shape: Sequence[int], texts: Sequence[str]) -> bytes:
    """y = a constant tensor of these texts (TensorProto.string_data), with no inputs."""
    tensor = b"".join(_number(1, dim) for dim in shape) + _number(2, 8)
    tensor += b"".join(_field(6, text.encode()) for text in texts)
    node = (
        _field(2, b"y") + _field(4, b"Constant") + _field(5, _field(1, b"value") + _field(5, tensor) + _number(20, 4))
    )
    output = _field(1, b"y") + _field(2, _field(1, _number(1, 8)))
    graph = _field(1, node) + _field(2, b"text") + _field(12, output)
    return _number(1, 7) + _field(7, graph) + _field(8, _number(2, 13))


def _number(field: int, value: int) -> bytes:
    """A protobuf varint field."""
    return _varint(field << 3) + _varint(value)


def _field(field: int, payload: bytes) -> bytes:
    """A protobuf length-delimited field."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    pieces = bytearray()
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)
