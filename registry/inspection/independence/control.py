"""Constants, branches, loops, and recurrent layers, whose time and items are different axes."""

from __future__ import annotations

from typing import Any

from registry.inspection.independence.nodes import (
    Node,
    Size,
    Value,
    constant,
    fresh,
    place,
    refuse,
    refuse_if,
    rule,
    value_of,
)


@rule(
    "LSTM:22",
    "GRU:22",
    "RNN:22",
    first=7,
    note="the items lie along the batch axis of `layout`, in states and lengths too",
)
def recurrent(node: Node) -> list[Value]:
    """X, W, R, B, lengths, first states, (peepholes)."""
    value, lengths, states = node.need(0), node.input(4), [node.input(5)]
    if node.op == "LSTM":
        states.append(node.input(6))
    node.rest_constant(0, 4, 5, *([6] if node.op == "LSTM" else []))
    first = bool(node.attribute("layout", 0))
    refuse_if(value.rank != 3, "its input has not three dimensions")
    if value.is_item:
        at = 0 if first else 1
        refuse_if(value.axis != at, "the items lie along its axis of time")
        rows = value.sizes[at]
        refuse_if(
            lengths is not None and (lengths.axis != 0 or lengths.sizes != (rows,)),
            "its lengths are not one for each item",
        )
        for state in states:
            refuse_if(
                state is not None and (state.axis != at or state.sizes[at] != rows),
                "its first state is not one for each item",
            )
    elif any(each is not None and each.is_item for each in (lengths, *states)):
        raise refuse("only its state or its lengths hold items")
    ways = Size(2 if str(node.attribute("direction", "forward")) == "bidirectional" else 1)
    hidden = Size(int(node.attribute("hidden_size"))) if node.attribute("hidden_size") else fresh()
    if first:
        rows, time = value.sizes[0], value.sizes[1]
        every, last = Value((rows, time, ways, hidden), value.axis), Value((rows, ways, hidden), value.axis)
    else:
        time, rows = value.sizes[0], value.sizes[1]
        axis = None if value.axis is None else 2
        every, last = Value((time, ways, rows, hidden), axis), Value((ways, rows, hidden), value.axis)
    return [every, *[last] * (node.outputs - 1)][: node.outputs]


NO_FUNCTIONS = frozenset({"If", "Loop", "Scan", "Dropout"})
"""What they give, or what goes on inside them, may be random, although nothing but constants goes in."""


@rule("Constant:25", note="always")
def constant_(node: Node) -> list[Value]:
    """A tensor in the file."""
    tensor, number = node.attribute("value"), node.attribute("value_int")
    if tensor is not None:
        return [value_of(tensor)]
    if number is not None:
        return [constant((), (Size(int(number)),))]
    numbers = node.attribute("value_ints")
    if numbers is not None:
        return [constant((Size(len(numbers)),), tuple(Size(int(each)) for each in numbers))]
    if node.attribute("value_float") is not None:
        return [Value((), floats=(float(node.attribute("value_float")),))]
    floats = node.attribute("value_floats")
    if floats is not None:
        return [Value((Size(len(floats)),), floats=tuple(float(each) for each in floats[:64]))]
    sparse, strings = node.attribute("sparse_value"), node.attribute("value_strings")
    if sparse is not None:
        return [constant(tuple(Size(int(dim)) for dim in sparse.dims))]
    return [constant(() if strings is None else (Size(len(strings)),))]


@rule("If:25", note="the condition is no item, and every branch that may be taken is followed")
def if_(node: Node) -> list[Value]:
    """The same branch alone and together."""
    condition = node.need(0)
    refuse_if(condition.is_item, "its condition depends on the items")
    known = condition.numbers
    names = ("then_branch", "else_branch")
    taken = names if known is None or len(known) != 1 else (names[0] if known[0] else names[1],)
    branches = [node.graph(node.attribute(name), ()) for name in taken]
    refuse_if(len({len(branch) for branch in branches}) != 1, "its branches do not fit")
    return [_either(list(values)) for values in zip(*branches, strict=True)]


def _either(values: list[Value]) -> Value:
    first, last = values[0], values[-1]
    if first == last:
        return first
    refuse_if(
        first.axis != last.axis or first.holds_batch or last.holds_batch,
        "its branches hold the items along different axes",
    )
    if first.shape is None or last.shape is None or first.rank != last.rank:
        refuse_if(first.is_item, "its branches give different shapes")
        return constant()
    refuse_if(
        first.axis is not None and first.sizes[first.axis] != last.sizes[first.axis],
        "its branches give different numbers of rows for an item",
    )
    sizes = tuple(a if a == b else fresh() for a, b in zip(first.sizes, last.sizes, strict=True))
    return Value(sizes, first.axis)


@rule("Loop:25", note="trip count and condition are no items, and what is carried keeps its form")
def loop(node: Node) -> list[Value]:
    """The same number of times alone and together."""
    for at in (0, 1):
        value = node.input(at)
        refuse_if(value is not None and value.is_item, "how often it runs depends on the items")
    carried = [node.need(at) for at in range(2, len(node.inputs))]
    start = [constant(()), constant(())]
    after, rest = _repeated(node, node.attribute("body"), carried, start, [], skip=1)
    return [*after, *(_stacked(value, 0) for value in rest)]


@rule("Scan:25", first=9, note="over another axis, and what is carried keeps its form")
def scan(node: Node) -> list[Value]:
    """Once for each place along an axis."""
    count = int(node.attribute("num_scan_inputs", 0))
    states = [node.need(at) for at in range(len(node.inputs) - count)]
    axes = node.attribute("scan_input_axes") or [0] * count
    parts = []
    for at, axis in enumerate(axes):
        value = node.need(len(states) + at)
        where = place(int(axis), value.rank)
        refuse_if(value.axis == where, "it goes along the axis of the items")
        moved = None if value.axis is None else value.axis - (where < value.axis)
        parts.append(Value((*value.sizes[:where], *value.sizes[where + 1 :]), moved))
    after, rest = _repeated(node, node.attribute("body"), states, [], parts, skip=0)
    out = node.attribute("scan_output_axes") or [0] * len(rest)
    return [*after, *(_stacked(value, int(axis)) for value, axis in zip(rest, out, strict=True))]


def _repeated(
    node: Node, body: Any, carried: list[Value], before: list[Value], parts: list[Value], *, skip: int
) -> tuple[list[Value], list[Value]]:
    """What is carried, and what one turn gives besides. `skip`: outputs of the body before what is carried."""
    # A carried constant is another one in the next turn.
    values = [Value(value.shape, value.axis) for value in carried]
    for _ in range(2):
        made = node.graph(body, (*before, *values, *parts))
        condition, after, rest = made[:skip], made[skip : skip + len(values)], made[skip + len(values) :]
        refuse_if(
            any(value.is_item or value.holds_batch for value in condition), "how often it runs depends on the items"
        )
        refuse_if(
            len(after) != len(values) or any(value.holds_batch for value in (*after, *rest)),
            "the number of items is used as data",
        )
        refuse_if(
            any(one.axis != other.axis for one, other in zip(values, after, strict=True)),
            "what it carries holds the items along different axes",
        )
        changed = [at for at, (one, other) in enumerate(zip(values, after, strict=True)) if one.shape != other.shape]
        if not changed:
            return values, rest
        refuse_if(any(values[at].is_item for at in changed), "what it carries changes its shape")
        values = [constant() if at in changed else value for at, value in enumerate(values)]
    raise refuse("what it carries changes its shape")


def _stacked(value: Value, axis: int) -> Value:
    """One turn after the other along a new axis."""
    if value.shape is None:
        return constant()
    where = place(axis, value.rank + 1)
    sizes = (*value.sizes[:where], fresh(), *value.sizes[where:])
    return Value(sizes, None if value.axis is None else value.axis + (where <= value.axis))
