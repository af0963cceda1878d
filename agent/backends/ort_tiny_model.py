"""The smallest ONNX file, by hand: workers have no package that writes ONNX. Field numbers: onnx.proto."""

from __future__ import annotations


def tiny_model(ir_version: int, opset: int) -> bytes:
    """y = -x for one float (ModelProto, GraphProto, NodeProto)."""
    one = _field(1, _number(1, 1))  # TensorShapeProto with one dimension of 1
    tensor = _field(1, _number(1, 1) + _field(2, one))  # TypeProto: a float tensor of that shape
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Neg")
    graph = _field(1, node) + _field(2, b"tiny")
    graph += _field(11, _field(1, b"x") + _field(2, tensor)) + _field(12, _field(1, b"y") + _field(2, tensor))
    return _number(1, ir_version) + _field(7, graph) + _field(8, _number(2, opset))


def _number(field: int, value: int) -> bytes:
    """A protobuf varint field; numbers below 128 only."""
    return bytes((field << 3, value))


def _field(field: int, payload: bytes) -> bytes:
    """A protobuf length-delimited field; payloads below 128 bytes only."""
    return bytes((field << 3 | 2, len(payload))) + payload
