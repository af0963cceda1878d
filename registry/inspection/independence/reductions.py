"""Operators that reduce, normalise or compare along some axes."""

from __future__ import annotations

from registry.inspection.independence.nodes import (
    ONE,
    Node,
    Value,
    along,
    constant,
    place,
    product,
    refuse,
    refuse_if,
    rule,
)
from registry.inspection.independence.pieces import without

_REDUCE = (
    "ReduceL1:18 ReduceL2:18 ReduceLogSum:28 ReduceLogSumExp:28 ReduceMean:18 ReduceProd:18 ReduceSum:13"
    " ReduceSumSquare:18"
)


_NAN = "beside a NaN ONNX Runtime answers otherwise for one row than for several"


@rule(_REDUCE, note="over other axes, which are known", shapes=True)
@rule("ReduceMax:20", "ReduceMin:20", note=f"of constants only: {_NAN}", shapes=True)
def reduce_(node: Node) -> list[Value]:
    """Over the axes that are named; over all when none is."""
    value = node.need(0)
    since = 13 if node.op == "ReduceSum" else 18
    axes = node.attribute("axes") if node.opset < since else node.numbers(1)
    if not axes:
        if node.attribute("noop_with_empty_axes", 0) and node.opset >= since:
            return [value.moved(value.axis, value.shape)]
        axes = range(value.rank)
    axes = [place(int(axis), value.rank) for axis in axes]
    refuse_if(value.axis in axes, "it reduces over the axis of the items")
    refuse_if(value.is_item and node.op in ("ReduceMax", "ReduceMin"), _NAN)
    keep = bool(node.attribute("keepdims", 1))
    if value.holds_batch:
        if node.op != "ReduceProd" or value.rank != 1 or value.elements is None or None in value.elements:
            raise refuse("the number of items is used as data")
        whole = product(tuple(size for size in value.elements if size is not None))
        return [constant((ONE,) if keep else (), (whole,))]
    return [Value(without(value.sizes, axes, keep=keep), _after(value, axes, keep=keep))]


def _after(value: Value, axes: list[int], *, keep: bool) -> int | None:
    if value.axis is None or keep:
        return value.axis
    return value.axis - sum(axis < value.axis for axis in axes)


@rule("ArgMax:13", "ArgMin:13", note="along another axis")
def arg(node: Node) -> list[Value]:
    """Where the largest stands along an axis."""
    value = node.need(0)
    axis = node.axis(value.rank)
    along(value, axis, "it compares")
    keep = bool(node.attribute("keepdims", 1))
    return [Value(without(value.sizes, [axis], keep=keep), _after(value, [axis], keep=keep))]


_SOFTMAX = "along other axes, LogSoftmax along the last; before opset 13 that is all from `axis` on"


@rule("Softmax:13", "LogSoftmax:13", note=_SOFTMAX)
@rule("Hardmax:13", note=f"of constants only: {_NAN}")
def softmax(node: Node) -> list[Value]:
    """Along one axis, before opset 13 along all from `axis` on together."""
    value = node.need(0)
    axis = node.axis(value.rank, -1 if node.opset >= 13 else 1)
    refuse_if(
        value.is_item and (value.axis == axis or (node.opset < 13 and (value.axis or 0) > axis)),
        "it normalises along the axis of the items",
    )
    inner = node.op == "LogSoftmax" and node.opset >= 13 and axis != value.rank - 1
    refuse_if(value.is_item and (inner or node.op == "Hardmax"), _NAN)
    return [value.moved(value.axis, value.shape)]


@rule("LayerNormalization:17", "RMSNormalization:23", note="over axes behind the items; scale and bias are constants")
def layer_normalization(node: Node) -> list[Value]:
    """Over all axes from `axis` on."""
    value = node.only()
    axis = node.axis(value.rank, -1)
    refuse_if(value.axis is not None and value.axis >= axis, "it normalises along the axis of the items")
    for other in node.inputs[1:]:
        if other is not None:
            at = (value.axis or 0) - (value.rank - other.rank)
            refuse_if(
                value.is_item and at >= 0 and other.sizes[at] != ONE,
                "a constant has several rows along the axis of the items",
            )
    rest = without(value.sizes, list(range(axis, value.rank)), keep=True)
    return [value.moved(value.axis, value.shape), *[value.moved(value.axis, rest)] * (node.outputs - 1)]


@rule("LpNormalization:22", note="along another axis")
def lp_normalization(node: Node) -> list[Value]:
    """Along one axis."""
    value = node.need(0)
    along(value, node.axis(value.rank, -1), "it normalises")
    return [value.moved(value.axis, value.shape)]


@rule("MeanVarianceNormalization:13", note="`axes` leave the items out, which the default does not")
def mean_variance(node: Node) -> list[Value]:
    """By default over the axes 0, 2 and 3."""
    value = node.need(0)
    for axis in node.attribute("axes", (0, 2, 3)):
        along(value, place(int(axis), value.rank), "it normalises")
    return [value.moved(value.axis, value.shape)]
