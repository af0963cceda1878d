"""Operators that work element by element: with broadcasting, or to eight bits and back by constant scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from registry.inspection.independence.nodes import (
    ML,
    ONE,
    Node,
    Shape,
    Size,
    Value,
    along,
    certain,
    constant,
    fresh,
    refuse,
    refuse_if,
    rule,
)


@rule("QuantizeLinear:28", "DequantizeLinear:28", note="one scale for all, or one for each place along another axis")
def quantize(node: Node) -> list[Value]:
    """Scale and zero point are constants."""
    value, scale = node.need(0), node.need(1)
    node.rest_constant(0)
    refuse_if(node.attribute("block_size", 0), "it has scales by blocks")
    if value.is_item and (scale.rank > 1 or any(size != ONE for size in scale.sizes)):
        refuse_if(scale.rank != 1, "its scale has more than one dimension")
        along(value, node.axis(value.rank, 1), "it has one scale for each row")
    return [value.moved(value.axis, value.shape)]


@rule(
    *("DynamicQuantizeLinear:11", "NonZero:13", "EyeLike:22", "ScatterND:18", "Compress:28", "Det:22"),
    note="of constants only",
)
def constants_only(node: Node) -> list[Value]:
    """Over items it would take them together, or count over the run."""
    node.rest_constant()
    raise refuse("its result is not worked out")


_UNARY = (
    "Abs:13 Acos:22 Acosh:22 Asin:22 Asinh:22 Atan:22 Atanh:22 BitwiseNot:18 Ceil:13 Celu:28 Cos:22 Cosh:22 Elu:22"
    " Erf:13 Exp:13 Floor:13 Gelu:20 HardSigmoid:22 HardSwish:22 IsInf:20 IsNaN:20 LeakyRelu:16 Log:13 Mish:22"
    " Neg:13 Reciprocal:13 Relu:14 Round:22 Selu:22 Shrink:9 Sigmoid:13 Sign:13 Sin:22 Sinh:22 Softplus:22"
    " Softsign:22 Sqrt:13 Swish:24 Tan:22 Tanh:13 ThresholdedRelu:22 RegexFullMatch:20"
)


@rule(_UNARY, note="always: element by element")
@rule("Binarizer:1", "LabelEncoder:4", domain=ML, note="always: element by element")
def unary(node: Node) -> list[Value]:
    """One tensor in, one of the same shape out."""
    value = node.need(0)
    return [value.moved(value.axis, value.shape)]


@rule("Identity:25", "Not:1", first=1, note="always", shapes=True)
def same(node: Node) -> list[Value]:
    """As it is, or negated."""
    value = node.need(0)
    if node.op == "Not":
        known = value.elements and tuple(
            None if e is None or e.number is None else Size(int(not e.number)) for e in value.elements
        )
        return [constant(value.shape, known or None)] if not value.is_item else [value]
    return [value]


@rule("Cast:28", note="not to UINT32; the batch size stays a number only as an integer", shapes=True)
@rule("CastLike:25", note="of constants only: it may be to UINT32", shapes=True)
def cast(node: Node) -> list[Value]:
    """Another type. Of a signed integer of 32 bits or more the elements are still known, where they fit 32 bits."""
    value = node.need(0)
    to = node.attribute("to") if node.op == "Cast" else None
    refuse_if(
        value.is_item and (node.op == "CastLike" or to in (12, "UINT32")),
        "what does not fit an UINT32 becomes another number at another place of a run",
    )
    if to in (7, "INT64") or (to in (6, "INT32") and all(map(_in_range, value.elements or ()))):
        return [replace(value, floats=None)]
    refuse_if(value.holds_batch, "the number of items is used as data")
    return [value.moved(value.axis, value.shape)]


_LARGEST = (1 << 31) - 1


def _in_range(size: Size | None) -> Size | None:
    """What computes the same in 32 bits as in any more; None otherwise: it may overflow. Sizes of a tensor do not."""
    if size is None or abs(size.factor) <= _LARGEST:
        return size
    return None


@rule("Clip:13", note="the bounds are constants of one element")
def clip(node: Node) -> list[Value]:
    """Bounds are scalars."""
    node.rest_constant(0)
    return unary(node)


@rule("Dropout:22", note="not in training mode", first=6)
def dropout(node: Node) -> list[Value]:
    """Nothing at all, when a model is used."""
    value = node.only()
    refuse_if(node.opset < 7 and not node.attribute("is_test", 0), "it is in training mode")
    training = node.input(2)
    refuse_if(training is not None and training.numbers != [0], "it may be in training mode")
    return [value.moved(value.axis, value.shape)] * 2


_BINARY = (
    "Add:14 And:7 BitShift:28 BitwiseAnd:18 BitwiseOr:18 BitwiseXor:18 Div:14 Equal:19 Greater:13 GreaterOrEqual:16"
    " Less:13 LessOrEqual:16 Max:13 Mean:13 Min:13 Mod:28 Mul:14 Or:7 PRelu:16 Pow:15 StringConcat:20 Sub:14 Sum:13"
    " Where:16 Xor:7"
)


@rule(_BINARY, note="no constant has several rows along the items", shapes=True)
def broadcast(node: Node) -> list[Value]:
    """Any number of tensors, aligned at their last dimensions."""
    values = [value for value in node.inputs if value is not None]
    refuse_if(not values, "nothing goes in")
    refuse_if(
        node.opset < 7 and node.attribute("axis") is not None,
        "it broadcasts along an axis, in the way of an opset before 7",
    )
    refuse_if(node.opset < 7 and node.op == "PRelu", "its slope goes by channels, in the way of an opset before 7")
    refuse_if(
        node.op == "PRelu" and values[-1].is_item and (not values[0].is_item or values[-1].rank > values[0].rank),
        "its slope does not broadcast to what it is applied to",
    )
    if not any(value.is_item for value in values):
        shape = broadcast_shape([value.shape for value in values])
        return [constant(shape, _elements(node, values, shape))]
    refuse_if(any(value.holds_batch for value in values), "the number of items is used as data")
    axis, shape = joined(values)
    return [Value(shape, axis)]


def joined(values: Sequence[Value]) -> tuple[int, Shape]:
    """Axis and shape of what comes out. Raises NotIndependentError."""
    rank = max(value.rank for value in values)
    axes = {value.axis + rank - value.rank for value in values if value.axis is not None}
    refuse_if(len(axes) != 1, "the items lie along different axes of what goes in")
    axis = axes.pop()
    sizes = {value.sizes[value.axis] for value in values if value.axis is not None}
    refuse_if(len(sizes) != 1, "what goes in has different numbers of rows for an item")
    for value in values:
        at = axis - (rank - value.rank)
        if not value.is_item and at >= 0 and value.sizes[at] != ONE:
            raise refuse(f"a constant has {value.sizes[at]} rows along the axis of the items")
    shape = broadcast_shape([value.sizes for value in values])
    return axis, certain(shape, "the shape of what goes in cannot be followed")


def broadcast_shape(shapes: Sequence[Shape | None]) -> Shape | None:
    """What NumPy's broadcasting makes of them; a size that is not known for sure is a fresh one."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    rank = max(map(len, known))
    found: list[Size] = []
    for at in range(rank):
        column = {shape[at - rank + len(shape)] for shape in known if at - rank + len(shape) >= 0} - {ONE}
        numbers = {size for size in column if size.number is not None}
        if not column:
            found.append(ONE)
        elif len(column) == 1:
            found.append(column.pop())
        elif len(numbers) == 1:
            found.append(numbers.pop())  # a symbol beside a number can only be that number or 1
        elif any(size.holds_batch for size in column):
            raise refuse("sizes that hold the number of items are broadcast against others")
        else:
            found.append(fresh())
    return tuple(found)


def _elements(node: Node, values: Sequence[Value], shape: Shape | None) -> tuple[Size | None, ...] | None:
    """What is known of small integers. Raises NotIndependentError where the number of items would be lost sight of."""
    holds = any(value.holds_batch for value in values)
    length = None
    if shape is not None and all(size.number is not None for size in shape) and len(shape) <= 1:
        length = shape[0].number if shape else 1
    columns = [value.elements for value in values]
    if length is None or any(column is None or len(column) not in (1, length) for column in columns):
        refuse_if(holds, "the number of items is used as data")
        return None
    rows = [[column[0] if len(column) == 1 else column[at] for column in columns if column] for at in range(length)]
    found = tuple(_in_range(_apply(node.op, row)) for row in rows)
    for row, result in zip(rows, found, strict=True):
        held = any(each is not None and each.holds_batch for each in row)
        refuse_if(result is None and held, "the number of items is used as data")
    return found


def _apply(op: str, row: Sequence[Size | None]) -> Size | None:
    """One element; None: it cannot be said."""
    if op == "Where":
        return _chosen(*row)
    if len(row) == 1:
        return row[0]
    left, right = row if len(row) == 2 else (None, None)
    if left is None or right is None:
        return None
    if op == "Mul":
        return left.times(right)
    if op == "Div":
        return _divided(left, right)
    if op == "Equal":
        return _equal(left, right)
    if op in ("Add", "Sub") and 0 in (right.number, left.number if op == "Add" else 1):
        return left if right.number == 0 else right
    a, b = left.number, right.number
    return None if a is None or b is None or op not in _SIMPLE else Size(_SIMPLE[op](a, b))


_SIMPLE: Mapping[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Min": min,
    "Max": max,
    "Less": lambda a, b: int(a < b),
    "Greater": lambda a, b: int(a > b),
    "LessOrEqual": lambda a, b: int(a <= b),
    "GreaterOrEqual": lambda a, b: int(a >= b),
    "And": lambda a, b: int(bool(a and b)),
    "Or": lambda a, b: int(bool(a or b)),
}


def _chosen(condition: Size | None, one: Size | None, other: Size | None) -> Size | None:
    if condition is not None and condition.number is not None:
        return one if condition.number else other
    return one if one == other else None


def _divided(left: Size, right: Size) -> Size | None:
    exact, a, b = left.over(right), left.number, right.number
    if exact is not None or a is None or not b:
        return exact
    return Size(-(abs(a) // abs(b)) if (a < 0) != (b < 0) else a // b)  # ONNX cuts towards zero


def _equal(left: Size, right: Size) -> Size | None:
    if left == right:
        return Size(1)
    if left.number is not None and right.number is not None:
        return Size(0)
    # A symbol is never negative, so a negative number is no size. Two products of symbols may both be 0.
    if left.number is None and right.number is None:
        return None
    return Size(0) if left.factor * right.factor < 0 else None
