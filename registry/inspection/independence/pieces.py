"""Operators that take parts, or put parts together: gather, slice, concat, split, pad, top-k, one-hot."""

from __future__ import annotations

from registry.inspection.independence.nodes import (
    ONE,
    Node,
    Shape,
    Size,
    Value,
    along,
    certain,
    constant,
    fresh,
    place,
    refuse,
    refuse_if,
    rule,
)

_END = (1 << 31) - 1
"""Exporters write this or more for "to the end"."""


@rule("Gather:13", note="rows of a table by the items' indices, or parts of each item along another axis", shapes=True)
def gather(node: Node) -> list[Value]:
    """data[:axis] + indices + data[axis+1:]."""
    data, indices = node.need(0), node.need(1)
    refuse_if(data.is_item and indices.is_item, "items are looked up in items")
    refuse_if(indices.holds_batch, "the number of items is used as an index")
    axis = node.axis(data.rank)
    along(data, axis, "it looks up")
    shape = (*data.sizes[:axis], *indices.sizes, *data.sizes[axis + 1 :])
    if indices.axis is not None:
        refuse_if(data.holds_batch, "items look up the number of items")
        return [Value(shape, axis + indices.axis)]
    if data.axis is not None:
        return [Value(shape, data.axis if data.axis < axis else data.axis - 1 + indices.rank)]
    return [constant(shape, _taken(data, indices))]


def _taken(data: Value, indices: Value) -> tuple[Size | None, ...] | None:
    elements, where = data.elements or (), indices.numbers
    if data.rank == 1 and where is not None and all(-len(elements) <= at < len(elements) for at in where):
        return tuple(elements[at] for at in where)
    refuse_if(data.holds_batch, "the number of items is used as data")
    return None


@rule("GatherElements:13", note="items by the same items, along another axis; or items by no others")
def gather_elements(node: Node) -> list[Value]:
    """Row by row."""
    data, indices = node.need(0), node.need(1)
    axis = node.axis(data.rank)
    along(data, axis, "it looks up")
    along(indices, axis, "it looks up")
    refuse_if(data.axis != indices.axis, "a constant has a part that belongs to a row of the run")
    refuse_if(
        data.axis is not None and data.sizes[data.axis] != indices.sizes[data.axis],
        "what goes in has different numbers of rows for an item",
    )
    return [Value(indices.sizes, indices.axis)]


@rule("GatherND:13", note="items by the same items over batch_dims, or a table by the items' indices")
def gather_nd(node: Node) -> list[Value]:
    """The last axis of the indices is a position."""
    data, indices = node.need(0), node.need(1)
    batch = int(node.attribute("batch_dims", 0))
    width = certain(indices.sizes[-1].number if indices.rank else None, "the width of its indices is not known")
    along(indices, indices.rank - 1, "it takes positions")
    refuse_if(
        data.is_item and not (indices.is_item and data.axis == indices.axis and (data.axis or 0) < batch),
        "it looks up along the axis of the items",
    )
    refuse_if(
        indices.is_item and not data.is_item and (indices.axis or 0) < batch,
        "a constant has a part that belongs to a row of the run",
    )
    refuse_if(
        data.is_item and data.sizes[data.axis or 0] != indices.sizes[indices.axis or 0],
        "what goes in has different numbers of rows for an item",
    )
    return [Value((*indices.sizes[:-1], *data.sizes[batch + width :]), indices.axis)]


@rule("ScatterElements:18", note="items into the same items, along another axis")
def scatter_elements(node: Node) -> list[Value]:
    """Row by row."""
    data, indices, updates = node.need(0), node.need(1), node.need(2)
    axis = node.axis(data.rank)
    for value in (data, indices, updates):
        along(value, axis, "it writes")
        refuse_if(
            value.axis != data.axis or (data.axis is not None and value.sizes[data.axis] != data.sizes[data.axis]),
            "what goes in does not hold the same items",
        )
    return [Value(data.sizes, data.axis)]


@rule("Concat:13", first=4, note="along another axis, of parts that all hold the items", shapes=True)
def concat(node: Node) -> list[Value]:
    """End to end along an axis."""
    values = [value for value in node.inputs if value is not None]

    axis = node.axis(values[0].rank)
    if not any(value.is_item for value in values):
        if values[0].rank == 1:
            return [_row(values)]
        refuse_if(any(value.holds_batch for value in values), "the number of items is used as data")
    refuse_if(len({value.axis for value in values}) != 1, "not all parts hold the items along the same axis")
    along(values[0], axis, "it puts parts together")
    first = values[0]
    refuse_if(
        first.axis is not None and len({value.sizes[first.axis] for value in values}) != 1,
        "what goes in has different numbers of rows for an item",
    )
    return [Value((*first.sizes[:axis], _sum([v.sizes[axis] for v in values]), *first.sizes[axis + 1 :]), first.axis)]


def _row(values: list[Value]) -> Value:
    """Vectors: of those that are shapes the elements are followed."""
    lengths = [value.sizes[0].number for value in values]
    if None in lengths:
        refuse_if(any(value.holds_batch for value in values), "the number of items is used as data")
        return constant((fresh(),))
    found: list[Size | None] = []
    for value, length in zip(values, lengths, strict=True):
        found += value.elements if value.elements is not None else [None] * (length or 0)
    return constant((Size(len(found)),), tuple(found))


def _sum(sizes: list[Size]) -> Size:
    numbers = [size.number for size in sizes]
    return fresh() if None in numbers else Size(sum(number for number in numbers if number is not None))


@rule("Split:18", first=2, note="along another axis", shapes=True)
def split(node: Node) -> list[Value]:
    """Parts along an axis."""
    value = node.need(0)
    axis = node.axis(value.rank)
    along(value, axis, "it splits")
    given = node.numbers(1) if node.opset >= 13 else node.attribute("split")
    whole = value.sizes[axis].number
    if given is None and whole is not None:
        part = -(-whole // node.outputs)
        given = [min(part, whole - part * at) for at in range(node.outputs)]
    sizes = [fresh() for _ in range(node.outputs)] if given is None else [Size(int(size)) for size in given]
    refuse_if(len(sizes) != node.outputs, "its parts do not fit")
    elements, at, parts = value.elements, 0, []
    for size in sizes:
        known = None
        if elements is not None and value.rank == 1 and size.number is not None:
            known, at = elements[at : at + size.number], at + size.number
        elif value.holds_batch:
            raise refuse("the number of items is used as data")
        parts.append(Value((*value.sizes[:axis], size, *value.sizes[axis + 1 :]), value.axis, known))
    return parts


@rule("Slice:13", note="along other axes; the axis of the items only whole", shapes=True)
def slice_(node: Node) -> list[Value]:
    """From start to end along some axes."""
    value = node.need(0)
    starts, ends, axes, steps = _bounds(node, value)
    sizes = list(value.sizes)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = start == 0 and step == 1 and end is not None and end >= _END
        refuse_if(axis == value.axis and not whole, "it cuts along the axis of the items")
        if not whole:
            sizes[axis] = _cut(sizes[axis], start, end, step)
    elements = None
    if value.elements is not None and value.rank == 1 and axes == [0] and None not in (starts[0], ends[0], steps[0]):
        first, last, step = (int(each[0] or 0) for each in (starts, ends, steps))
        elements = value.elements[first : _stop(last, step) : step or 1]
        sizes = [Size(len(elements))]
    elif not axes:
        elements = value.elements
    elif value.holds_batch:
        raise refuse("the number of items is used as data")
    return [Value(tuple(sizes), value.axis, elements)]


def _stop(end: int, step: int) -> int | None:
    return None if step < 0 and end < -_END else end


def _bounds(node: Node, value: Value) -> tuple[list[int | None], list[int | None], list[int], list[int | None]]:
    """Starts, ends, axes, steps; None: not known, the same alone and together."""
    if node.opset < 10:
        starts, ends = list(node.attribute("starts", ())), list(node.attribute("ends", ()))
        axes = list(node.attribute("axes", range(len(starts))))
        return starts, ends, [place(int(axis), value.rank) for axis in axes], [1] * len(starts)
    found: list[list[int | None]] = []
    length = None
    for index in (1, 2, 4):
        given = node.input(index)
        if given is None:
            found.append([1] * (length or 0))
            continue
        refuse_if(given.is_item or given.holds_batch, "its bounds depend on the items or on their number")
        length = certain(given.sizes[0].number if given.rank else 1, "its bounds are not known")
        elements = given.elements if given.elements is not None else (None,) * length
        found.append([None if element is None else element.number for element in elements])
    named = node.numbers(3)
    places = list(range(length or 0)) if named is None else named
    refuse_if(any(len(each) != len(places) for each in found), "its bounds do not fit")
    return found[0], found[1], [place(axis, value.rank) for axis in places], found[2]


def _cut(size: Size, start: int | None, end: int | None, step: int | None) -> Size:
    whole = size.number
    if whole is None or start is None or end is None or not step:
        return fresh()
    return Size(len(range(whole)[slice(start, _stop(end, step), step)]))


@rule("Pad:25", first=2, note="nothing is added along the axis of the items")
def pad(node: Node) -> list[Value]:
    """Adds at both ends of each axis."""
    value = node.only()
    pads = certain(node.attribute("pads") if node.opset < 11 else node.numbers(1), "its sizes are missing")
    given = node.numbers(3)
    axes = list(range(value.rank)) if given is None else [place(axis, value.rank) for axis in given]
    refuse_if(len(pads) != 2 * len(axes), "its sizes do not fit")
    sizes = list(value.sizes)
    for at, axis in enumerate(axes):
        more = int(pads[at]) + int(pads[at + len(axes)])
        if axis == value.axis:
            refuse_if(pads[at] or pads[at + len(axes)], "it adds along the axis of the items")
        elif more:
            number = sizes[axis].number
            sizes[axis] = fresh() if number is None else Size(number + more)
    return [Value(tuple(sizes), value.axis)]


@rule("TopK:24", note="along another axis")
def top_k(node: Node) -> list[Value]:
    """The largest along an axis, and where they stand in it."""
    value = node.only()
    axis = node.axis(value.rank, -1)
    along(value, axis, "it sorts")
    many = [int(node.attribute("k"))] if node.opset < 10 else node.need(1).numbers
    size = Size(many[0]) if many else fresh()
    return [Value((*value.sizes[:axis], size, *value.sizes[axis + 1 :]), value.axis)] * 2


@rule("OneHot:28", note="depth and values are constants")
def one_hot(node: Node) -> list[Value]:
    """A new axis."""
    value = node.only()
    axis = node.axis(value.rank + 1, -1)
    depth = node.need(1).numbers
    sizes = (*value.sizes[:axis], Size(depth[0]) if depth else fresh(), *value.sizes[axis:])
    return [Value(sizes, None if value.axis is None else value.axis + (axis <= value.axis))]


@rule("Trilu:14", note="the items lie along neither of the last two axes")
def trilu(node: Node) -> list[Value]:
    """A triangle of each matrix."""
    value = node.only()
    along(value, value.rank - 1, "it takes a triangle")
    along(value, value.rank - 2, "it takes a triangle")
    return [value.moved(value.axis, value.shape)]


@rule("CumSum:14", "CumProd:26", note="along another axis")
def cumulate(node: Node) -> list[Value]:
    """Adds up along an axis."""
    value = node.only()
    if value.is_item:
        axis = certain(node.numbers(1), "its axis is missing")
        along(value, place(axis[0], value.rank), "it adds up")
    return [value.moved(value.axis, value.shape)]


@rule("Range:27", note="of constants only; never up to the batch size")
def range_(node: Node) -> list[Value]:
    """Numbers in a row: another for each row of the run."""
    node.rest_constant()
    numbers = [value.numbers for value in node.inputs if value is not None]
    if len(numbers) == 3 and all(number is not None for number in numbers):
        start, limit, step = (number[0] for number in numbers if number)
        row = range(start, limit, step) if step else range(0)
        if len(row) <= 1024:
            return [constant((Size(len(row)),), tuple(Size(each) for each in row))]
    return [constant((fresh(),))]


@rule("ReverseSequence:28", note="over another axis, with a length for each item")
def reverse_sequence(node: Node) -> list[Value]:
    """The first elements of each row, backwards."""
    value, lengths = node.need(0), node.need(1)
    batch, time = int(node.attribute("batch_axis", 1)), int(node.attribute("time_axis", 0))
    refuse_if(
        value.is_item and (value.axis != batch or not lengths.is_item or batch == time),
        "it turns rows of the run around, or has no length for each item",
    )
    refuse_if(
        value.is_item != lengths.is_item or (value.is_item and lengths.sizes[0] != value.sizes[batch]),
        "what goes in does not hold the same items",
    )
    return [value.moved(value.axis, value.shape)]


def without(shape: Shape, axes: list[int], *, keep: bool) -> Shape:
    """Sizes after a reduction."""
    return tuple(ONE if at in axes else size for at, size in enumerate(shape) if keep or at not in axes)
