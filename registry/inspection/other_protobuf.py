"""Models of other programs that are protobuf, too, told by their outermost fields (TensorFlow, Core ML, Caffe, Paddle).

Sources: tensorflow/core/framework/graph.proto and protobuf/saved_model.proto, Core ML's Model.proto, caffe.proto,
paddle/fluid/framework/framework.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.inspection import protobuf

_TF = "convert it to ONNX (tf2onnx)"
_GRAPH_FIELD = 7
"""Of ONNX's ModelProto."""


def other_model(seen: Sequence[protobuf.Field]) -> str | None:
    """What a file with these fields is, in words that follow `is`; None: nothing of these."""
    numbers = {field.number for field in seen}
    first = next((field for field in seen if field.number == 1), None)
    if first is None:
        return None
    if first.wire_type == protobuf.VARINT and _GRAPH_FIELD not in numbers:
        return _by_version(seen, numbers)
    if first.wire_type != protobuf.LENGTH_DELIMITED:
        return None
    if first.head.startswith(b"\x08\x00\x10"):
        return "a PaddlePaddle program (.pdmodel); convert it to ONNX (paddle2onnx)"
    if _is_node(first.head) or (first.head.startswith(b"\n") and numbers <= {1, 2, 3, 4, 5} and 4 in numbers):
        return f"a TensorFlow GraphDef (.pb); {_TF}"
    if numbers & {2, 100} and numbers <= {1, 2, 3, 4, 5, 6, 7, 8, 100} and 100 in numbers:
        return "a network of Caffe (.caffemodel); export the model to ONNX"
    return None


def _by_version(seen: Sequence[protobuf.Field], numbers: set[int]) -> str | None:
    """Files that begin with a version number, as ONNX does."""
    if any(number >= 200 for number in numbers):
        return "a Core ML model (.mlmodel); publish the ONNX file of the original model"
    second = [field for field in seen if field.number == 2]
    if second and numbers <= {1, 2} and second[0].length > 8 and second[0].head.startswith(b"\n"):
        return f"a TensorFlow SavedModel (saved_model.pb); {_TF}"
    return None


def _is_node(head: bytes) -> bool:
    """A NodeDef: its name, then its operator as text, where a checkpoint has a tensor."""
    if len(head) < 3 or head[0] != 0x0A or head[1] > 0x7F:
        return False
    at = 2 + head[1]
    if head[at : at + 1] != b"\x12" or len(head) < at + 3:
        return False
    operator = head[at + 2 : at + 2 + head[at + 1]]
    return (
        len(operator) >= 3 and operator.isascii() and operator.replace(b"_", b"").isalnum() and operator[:1].isalpha()
    )
