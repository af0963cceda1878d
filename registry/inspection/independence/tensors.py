"""Small integer tensors of a model file as followed elements. Needs `onnx`, whose messages it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from registry.inspection.independence.sizes import Size
from registry.inspection.independence.values import MAX_ELEMENTS, Value, constant

_FOLLOWED = frozenset({6, 7, 9})
"""INT32, INT64, BOOL: what shapes, axes and flags are written in."""
_EXTERNAL = 1


def elements_of(tensor: Any) -> tuple[Size, ...] | None:
    """The elements of a TensorProto; None: not integers, too many, in another file, or damaged."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    if tensor.data_type not in _FOLLOWED or not 0 <= count <= MAX_ELEMENTS or tensor.data_location == _EXTERNAL:
        return None
    from onnx import numpy_helper  # noqa: PLC0415 - absent where nothing is published

    try:
        found = numpy_helper.to_array(tensor).ravel().tolist()
    except (ValueError, TypeError):
        return None
    return tuple(Size(int(number)) for number in found)


def floats_of(tensor: Any) -> list[float] | None:
    """The elements of a small TensorProto of floats; None as above."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    if tensor.data_type not in (1, 10, 11) or not 0 <= count <= 64 or tensor.data_location == _EXTERNAL:
        return None
    from onnx import numpy_helper  # noqa: PLC0415 - as above

    try:
        return [float(number) for number in numpy_helper.to_array(tensor).ravel().tolist()]
    except (ValueError, TypeError):
        return None


def value_of(tensor: Any) -> Value:
    """An initializer or a constant."""
    made = constant(tuple(Size(int(dim)) for dim in tensor.dims), elements_of(tensor))
    found = floats_of(tensor)
    return made if found is None else replace(made, floats=tuple(found))
