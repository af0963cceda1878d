"""Operators that give the same elements another form: reshape, transpose, flatten, expand, tile."""

from __future__ import annotations

from registry.inspection.independence.elementwise import broadcast_shape
from registry.inspection.independence.nodes import (
    ONE,
    Node,
    Shape,
    Size,
    Value,
    certain,
    constant,
    elements_of,
    fresh,
    place,
    product,
    refuse,
    refuse_if,
    rule,
)


@rule("Shape:25", note="always: the sizes are followed as numbers", shapes=True)
def shape(node: Node) -> list[Value]:
    """The sizes, some of which may hold the number of items."""
    sizes = node.need(0).sizes
    start, end = node.attribute("start", 0), node.attribute("end", len(sizes))
    found = sizes[slice(*slice(start, end).indices(len(sizes)))]
    return [constant((Size(len(found)),), found)]


@rule("Size:25", note="its use as data is refused", shapes=True)
def size(node: Node) -> list[Value]:
    """How many elements."""
    return [constant((), (product(node.need(0).sizes),))]


@rule("Reshape:25", note="the target keeps the items of a run apart, in their order", shapes=True)
def reshape(node: Node) -> list[Value]:
    """Row-major: what stands before the items must stay before them."""
    value, given = node.need(0), node.input(1)
    if node.opset < 5:
        wanted: tuple[Size | None, ...] = tuple(Size(int(dim)) for dim in node.attribute("shape", ()))
    elif given is None or given.is_item or given.elements is None:
        raise refuse("its target shape is not known")
    else:
        wanted = given.elements
    if value.shape is None and not value.is_item and not value.holds_batch:
        known = (size is not None and size.factor > 0 and not size.holds_batch for size in wanted)
        return [constant(tuple(size if sure and size else fresh() for size, sure in zip(wanted, known, strict=True)))]
    target = _resolved(value.sizes, wanted, zero_copies=not node.attribute("allowzero", 0))
    return [reformed(value, target)]


def _resolved(sizes: Shape, wanted: tuple[Size | None, ...], *, zero_copies: bool) -> Shape:
    found: list[Size | None] = []
    for at, given in enumerate(wanted):
        size = certain(given, "a size of its target is not known")
        if size.number == 0 and zero_copies:
            refuse_if(at >= len(sizes), "it copies a size that is not there")
            found.append(sizes[at])
        elif size.number == -1:
            found.append(None)
        elif size.factor <= 0:
            raise refuse("a size of its target is 0 or negative")
        else:
            found.append(size)
    return _filled(sizes, found)


def _filled(sizes: Shape, found: list[Size | None]) -> Shape:
    """The target with its open size, if there is one."""
    refuse_if(found.count(None) > 1, "two sizes of its target are left open")
    total = product(sizes)
    rest = product(tuple(size for size in found if size is not None))
    if None in found:
        open_size = certain(total.over(rest), f"{total} elements are not a known multiple of {rest}")
        found[found.index(None)] = open_size
    elif total != rest:
        refuse_if(
            total.symbols.count("N") != rest.symbols.count("N"),
            f"its target of {rest} elements does not follow the {total} that go in",
        )
        refuse_if(total.number is not None and rest.number is not None, f"{total} elements do not make {rest}")
    return tuple(size for size in found if size is not None)


def reformed(value: Value, target: Shape) -> Value:
    """The same elements in row-major order in another shape. Raises NotIndependentError."""
    if value.axis is None:
        return constant(target, value.elements)
    places = [at for at, size in enumerate(target) if size.holds_batch]
    refuse_if(
        len(places) != 1 or not target[places[0]].is_batch_once, "its target does not keep the items along one axis"
    )
    before, after = product(value.sizes[: value.axis]), product(target[: places[0]])
    behind = product(value.sizes[value.axis :]), product(target[places[0] :])
    refuse_if(before != after or behind[0] != behind[1], "its target mixes the items with what stands before them")
    return Value(target, places[0])


@rule("Flatten:25", note="the items stay along one axis")
def flatten(node: Node) -> list[Value]:
    """To two dimensions."""
    value = node.need(0)
    axis = int(node.attribute("axis", 1))
    axis = axis + value.rank if axis < 0 else axis
    return [reformed(value, (product(value.sizes[:axis]), product(value.sizes[axis:])))]


@rule("Transpose:25", note="always: the axis of the items moves")
def transpose(node: Node) -> list[Value]:
    """Axes in another order."""
    value = node.need(0)
    order = [int(each) for each in node.attribute("perm", range(value.rank)[::-1])]
    refuse_if(sorted(order) != list(range(value.rank)), "its order of axes does not fit")
    axis = None if value.axis is None else order.index(value.axis)
    return [value.moved(axis, tuple(value.sizes[each] for each in order))]


@rule("Squeeze:25", note="axes are given and the items do not lie along one of them", shapes=True)
def squeeze(node: Node) -> list[Value]:
    """Without axes a run of one item would lose the axis of the items."""
    value = node.need(0)
    given = node.numbers(1) if node.opset >= 13 else node.attribute("axes")
    if given is None:
        refuse_if(
            value.is_item or any(size.number is None for size in value.sizes), "it takes away whatever axis has one row"
        )
        given = [at for at, size in enumerate(value.sizes) if size == ONE]
    axes = [place(int(axis), value.rank) for axis in given]
    refuse_if(value.axis in axes, "it takes away the axis of the items")
    kept = [at for at in range(value.rank) if at not in axes]
    axis = None if value.axis is None else kept.index(value.axis)
    return [Value(tuple(value.sizes[at] for at in kept), axis, value.elements)]


@rule("Unsqueeze:25", note="axes are known", shapes=True)
def unsqueeze(node: Node) -> list[Value]:
    """New axes of one row."""
    value = node.need(0)
    given = certain(node.numbers(1) if node.opset >= 13 else node.attribute("axes"), "its axes are missing")
    rank = value.rank + len(given)
    axes = [place(int(axis), rank) for axis in given]
    old = iter(enumerate(value.sizes))
    sizes, axis = [], None
    for at in range(rank):
        if at in axes:
            sizes.append(ONE)
            continue
        before, size = next(old)
        sizes.append(size)
        axis = at if before == value.axis else axis
    return [Value(tuple(sizes), axis, value.elements)]


@rule("Expand:13", note="the items keep their rows, or a constant of one row is repeated for each item", shapes=True)
def expand(node: Node) -> list[Value]:
    """Broadcast to a shape."""
    value, given = node.need(0), node.need(1)
    refuse_if(given.is_item, "its shape depends on the items")
    refuse_if(value.holds_batch, "the number of items is used as data")
    elements = certain(given.elements, "its shape is not known")
    target = tuple(fresh() if size is None else size for size in elements)
    refuse_if(any(size.factor <= 0 for size in target), "a size of its shape is 0 or negative")
    rank = max(value.rank, len(target))
    sizes = (*[ONE] * (rank - value.rank), *value.sizes)
    target = (*[ONE] * (rank - len(target)), *target)
    if value.axis is not None:
        axis = value.axis + rank - value.rank
        refuse_if(
            target[axis] not in (ONE, sizes[axis]) or any(s.holds_batch for s in target[:axis] + target[axis + 1 :]),
            "its shape gives the items another number of rows",
        )
        shape = broadcast_shape([sizes, target])
        return [Value(shape, axis)]
    return [_repeated(sizes, target, broadcast=True)]


def _repeated(sizes: Shape, target: Shape, *, broadcast: bool) -> Value:
    """A constant, broadcast to `target`; where that holds N, one row for each item."""
    places = [at for at, size in enumerate(target) if size.holds_batch]
    if not places:
        return constant(broadcast_shape([sizes, target]) if broadcast else target)
    (axis, *more) = places
    refuse_if(
        more or not target[axis].is_batch_once or sizes[axis] != ONE,
        "it repeats a constant along the items in a way that cannot be followed",
    )
    others: Shape | None = (*target[:axis], *target[axis + 1 :])
    if broadcast:
        others = broadcast_shape([(*sizes[:axis], *sizes[axis + 1 :]), others or ()])
    others = certain(others, "the shape of what goes in cannot be followed")
    return Value((*others[:axis], target[axis], *others[axis:]), axis)


@rule("ConstantOfShape:25", note="the batch size stands once in the shape", shapes=True)
def constant_of_shape(node: Node) -> list[Value]:
    """The same element everywhere."""
    given = node.need(0)
    refuse_if(given.is_item, "its shape depends on the items")
    if given.elements is None:
        length = given.shape[0].number if given.shape and len(given.shape) == 1 else None
        return [constant(None if length is None else tuple(fresh() for _ in range(length)))]
    target = tuple(fresh() if size is None else size for size in given.elements)
    refuse_if(any(size.factor < 0 for size in target), "a size of its shape is negative")
    made = _repeated((ONE,) * len(target), target, broadcast=False)
    fill = node.attribute("value")
    known = [size.number for size in target]
    if made.axis is None and len(known) <= 1 and None not in known:
        element = _fill(fill)
        count = known[0] if known else 1
        if element is not None and count is not None and count <= 64:
            return [constant(target, (Size(element),) * count)]
    return [made]


def _fill(tensor: object) -> int | None:
    found = elements_of(tensor) if tensor is not None else None
    return found[0].number if found else None


@rule(
    "Tile:13",
    first=6,
    note="the axis of the items is repeated once, or a constant of one row once for each item",
    shapes=True,
)
def tile(node: Node) -> list[Value]:
    """Repeats along each axis."""
    value, given = node.need(0), node.need(1)
    refuse_if(given.is_item, "its repeats depend on the items")
    refuse_if(value.holds_batch, "the number of items is used as data")
    elements = certain(given.elements, "its repeats are not known")
    refuse_if(len(elements) != value.rank, "its repeats do not fit")
    repeats = tuple(fresh() if size is None else size for size in elements)
    refuse_if(
        value.axis is not None and (repeats[value.axis] != ONE or any(size.holds_batch for size in repeats)),
        "it repeats along the axis of the items",
    )
    refuse_if(any(size.factor <= 0 for size in repeats), "a repeat is 0 or negative")
    target = tuple(size.times(repeat) for size, repeat in zip(value.sizes, repeats, strict=True))
    if value.axis is not None:
        return [Value(target, value.axis)]
    return [_repeated(value.sizes, target, broadcast=False)]
