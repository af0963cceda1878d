"""LSTM, GRU and RNN: time and items are different axes."""

from __future__ import annotations

from registry.inspection.independence.nodes import Node, rule
from registry.inspection.independence.sizes import Size
from registry.inspection.independence.values import Value, fresh, refuse


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
    if value.rank != 3:
        raise refuse("its input has not three dimensions")
    if value.is_item:
        if value.axis != (0 if first else 1):
            raise refuse("the items lie along its axis of time")
        rows = value.sizes[value.axis]
        if lengths is not None and (lengths.axis != 0 or lengths.sizes != (rows,)):
            raise refuse("its lengths are not one for each item")
        at = 0 if first else 1
        for state in states:
            if state is not None and (state.axis != at or state.sizes[at] != rows):
                raise refuse("its first state is not one for each item")
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
